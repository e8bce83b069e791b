"""One draw for everything: boxes, points and masks lie where their pixels come to, words stay true, frames alike."""

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxFormat

from mmkit.data.images import randaugment
from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.randaugment import RandAugment
from mmkit.data.images.transforms import Blank, BlankTrain, EvalTransform, TrainTransform, drawn, view_of
from mmkit.data.images.variable_size import KeepShape, KeepShapeTrain
from mmkit.data.images.view import inverse, kept
from mmkit.errors import UserError

SIZE = (80, 60)
NEAREST = F.InterpolationMode.NEAREST_EXACT
BOXES = torch.tensor([[3, 4, 31, 50], [0, 0, 80, 60.0], [10, 20, 10, 22]])


def lit(box, size=SIZE):
    """White in a box, black around."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = 255
    return Image.fromarray(image)


def seen_at(planes):
    """The box around what is more white than not, of (3, h, w) uint8."""
    white = (planes > 200).all(0)
    rows, columns = white.any(1).nonzero(), white.any(0).nonzero()
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def plain(**options):
    return TrainTransform(**{"size": (48, 64), "randaugment": None, **options})


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_points_and_masks_move_as_in_torchvision(flip):
    view = plain(flip=flip).draw(SIZE, ("",), Random(1))
    left, top, right, bottom = view.paint.args[0]
    assert 0 < left < right < 80
    assert 0 < top < bottom < 60
    assert (right - left) / (bottom - top) != 64 / 48
    part, xyxy = (top, left, bottom - top, right - left), BoundingBoxFormat.XYXY
    points, masks = torch.tensor([[3.5, 4.0], [70, 20.0]]), torch.rand(2, 60, 80) > 0.5
    boxes, _ = F.resized_crop_bounding_boxes(BOXES, xyxy, *part, size=[48, 64], clamping_mode=None)
    places, _ = F.resized_crop_keypoints(points, *part, size=[48, 64])
    cut = F.resize_image(F.crop_mask(masks, *part)[None].byte(), [48, 64], NEAREST)[0].bool()
    if flip:
        boxes, cut = F.horizontal_flip_bounding_boxes(boxes, xyxy, (48, 64)), cut.flip(-1)
        places = torch.stack([64 - places[:, 0], places[:, 1]], -1)
    assert view.boxes(BOXES) == pytest.approx(boxes.numpy(), abs=1e-4)
    assert view.points(points) == pytest.approx(places.numpy(), abs=1e-4)
    assert view.points(points[None]).shape == (1, 2, 2)
    assert torch.equal(torch.from_numpy(view.masks(masks)), cut)
    back = np.array(inverse(view.matrix)).reshape(2, 3)
    assert np.c_[view.points(points), [1, 1]] @ back.T == pytest.approx(points.numpy(), abs=1e-4)


def moving(monkeypatch, name, sign):
    """RandAugment that does one thing."""
    monkeypatch.setattr(RandAugment, "draw", lambda self, rng: [(name, sign)])


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", sorted(randaugment.COME_FROM))
def test_boxes_follow_the_pixels_that_randaugment_moves(monkeypatch, name, sign):
    box = (24, 20, 56, 40)
    moving(monkeypatch, name, sign)
    view = TrainTransform(size=(60, 80), scale=(1, 1), flip=1.0).draw(SIZE, ("",), Random(0))
    assert view.boxes([box])[0] == pytest.approx(seen_at(view.picture(lit(box)).bytes), abs=1.2)
    assert view.boxes([box])[0] != pytest.approx([24, 20, 56, 40], abs=2)
    mask = np.asarray(lit(box))[None, :, :, 0] > 0
    assert (view.masks(mask)[0] != (view.picture(lit(box)).bytes[0].numpy() > 200)).mean() < 0.01
    whole = KeepShapeTrain(size=32, randaugment=(1, 7)).draw((80, 64), ("",), Random(0))  # moved before it is resized
    found = seen_at(whole.picture(lit(box, (80, 64))).bytes)
    assert whole.boxes([box])[0] == pytest.approx(found, abs=1.6)


def test_several_moves_follow_one_another(monkeypatch):
    drawn_ops = [("rotate", 1), ("shear_x", 1), ("shear_y", -1), ("translate_y", 1), ("shear_x", -1)]
    monkeypatch.setattr(RandAugment, "draw", lambda self, rng: drawn_ops)
    view = TrainTransform(size=(60, 80), scale=(1, 1), flip=1.0).draw(SIZE, ("",), Random(0))
    points = np.array([[10.0, 50.0], [70.0, 5.0]])
    step = points
    for a, b, c, d, e, f in view.moves:
        step = np.stack([a * step[:, 0] + b * step[:, 1] + c, d * step[:, 0] + e * step[:, 1] + f], -1)
    assert len(view.moves) == 8
    assert view.points(points) == pytest.approx(step)


def test_colours_move_nothing(monkeypatch):
    moving(monkeypatch, "equalize", 1)
    assert TrainTransform(size=(60, 80), scale=(1, 1), flip=0).draw(SIZE, ("",), Random(0)).matrix == (1, 0, 0, 0, 1, 0)


def test_all_frames_get_one_draw():
    transform = TrainTransform(size=40, erase=1.0)
    frames = [lit((10, 10, 40, 40)), lit((12, 10, 42, 40))]
    view = transform.draw(SIZE, ("",), Random(4))
    for frame in frames:
        alone, _ = transform.raw_pixels(frame, "", Random(4))
        assert torch.equal(view.picture(frame).bytes, alone.bytes)
        assert view.picture(frame).erased == alone.erased
    assert not torch.equal(view.picture(frames[0]).bytes, view.picture(frames[1]).bytes)
    with pytest.raises(ValueError, match=r"\(60, 80\)"):
        view.picture(lit((1, 1, 2, 2), (60, 80)))


def test_nothing_more_is_drawn_than_by_a_picture_alone():
    transform = TrainTransform(size=40, erase=0.5)
    one, other = Random(3), Random(3)
    transform.draw(SIZE, ("a dog",), one)
    transform.raw_pixels(lit((0, 0, 9, 9)), "a dog", other)
    assert one.random() == other.random()


def test_words_and_their_spans_are_those_of_the_view():
    text = "the dog on the left, a cat on the right of it and 左边的猫"
    view = plain(flip=1.0).draw(SIZE, (text, "a fish"), Random(0))
    assert view.words(text) == "the dog on the right, a cat on the left of it and 右边的猫"
    asked = [text.index(part) for part in ("dog", "left", "a cat", "it", "猫")]
    spans = [(at, at + n) for at, n in zip(asked, (3, 4, 21, 2, 1), strict=True)]
    assert [text[a:b] for a, b in spans] == ["dog", "left", "a cat on the right of", "it", "猫"]
    found = view.spans(text, spans)
    assert [view.words(text)[a:b] for a, b in found] == ["dog", "right", "a cat on the left of", "it", "猫"]
    at = text.index("right")
    assert view.spans(text, [(at + 2, at + 5), (at, at + 2)]) == [(at + 1, at + 5)] * 2  # of a word all
    assert view.words("a dog on the left") == "a dog on the right"  # a text that is true, if it was not drawn for
    with pytest.raises(ValueError, match="was not drawn for this text"):
        view.words("a man left")
    still = plain(flip=1.0).draw(SIZE, ("a fish", "a man left"), Random(0))
    assert still.swapped is None
    assert still.words(text) == text
    assert still.spans(text, spans) == spans


RULES = np.array(
    [[-10, 10, 30, 20], [-30, 10, 10, 20], [5, 5, 5, 9], [-9, 0, -1, 8], [0, 0, 64.0005, 48], [9, 9, 5, 20]]
)


@pytest.mark.parametrize(
    ("outside", "options", "stays"),
    [
        ("clip", {}, [0, 1, 4]), ("centre", {}, [0, 4]), ("drop", {}, [4]), ("keep", {}, [0, 1, 2, 3, 4, 5]),
        ("clip", {"min_visible": 0.75}, [0, 4]), ("clip", {"min_visible": 0.76}, [4]),
        ("clip", {"min_size": 10}, [0, 1, 4]), ("clip", {"min_size": 10.1}, [4]),
    ],
)  # fmt: skip
def test_what_leaves_the_view_goes_by_a_rule(outside, options, stays):
    cut, found, share = kept(RULES, (64, 48), outside, **options)
    assert found.nonzero()[0].tolist() == stays
    expected = RULES if outside == "keep" else RULES.clip(0, [64, 48, 64, 48])
    assert cut[found].tolist() == expected[found].tolist()
    assert share[[0, 1]].tolist() == ([1, 1] if outside == "keep" else [0.75, 0.25])


def test_no_boxes_are_no_special_case():
    view = plain().draw(SIZE, ("",), Random(0))
    for outside in ("clip", "centre", "drop", "keep"):
        cut, found, share = kept(view.boxes([]), view.size, outside)
        assert cut.shape == (0, 4)
        assert found.shape == share.shape == (0,)
    with pytest.raises(UserError, match="outside='cut': there are clip, centre, drop, keep"):
        kept(view.boxes([]), view.size, "cut")


@pytest.mark.parametrize(
    "transform",
    [
        EvalTransform(size=(48, 32)), KeepShape(size=32), CentreCrop(size=32), CentreCrop(size=24, fit="inside", to=20),
        CentreCrop(size=(30, 40), fit="none", odd="low"),
    ],
)  # fmt: skip
def test_evaluation_tells_where_places_come_to(transform):
    box = (24, 16, 56, 44)
    view = view_of(transform, SIZE)
    pixels = transform.raw_pixels(lit(box)).bytes
    assert view.size == (pixels.shape[2], pixels.shape[1])
    assert view.boxes([box])[0].clip(0, [*view.size] * 2) == pytest.approx(seen_at(pixels), abs=1.01)
    assert torch.equal(view.picture(lit(box)).bytes, pixels)
    assert view_of(Blank(transform), SIZE).matrix == view.matrix


class Own(TrainTransform):
    """Changes the call alone, and so says nothing of a view."""

    def __call__(self, image, caption, rng):
        return torch.zeros(3, 4, 4), caption


def test_a_transform_of_the_users_own_gives_no_view():
    assert drawn(Own(size=4), lit((0, 0, 9, 9)), ("a",), Random(0))[1:] == ("a", None)
    grey, _, view = drawn(BlankTrain(plain()), lit((0, 0, 9, 9)), ("a",), Random(0))
    assert (grey.bytes == 128).all()
    assert view.matrix == plain().draw(SIZE, ("a",), Random(0)).matrix
    assert view_of(lambda image: image, SIZE) is None
