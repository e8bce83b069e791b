"""Pictures of every shape: what is kept is made, and no more; sides never vanish; the roundings of the sources."""

import tracemalloc
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.data.images import resizing
from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.planes import to_planes
from mmkit.data.images.randaugment import OPERATIONS
from mmkit.data.images.resizing import resized_part, whole_size
from mmkit.data.images.transforms import EvalTransform, TrainTransform, crop_box
from mmkit.data.images.variable_size import KeepShape, KeepShapeTrain
from mmkit.errors import UserError

THIN = [(20_000, 1), (1, 20_000), (1, 1), (3, 1)]
GREY = 1 / 255


def smooth(width, height):
    """Colours that change slowly, so that one grey level is a small step."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * x - 4 * y), np.sin(9 * y)]
    return Image.fromarray(np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8))


def plain(transform=CentreCrop, **options):
    """Pixels from 0 to 1."""
    return transform(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), **options)


EVALS = [
    CentreCrop(size=224), CentreCrop(size=(224, 160)), CentreCrop(size=64, fit="inside"), EvalTransform(size=(40, 50)),
    CentreCrop(size=224, to=256), CentreCrop(size=64, fit="none"), KeepShape(size=384),
]  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """The sizes that are asked of Pillow's resize."""
    found, real = [], Image.Image.resize

    def resize(self, size, *args, **kwargs):
        found.append(size)
        return real(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", resize)
    return found


@pytest.mark.parametrize("size", THIN)
def test_a_thin_picture_costs_no_more_than_its_result(size, asked):
    image = Image.new("RGB", size, (9, 100, 200))
    tracemalloc.start()
    for transform in EVALS:
        pixels = transform(image)
        assert pixels.isfinite().all()
        assert min(pixels.shape[1:]) >= 32
    trains = [TrainTransform(size=96), TrainTransform(size=96, ratio=(0.3, 0.4)), TrainTransform(size=96, ratio=(3, 4)),
              KeepShapeTrain(size=64, randaugment=(3, 9))]  # fmt: skip
    for transform in trains:
        for seed in range(6):
            assert transform(image, "", Random(seed))[0].isfinite().all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    assert max((wide * high for wide, high in asked), default=0) <= resizing.WHOLE_PIXELS
    shape = (3, size[1], size[0])
    assert all(operation(to_planes(image), 0.7, -1).shape == shape for operation in OPERATIONS.values())


def test_the_middle_of_a_long_picture_is_what_is_kept(asked):
    image = smooth(20_000, 3)
    found = plain(size=32)(image)
    assert asked == [(32, 32)]
    left = (20_000 - 3) / 2
    middle = np.asarray(image.crop((int(left), 0, int(left) + 4, 3)), float).mean((0, 1)) / 255
    assert np.abs(found.mean((1, 2)).numpy() - middle).max() < 0.02


@pytest.mark.parametrize("size", [(200, 90), (90, 200), (64, 64), (33, 47)])
@pytest.mark.parametrize("options", [{"size": 32}, {"size": (24, 40)}, {"size": 24, "to": 30},
    {"size": 30, "to": 24}, {"size": 32, "fit": "inside"}, {"size": 20, "fit": "squash", "to": (30, 28)}])  # fmt: skip
@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
def test_a_part_alone_is_that_part_of_the_whole(size, options, resample, monkeypatch):
    transform, image = plain(resample=resample, **options), smooth(*size)
    whole = transform(image)
    monkeypatch.setattr(resizing, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(resizing, "WHOLE_SHARE", 0)
    part = transform(image)
    assert (part - whole).abs().max() <= 2.01 * GREY  # Pillow rounds once in each direction, in the order it likes
    assert (part - whole).abs().mean() < 0.15 * GREY


def test_ordinary_pictures_are_resized_whole_as_ever(asked):
    image = smooth(160, 90)
    wanted = image.resize((56, 32), Image.Resampling.BICUBIC).crop((12, 0, 44, 32))
    asked.clear()
    found = plain(size=32)(image)
    assert asked == [(56, 32)]
    assert torch.equal((found * 255).round().byte(), torch.from_numpy(np.array(wanted)).permute(2, 0, 1))


@pytest.mark.parametrize(("given", "to", "fit", "made"), [
    ((100, 40), (20, 20), "cover", (50, 20)), ((41, 100), (20, 20), "cover", (20, 48)),  # rounded down, as torchvision
    ((41, 100), (20, 18), "cover", (18, 44)), ((100, 41), (18, 20), "cover", (44, 18)),  # 43.9: to the nearest
    ((100, 41), (20, 20), "inside", (20, 8)), ((7, 1000), (20, 20), "inside", (1, 20)),
    ((100, 41), (20, 30), "squash", (30, 20)), ((100, 41), (20, 30), "none", (100, 41)),
])  # fmt: skip
def test_how_large_the_whole_becomes(given, to, fit, made):
    assert whole_size(*given, to, fit) == made


@pytest.mark.parametrize(("whole", "window", "even", "low"), [
    (35, 32, 2, 1), (33, 32, 0, 0), (37, 32, 2, 2), (32, 32, 0, 0), (31, 32, 0, -1), (29, 32, -1, -2), (20, 32, -6, -6),
])  # fmt: skip
def test_where_the_middle_is(whole, window, even, low):
    """Halves: torchvision rounds them to even; transformers takes the lower pixel, also for what is set around."""
    assert CentreCrop(size=8)._start(whole, window) == even
    assert CentreCrop(size=8, odd="low")._start(whole, window) == low


def test_a_border_has_its_colour():
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    made = resized_part(image, (32, 16), (0, -8, 32, 24), "bicubic", (1, 2, 3))
    rows = np.asarray(made)[:, 5]
    assert rows[:8].tolist() == rows[24:].tolist() == [[1, 2, 3]] * 8
    assert rows[8:24].tolist() == [[255, 0, 0]] * 16
    transform = CentreCrop(size=32, fit="inside", fill=(1, 2, 3))
    assert transform.seen(40, 20) == (0, -10, 40, 30)
    assert torch.equal(transform(image), EvalTransform(size=32)(made))


def test_pixels_that_no_patch_covers_are_left_out():
    image = smooth(90, 50)
    whole, part = plain(size=32), plain(size=28, window=32)
    assert torch.equal(part(image), whole(image)[:, :28, :28])
    assert part.seen(64, 64) == (0, 0, 56, 56)


def test_another_size_shows_the_same_share():
    assert CentreCrop(size=224, to=256).resized(448) == CentreCrop(size=448, to=(512, 512))
    assert CentreCrop(size=28, window=32, to=32, fit="squash").resized(56) == CentreCrop(size=56, fit="squash")
    assert CentreCrop(size=224, odd="low", resample="bilinear").resized((96, 64)) == CentreCrop(
        size=(96, 64), odd="low", resample="bilinear"
    )
    with pytest.raises(UserError, match="not resized, only cut to 64"):
        CentreCrop(size=64, fit="none").resized(32)


@pytest.mark.parametrize(("options", "says"), [
    ({"resample": "cubic"}, "resample='cubic': there are nearest"), ({"factor": 0.0}, "factor=0.0"),
    ({"std": (1.0, 0.0, 1.0)}, "std has no 0"), ({"mean": (0.5,)}, "three finite numbers"), ({"fit": "crop"}, "'crop'"),
    ({"window": 16}, "the size is a part of the window"), ({"window": (32, 31)}, "the size is a part of the window"),
    ({"window": (31, 40)}, "the size is a part"), ({"to": (0, 8)}, "image size ="), ({"to": (8, -1)}, "image size ="),
    ({"fill": (0, 0, 256)}, "from 0 to 255"),
    ({"odd": "up"}, "up"), ({"mean": (0.5, float("nan"), 0.5)}, "three finite"), ({"factor": -1.0}, "factor=-1"),
    ({"factor": float("inf")}, "factor=inf"),
    ({"std": (float("inf"), 1.0, 1.0)}, "three finite"), ({"std": (0.5, 0.5, 0.5, 0.5)}, "three finite"),
])  # fmt: skip
def test_fields_without_a_meaning_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        CentreCrop(size=32, **options)
    if "resample" in options or "factor" in options:
        with pytest.raises(UserError, match=says):
            KeepShape(size=32, **options)


def test_bytes_become_pixels_by_the_factor():
    image = Image.new("RGB", (8, 8), (255, 51, 0))
    found = EvalTransform(size=8, mean=(1.0, 0.0, 0.5), std=(1.0, 2.0, 0.5), factor=1 / 51)(image)
    assert found[:, 0, 0].tolist() == pytest.approx([4.0, 0.5, -1.0], abs=1e-6)
    assert KeepShape(size=32, factor=2 / 255)(image)[0].unique().item() == pytest.approx(3.0)


def test_crops_of_odd_ratios_are_never_empty():
    for size in THIN:
        for ratio in ((0.1, 0.2), (6.0, 9.0)):
            for seed in range(20):
                left, top, right, bottom = crop_box(*size, (0.2, 1.0), ratio, Random(seed))
                assert 0 <= left < right <= size[0]
                assert 0 <= top < bottom <= size[1]
