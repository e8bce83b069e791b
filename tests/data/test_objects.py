"""Boxes as detectors read them: flat, in pixels of the view, by named rules, with numbers of classes."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from mmkit.data.boxes import boxes_in
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.images.variable_size import KeepShapeTrain
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.objects import Objects, classes_in
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.records import Record
from mmkit.data.targets import CaptionTokens, ClassLabels, Given, RawTargets
from mmkit.errors import UserError

NAMES = ("dog", "traffic light")


class Pictures:
    """Four pictures of unequal shape; the third has nothing in it."""

    object_names = NAMES

    def __init__(self, boxes=None):
        self.boxes = boxes or [
            [{"name": "dog", "box": [0, 0, 20, 30], "id": 7}, {"label": 1, "box": [10, 5, 40, 30], "crowd": 1}],
            [{"name": "Traffic_Light", "box": [1, 2, 3, 4], "area": 3, "ignore": True}],
            [],
            [{"name": "dog", "box": [0, 0, 10, 10]}] * 3,
        ]

    def __len__(self):
        return len(self.boxes)

    def __getitem__(self, i):
        size = (40, 30) if i % 2 == 0 else (20, 60)
        return Record(
            image=Image.new("RGB", size), captions=(), image_id=str(i), key=f"row {i}", targets={"boxes": self.boxes[i]}
        )


def squashed(size=(60, 80), **options):
    return TrainTransform(size=size, scale=(1, 1), **{"flip": 0.0, "randaugment": None, **options})


def batch_of(source=None, transform=None, rank=0, world=1, accumulation=1, workers=0, **options):
    source = source or Pictures()
    data = PairDataset(
        source=source, transform=transform or squashed(), tokenizer=None, max_tokens=0,
        targets=Objects(Given(source=source), **options),
    )  # fmt: skip
    plan = {"rank_batch": len(source) // world // accumulation, "accumulation": accumulation}
    sampler = StepSampler(len(source), steps=1, rank=rank, world=world, **plan)
    return list(make_loader(data, sampler, workers=workers))


def by_picture(batches):
    """{key: its boxes and labels}."""
    found = {}
    for batch in batches:
        rows = zip(*(batch.targets[name].tolist() for name in ("boxes", "labels", "box_of")), strict=True)
        rows = [(*box, label, of) for box, label, of in rows]
        found |= {key: [row[:-1] for row in rows if row[-1] == i] for i, key in enumerate(batch.keys)}
    return found


def test_boxes_are_flat_and_in_pixels_of_the_view():
    (batch,) = batch_of()
    found = batch.targets
    n = len(found["boxes"])
    assert n == 6
    assert {k: (v.shape, v.dtype) for k, v in found.items() if isinstance(v, torch.Tensor)} == {
        "boxes": ((n, 4), torch.float32),
        "labels": ((n,), torch.int64),
        "box_of": ((n,), torch.int64),
        "crowd": ((n,), torch.bool),
        "ignore": ((n,), torch.bool),
        "area": ((n,), torch.float32),
        "box_ids": ((n,), torch.int64),
        "sizes": ((4, 2), torch.int64),
        "back": ((4, 2, 3), torch.float32),
    }
    assert by_picture([batch]) == {
        "row 0": [(0, 0, 40, 60, 0), (20, 10, 80, 60, 1)], "row 1": [(4, 2, 12, 4, 1)], "row 2": [],
        "row 3": [(0, 0, 40, 10, 0)] * 3,
    }  # fmt: skip
    at = {key: i for i, key in enumerate(batch.keys)}
    assert found["box_of"].tolist() == sorted(found["box_of"].tolist())
    assert [found["box_counts"][at[f"row {i}"]] for i in range(4)] == [2, 1, 0, 3]
    mine = lambda name, row: found[name][found["box_of"] == at[row]].tolist()  # noqa: E731
    assert mine("crowd", "row 0") == [False, True]
    assert mine("box_ids", "row 0") == [7, -1]
    assert mine("ignore", "row 1") == [True]
    assert mine("ignore", "row 0") == [False, False]
    assert mine("area", "row 0") == [20 * 30 * 4, 30 * 25 * 4]
    assert mine("area", "row 1") == [3 * 4]
    assert found["back"][at["row 1"]].tolist() == [[0.25, 0, 0], [0, 1, 0]]
    assert found["sizes"].tolist() == [[60, 80]] * 4


def test_lists_of_tensors_go_to_the_device_too():
    (batch,) = batch_of()
    moved = replace(batch, targets={**batch.targets, "several": [torch.zeros(1), torch.ones(2)]}).to("meta")
    assert all(v.device.type == "meta" for v in moved.targets.values() if isinstance(v, torch.Tensor))
    assert [v.device.type for v in moved.targets["several"]] == ["meta", "meta"]
    assert moved.targets["box_counts"] == batch.targets["box_counts"]


@pytest.mark.parametrize("plan", [{"world": 2}, {"accumulation": 2}, {"workers": 1}])
def test_processes_and_micro_batches_see_the_same_boxes(plan):
    transform = TrainTransform(size=32)
    alone = by_picture(batch_of(transform=transform))
    ranks = range(plan.get("world", 1))
    assert by_picture([b for r in ranks for b in batch_of(transform=transform, rank=r, **plan)]) == alone


def test_unequal_pictures_share_a_canvas_and_boxes_stay_those_of_the_picture():
    (batch,) = batch_of(transform=KeepShapeTrain(size=32, multiple=16))
    assert batch.pixel_mask is not None
    sizes = {key: size for key, size in zip(batch.keys, batch.targets["sizes"].tolist(), strict=True)}
    assert sizes["row 0"] == [32, 32]
    assert sizes["row 1"] == [48, 16]
    for i, (height, width) in enumerate(batch.targets["sizes"].tolist()):
        assert batch.pixel_mask[i].sum() == height * width
        assert batch.pixel_mask[i, :height, :width].all()
    assert by_picture([batch])["row 0"][0] == (0, 0, 16, 32, 0)


def test_crops_cut_boxes_by_the_rule_and_count_what_goes():
    source = Pictures([[{"name": "dog", "box": [x, 12, x + 4, 18]} for x in range(0, 40, 4)]] * 4)
    crop = TrainTransform(size=32, scale=(0.5, 0.5), flip=0, randaugment=None)
    (clipped,), (inside,) = batch_of(source, crop), batch_of(source, crop, outside="drop")
    for batch in (clipped, inside):
        counts, gone = (torch.tensor(batch.targets[name]) for name in ("box_counts", "left_out"))
        assert (counts + gone == 10).all()
        assert (gone > 0).all()
        boxes = batch.targets["boxes"]
        assert boxes.min() >= 0
        assert boxes.max() <= 32
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert sum(inside.targets["box_counts"]) < sum(clipped.targets["box_counts"])
    area, boxes = clipped.targets["area"], clipped.targets["boxes"]
    assert torch.allclose(area, (boxes[:, 2:] - boxes[:, :2]).prod(1), rtol=1e-4)  # of what is seen, in the view


def test_crowds_may_be_left_out():
    (batch,) = batch_of(crowds=False)
    assert by_picture([batch])["row 0"] == [(0, 0, 40, 60, 0)]
    assert batch.targets["left_out"][batch.keys.index("row 0")] == 1
    assert not batch.targets["crowd"].any()


def test_classes_of_data_are_those_that_it_says_or_else_those_that_its_boxes_name():
    def named(*names):
        boxes = [{"name": name, "box": [0, 0, 9, 9]} for name in names]
        return Record(image=Image.new("RGB", (9, 9)), captions=(), image_id="0", key="0", targets={"boxes": boxes})

    class Says(list):
        object_names, object_ids = ["cup", "cat"], [3, 90]

    assert classes_in([named("dog", "cat"), named(), named("cat")], "x") == (("cat", "dog"), ())
    assert classes_in(Says([named("dog")]), "x") == (("cup", "cat"), (3, 90))
    bare = replace(named(), targets={"boxes": [[0, 0, 9, 9]]})
    for data in ([bare], [named("dog"), bare], [named()]):
        with pytest.raises(UserError, match=r"^x: its boxes have no names"):
            classes_in(data, "x")


def test_classes_are_the_sources_or_those_given():
    (batch,) = batch_of(classes=("cat", *reversed(NAMES)))
    assert [row[-1] for row in by_picture([batch])["row 0"]] == [2, 1]
    (batch,) = batch_of(classes=())
    assert batch.targets["labels"].tolist() == [0] * 6
    for classes, what in [(["dog"], "none of the 1: traffic light"), (["dog", "Dog"], "'dog' and 'Dog' are one name")]:
        with pytest.raises(UserError, match=what):
            batch_of(classes=classes)
    with pytest.raises(UserError, match="do not say: give classes="):
        Objects(Given())


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([{"name": "cow", "box": [0, 0, 1, 1]}], r"row 0: a box has the class 'cow', .* none of the 2: dog, traffic"),
        ([{"label": 2, "box": [0, 0, 1, 1]}], "row 0: a box has the class 2, and there are 2"),
        ([{"label": -1, "box": [0, 0, 1, 1]}], "row 0: a box has the class -1"),
        ([{"box": [0, 0, 1, 1]}], "row 0: a box has no class"),
        ([{"name": "dog", "box": [0, 0, 1]}], r"row 0: box .*\[0, 0, 1\].* not \(left, top, right, bottom\)"),
        ([{"name": "dog", "box": [0, 0, float("nan"), 1]}], "row 0: box .* must be finite"),
        ([{"name": "dog", "box": [0, 0, 1, 1], "area": "big"}], 'row 0: "area" of the boxes'),
        (None, 'row 0: no "boxes"'),
    ],
)
def test_what_is_wrong_names_the_record(boxes, message):
    source = Pictures([boxes])
    source.boxes = [boxes]
    with pytest.raises(UserError, match=message):
        batch_of(source)


def test_options_are_checked():
    for options in ({"outside": "cut"}, {"min_visible": 1.1}, {"min_size": -1}):
        with pytest.raises(UserError, match="Objects outside="):
            Objects(Given(), (), **options)


def test_boxes_are_read_in_every_form():
    plain = {"boxes": [[1, 2, 3, 4], [0, 0, 5, 5]], "labels": ["dog", 1], "iscrowd": [0, 1], "area": [3, 9.5]}
    found = boxes_in(plain)
    assert found.sides.tolist() == plain["boxes"]
    assert list(found.labels) == ["dog", 1]
    assert found.crowd.tolist() == [False, True]
    assert found.area.tolist() == [3, 9.5]
    assert found.ids.tolist() == [-1, -1]
    for boxes in (np.array(plain["boxes"]), torch.tensor(plain["boxes"])):
        assert boxes_in({"boxes": boxes}).sides.tolist() == plain["boxes"]
    whole = tv_tensors.BoundingBoxes([[1, 2, 2, 2.0]], format="XYWH", canvas_size=(9, 9))
    assert boxes_in({"boxes": whole}).sides.tolist() == [[1, 2, 3, 4]]
    assert boxes_in({"boxes": []}).sides.shape == boxes_in({"boxes": np.zeros((0, 4))}).sides.shape == (0, 4)
    assert boxes_in({"boxes": [[0, 0, 4, 5]]}).area.tolist() == [20]
    with pytest.raises(UserError, match='2 "boxes" and 1 "labels"'):
        boxes_in({**plain, "labels": ["dog"]})
    with pytest.raises(UserError, match="four numbers"):
        boxes_in({"boxes": [{"box": [0, 0, 1, 1]}, [0, 0, 1, 1]]})
    with pytest.raises(UserError, match='"boxes": 5: must be a list'):
        boxes_in({"boxes": 5})


def test_mirrored_classes_change_places_and_a_class_without_its_other_side_keeps_its_picture():
    sided = ("left shoe", "right shoe", "dog")
    source = Pictures([[{"name": "left shoe", "box": [0, 0, 10, 30]}]] * 8)
    source.object_names = sided
    (batch,) = batch_of(source, squashed(flip=1.0))
    assert by_picture([batch])["row 0"] == [(60, 0, 80, 60, 1)]
    (batch,) = batch_of(source, squashed(flip=0.0))
    assert by_picture([batch])["row 0"] == [(0, 0, 20, 60, 0)]
    source.object_names = sided[::2]
    (batch,) = batch_of(source, squashed(flip=1.0))
    assert by_picture([batch])["row 0"] == [(0, 0, 20, 60, 0)]
    source.boxes = [[{"name": "dog", "box": [0, 0, 10, 30]}]] * 8
    (batch,) = batch_of(source, squashed(flip=1.0))
    assert by_picture([batch])["row 0"] == [(60, 0, 80, 60, 1)]


def test_targets_that_do_not_read_the_view_get_nothing_that_lies_in_the_picture():
    source = Scenes(n=4, size=48)
    data = PairDataset(source=source, transform=TrainTransform(size=32), tokenizer=None, max_tokens=0)
    assert data[0, 0].targets == {"background": source[0].targets["background"]}
    assert "boxes" in source[0].targets
    for encoder in (RawTargets, ClassLabels, CaptionTokens):
        assert not hasattr(encoder, "reads_view")


class Own(TrainTransform):
    """Changes the call alone."""

    def __call__(self, image, caption, rng):
        return torch.zeros(3, 4, 4), caption


def test_a_transform_that_gives_no_view_is_refused():
    with pytest.raises(UserError, match=r"row \d: the boxes of this run need to know what its transform shows"):
        batch_of(transform=Own(size=4))


def test_the_draw_of_a_picture_is_the_same_with_boxes_and_without():
    transform = TrainTransform(size=32)
    with_boxes = batch_of(transform=transform)[0]
    data = PairDataset(source=Pictures(), transform=transform, tokenizer=None, max_tokens=0)
    without = next(iter(make_loader(data, StepSampler(4, rank_batch=4, steps=1))))
    assert torch.equal(with_boxes.pixels, without.pixels)
    assert Random(0).choice("abc") == "abc"[Random(0).choice(range(3))]  # how a caption's number is drawn


def test_a_name_says_more_than_a_number():
    """The number is of the source that wrote it; in another file it would be of another class."""
    found = boxes_in({"boxes": [{"name": "dog", "label": 1, "box": [0, 0, 1, 1]}, {"label": 1, "box": [0, 0, 1, 1]}]})
    assert list(found.labels) == ["dog", 1]
    assert Objects(Given(), ("cat", "cow", "dog")).numbers(found).tolist() == [2, 1]
