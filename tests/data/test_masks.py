"""Masks of objects: pixels as pycocotools has them, in the view that training sees, and what is refused by name."""

import json
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as official

from mmkit.data.images.transforms import EvalTransform, TrainTransform, view_of
from mmkit.data.masks import masks_in
from mmkit.data.objects import Objects
from mmkit.data.sources.open import open_source
from mmkit.data.targets import Given
from mmkit.errors import UserError

SIZE = (40, 30)
"""Width and height."""


def packed(pixels):
    found = official.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def runs(pixels):
    flat = np.concatenate([[False], pixels.T.flatten()])
    at = np.flatnonzero(np.diff(flat)).tolist()
    return {"size": list(pixels.shape), "counts": np.diff([0, *at, pixels.size]).tolist()}


def of(*said):
    return {"boxes": [{"name": "cup", "box": [0, 0, 9, 9], "segmentation": one} for one in said]}


def test_polygons_are_pixels_by_pycocotools_rule():
    rng = np.random.default_rng(0)
    given = [
        [(rng.random(2 * n) * np.tile(SIZE, n)).round(2).tolist() for n in counts] for counts in ((3,), (5, 4), (9,))
    ]
    given += [[[-10, 5, 75, 5, 75, 20.5, -10, 20.5]]]  # reaches out
    found = masks_in(of(*given), SIZE)
    for own, polygons in zip(found, given, strict=True):
        expected = official.decode(official.merge(official.frPyObjects(polygons, SIZE[1], SIZE[0])))
        assert own.sum()
        assert np.array_equal(own, expected)


@pytest.mark.parametrize("form", [packed, runs])
def test_runs_are_pixels_also_packed_ones(form):
    rng = np.random.default_rng(1)
    pixels = [rng.random(SIZE[::-1]) < share for share in (0.02, 0.5, 0.0, 1.0)]
    pixels += [np.zeros(SIZE[::-1], bool)]
    pixels[-1][4:29, 3:38] = True
    assert np.array_equal(masks_in(of(*map(form, pixels)), SIZE), pixels)


def test_arrays_beside_boxes_as_torchvision_has_them():
    pixels = np.arange(2 * 30 * 40).reshape(2, 30, 40) % 3 == 0
    boxes = {"boxes": torch.zeros(2, 4), "labels": [0, 0], "masks": torch.tensor(pixels)}
    assert np.array_equal(masks_in(boxes, SIZE), pixels)
    with pytest.raises(UserError, match=r"\"masks\" of \(2, 30, 40\): there are 1 boxes in a picture of 30 x 40"):
        masks_in({**boxes, "boxes": torch.zeros(1, 4)}, SIZE)
    assert masks_in({"boxes": []}, SIZE).shape == (0, 30, 40)


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ('has no "segmentation"', None),
        ("a polygon needs x and y of three points", [[1, 2, 3, 4]]),
        ("a polygon needs x and y of three points", [[1, 2, 3, 4, 5, 6, 7]]),
        ("a polygon needs x and y of three points", [[1, 2, 3, 4, 5, float("nan")]]),
        ("no list of polygons", [1, 2, 3, 4, 5, 6]),
        ("no list of polygons", []),
        ("no list of polygons", "mask.png"),
        ("far out of its picture of 40 x 30", [[1, 2, 3, 4, 5, 1e9]]),
        ("far out of its picture of 40 x 30", [[1, 2, 3, 62, 5, 6]]),
        ("runs over 1200 pixels, size .40, 30.: the picture is 30 x 40", {"size": [40, 30], "counts": [1200]}),
        ("runs over 1199 pixels", {"size": [30, 40], "counts": [1199]}),
        ("no list of whole numbers", {"size": [30, 40], "counts": [1210, -10]}),
        ("no list of whole numbers", {"size": [30, 40]}),
        ("no text of pycocotools", {"size": [30, 40], "counts": "é"}),
        ("no text of pycocotools", {"size": [30, 40], "counts": "PPP"}),
    ],
)  # fmt: skip
def test_what_is_no_mask_is_refused_by_its_place(said, given):
    with pytest.raises(UserError, match=rf"boxes\[1\] .*{said}"):
        masks_in(of([[0, 0, 9, 0, 9, 9]], given), SIZE)


def batch_of(view, targets, **more):
    encoder = Objects(Given(), classes=("cup",), masks=True, **more)
    return encoder.encode({**targets, "view": view}, Random(0)), encoder


def test_masks_follow_the_view_and_the_rule_of_their_boxes():
    boxes = [[4, 6, 20, 24], [30, 2, 39, 9]]
    polygons = [[[l, t, r, t, r, b, l, b]] for l, t, r, b in boxes]  # noqa: E741
    said = {
        "boxes": [{"name": "cup", "box": box, "segmentation": one} for box, one in zip(boxes, polygons, strict=True)]
    }
    moved = 0
    for seed in range(6):
        view = TrainTransform(size=(60, 80), randaugment=None, scale=(0.3, 0.6)).draw(SIZE, (), Random(seed))
        encoded, encoder = batch_of(view, said)
        found = encoder.collate([encoded])
        assert found["masks"].shape == (len(found["labels"]), 60, 80)
        assert found["masks"].dtype == torch.bool
        for mask, box in zip(found["masks"], found["boxes"], strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(np.array(around) - box.numpy()).max() <= 0.5 * 80 / (0.3 * 40) + 1
            moved += 1
    assert moved > 4


def test_views_of_unequal_size_share_a_canvas_and_without_masks_nothing_changes():
    small, large = (view_of(EvalTransform(size=size), SIZE) for size in ((30, 40), (60, 20)))
    said = of([[0, 0, 40, 0, 40, 30, 0, 30]])
    first, encoder = batch_of(small, said)
    second, _ = batch_of(large, said)
    found = encoder.collate([first, second])["masks"]
    assert found.shape == (2, 60, 40)
    assert [int(one.sum()) for one in found] == [30 * 40, 60 * 20]
    assert found[0, :30].all()
    assert found[1, :, :20].all()
    plain = Objects(Given(), classes=("cup",))
    assert "masks" not in plain.collate([plain.encode({**said, "view": small}, Random(0))])


def test_coco_keeps_outlines_where_they_are_asked_for(tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "1.png")
    outline = [[4, 6, 20, 6, 20, 24, 4, 24]]
    entry = {"id": 5, "image_id": 1, "category_id": 3, "bbox": [4, 6, 16, 18], "area": 288, "iscrowd": 0}
    (tmp_path / "instances.json").write_text(
        json.dumps({
            "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 30}],
            "categories": [{"id": 3, "name": "cup"}], "annotations": [{**entry, "segmentation": outline}],
        })
    )  # fmt: skip
    for name in (tmp_path / "instances.json", tmp_path):
        (box,) = open_source(name, ("boxes",), outlines=True)[0].targets["boxes"]
        assert box["segmentation"] == outline
        assert "segmentation" not in open_source(name, ("boxes",))[0].targets["boxes"][0]
    with pytest.raises(UserError, match="--outlines: has no meaning for openmoji"):
        open_source("openmoji", ("boxes",), outlines=True)
