"""Pictures: modes and broken files, the transforms and their randomness, RandAugment's levels, flips with words."""

import io
import math
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional as F

from mmkit.data.images import randaugment
from mmkit.data.images.opening import BadImage, load_image
from mmkit.data.images.planes import from_planes, resized_crop, to_planes
from mmkit.data.images.randaugment import NAMES, OPERATIONS, RandAugment
from mmkit.data.images.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    Blank,
    BlankTrain,
    EvalTransform,
    TrainTransform,
    blank,
    crop_box,
    erase_box,
)  # fmt: skip
from mmkit.data.records import Record
from mmkit.errors import UserError


@pytest.fixture
def image():
    """A smooth colour ramp with a dark left half."""
    y, x = np.mgrid[0:60, 0:80]
    return Image.fromarray(np.stack([x * 3, y * 4, (x > 40) * 200], -1).astype(np.uint8))


def whole(size=40, **options):
    return TrainTransform(size=size, scale=(1.0, 1.0), **{"flip": 0.0, "randaugment": None, **options})


def pixels_of(transform, image, caption="", seed=0):
    return transform(image, caption, Random(seed))


# -- reading --


def encoded(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def test_modes_become_rgb():
    red = (200, 30, 40)
    assert load_image(encoded(Image.new("CMYK", (4, 4)), "JPEG")).getpixel((1, 1)) == (255, 255, 255)
    assert load_image(encoded(Image.new("RGBA", (4, 4), (*red, 0)))).getpixel((1, 1)) == (255, 255, 255)
    assert load_image(encoded(Image.new("RGBA", (4, 4), (*red, 255)))).getpixel((1, 1)) == red
    assert load_image(encoded(Image.new("LA", (4, 4), (7, 255)))).getpixel((1, 1)) == (7, 7, 7)
    palette = Image.new("RGB", (4, 4), red).quantize(4)
    assert load_image(encoded(palette)).getpixel((1, 1)) == red
    assert load_image(encoded(palette, transparency=0)).getpixel((1, 1)) == (255, 255, 255)
    seen_through = encoded(Image.new("RGB", (4, 4), red), transparency=red)
    assert load_image(seen_through).getpixel((1, 1)) == (255, 255, 255)
    deep = Image.fromarray(np.full((4, 4), 0x8080, np.uint16))
    assert load_image(encoded(deep)).getpixel((1, 1)) == (128, 128, 128)
    assert load_image(encoded(Image.new("1", (4, 4), 1))).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.array([[0, 64, 255]], np.int32), 255),
        (np.array([[0, 64 * 257, 65535]], np.int32), 65535),
        (np.array([[0, 64 / 255, 1]], np.float32), 1),
        (np.array([[0, 64, 255]], np.float32), 255),
        (np.array([[0, 64 * 257, 65535]], np.float32), 65535),
    ],
)
def test_grey_without_a_stated_range_is_scaled_by_the_smallest_that_holds_it(values, white):
    found = np.asarray(load_image(encoded(Image.fromarray(values), "TIFF")))
    assert found[0].tolist() == [[0] * 3, [64] * 3, [255] * 3]
    darker = np.asarray(load_image(Image.fromarray((values * 0.9).astype(values.dtype))))  # none is made brighter
    assert abs(int(darker[0, 2, 0]) - 0.9 * 255) <= 1


def test_sixteen_bits_stay_as_dark_as_they_are():
    dark = Image.fromarray(np.full((2, 2), 200, np.uint16))
    assert load_image(encoded(dark)).getpixel((0, 0)) == load_image(dark).getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize("value", [-1, 70000, float("nan")])
def test_grey_outside_every_range_is_refused(value):
    kind = np.float32 if value != value else np.int32
    picture = Image.fromarray(np.array([[0, value]], kind))
    with pytest.raises(BadImage, match=r"a.tif.*grey values from .*save the picture with 8 bits"):
        load_image(Record(image=encoded(picture, "TIFF"), captions=(), image_id="a", key="a.tif"))


def test_the_cameras_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(encoded(Image.new("RGB", (4, 9)), "JPEG", exif=exif)).size == (9, 4)


def test_broken_pictures_name_their_file(tmp_path, image, monkeypatch):
    def record(name):
        return Record(image=tmp_path / name, captions=(), image_id=name, key="a.jsonl:3")

    (tmp_path / "cut.jpg").write_bytes(encoded(image, "JPEG")[:400])
    (tmp_path / "cut.png").write_bytes(encoded(image)[:120])
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, says in [
        ("cut.jpg", "damaged"), ("cut.png", "damaged"), ("text.jpg", "a web page"), ("empty.png", "an empty file"),
        ("none.png", "no such picture"),
    ]:  # fmt: skip
        with pytest.raises(BadImage, match=rf"{name} \(a.jsonl:3\): {says}"):
            load_image(record(name))
    image.save(tmp_path / "huge.png")
    monkeypatch.setenv("MMKIT_MAX_MEGAPIXELS", "0.0047")
    with pytest.raises(BadImage, match=r"huge.png .*80 x 60 pixels are too many.*0.0047 .*MMKIT_MAX_MEGAPIXELS=N"):
        load_image(record("huge.png"))
    monkeypatch.setenv("MMKIT_MAX_MEGAPIXELS", "0.0048")
    assert load_image(record("huge.png")).size == (80, 60)
    with pytest.raises(BadImage, match=r"a.jsonl:9: not a picture"):
        load_image(Record(image=b"no", captions=(), image_id="x", key="a.jsonl:9"))


# -- transforms --


def test_eval_squashes_and_normalises(image):
    transform = EvalTransform(size=(20, 32))
    pixels = transform(image)
    assert pixels.shape == (3, 20, 32)
    assert pixels.dtype == torch.float32
    plain = F.pil_to_tensor(image.resize((32, 20), Image.Resampling.BICUBIC))
    assert torch.equal(transform.raw_pixels(image).bytes, plain)  # evaluation, and what is squashed whole: to the byte
    assert torch.equal(whole((20, 32)).raw_pixels(image, "", Random(0))[0].bytes, plain)
    plain = plain / 255
    expected = (plain - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    torch.testing.assert_close(pixels, expected)
    torch.testing.assert_close(pixels_of(whole((20, 32)), image)[0], pixels)
    assert whole((20, 32)).for_eval() == transform
    other = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    assert whole((20, 32), **other).for_eval() == EvalTransform(size=(20, 32), **other)
    torch.testing.assert_close(
        pixels_of(whole((20, 32), **other), image)[0], EvalTransform(size=(20, 32), **other)(image)
    )


def test_what_is_drawn_is_drawn_in_one_order(image):
    """Crop, flip, operations, rectangle: another order would be other pictures for the same seed."""
    transform = TrainTransform(size=(24, 32), erase=0.5, scale=(0.2, 0.9))
    for seed in range(12):
        rng = Random(seed)
        planes = resized_crop(image, crop_box(80, 60, (0.2, 0.9), (3 / 4, 4 / 3), rng), 32, 24)
        planes = planes.flip(2) if rng.random() < 0.5 else planes
        planes = RandAugment(2, 7)(planes, rng)
        erased = erase_box(32, 24, rng) if rng.random() < 0.5 else (0, 0, 0, 0)
        found, _ = transform.raw_pixels(image, "", Random(seed))
        assert torch.equal(found.bytes, planes)
        assert found.erased == erased


def test_randomness_is_only_what_is_passed_in(image):
    transform = TrainTransform(size=48, erase=0.5)
    before = torch.get_rng_state()
    one = [pixels_of(transform, image, "left", seed) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    two = [pixels_of(transform, image, "left", seed) for seed in range(8)]
    assert all(torch.equal(a, b) and x == y for (a, x), (b, y) in zip(one, two, strict=True))
    assert any(not torch.equal(one[0][0], other) for other, _ in one[1:])


def test_a_blank_picture_shows_nothing_but_its_size(image):
    grey = Image.new("RGB", image.size, (128, 128, 128))
    transform, train = EvalTransform(size=20), TrainTransform(size=20)
    assert torch.equal(Blank(transform)(image), transform(grey))
    found, caption = BlankTrain(train)(image, "on the left", Random(3))
    assert torch.equal(found, train(grey, "on the left", Random(3))[0])
    assert caption == train(grey, "on the left", Random(3))[1]
    assert blank(image).size == image.size


def test_a_picture_of_the_wanted_size_is_cropped_too(image):
    transform = TrainTransform(size=(60, 80), scale=(0.2, 0.3), flip=0.0, randaugment=None)
    assert image.size == (80, 60)
    plain = pixels_of(whole((60, 80)), image)[0]
    assert torch.equal(plain, EvalTransform(size=(60, 80))(image))
    assert all((pixels_of(transform, image, seed=seed)[0] - plain).abs().max() > 0.5 for seed in range(4))


def test_crops_cover_the_asked_share(image):
    rng = Random(0)
    shares, sides = [], []
    for _ in range(2000):
        left, top, right, bottom = crop_box(80, 60, (0.2, 1.0), (3 / 4, 4 / 3), rng)
        assert 0 <= left < right <= 80
        assert 0 <= top < bottom <= 60
        shares.append((right - left) * (bottom - top) / 4800)
        sides.append((right - left) / (bottom - top))
    assert 0.18 < min(shares) < 0.25
    assert max(shares) > 0.9
    assert 0.7 < min(sides) < 0.8
    assert 1.25 < max(sides) < 1.4
    assert crop_box(300, 10, (0.9, 1.0), (3 / 4, 4 / 3), rng) == (143, 0, 156, 10)  # nothing fits: the middle


def test_flip_swaps_words_and_picture_together(image):
    mirrored = pixels_of(whole(), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[0]
    pixels, caption = pixels_of(whole(flip=1.0), image, "dark on the left")
    assert caption == "dark on the right"
    torch.testing.assert_close(pixels, mirrored)
    pixels, caption = pixels_of(whole(flip=1.0), image, "a ramp")
    torch.testing.assert_close(pixels, mirrored)
    pixels, caption = pixels_of(whole(flip=1.0), image, "po lewej stronie")  # no rule: neither changes
    assert caption == "po lewej stronie"
    torch.testing.assert_close(pixels, pixels_of(whole(), image)[0])


class Said(Random):
    """Draws what it is told."""

    def __init__(self, uniform, randint=(0, 0)):
        super().__init__(0)
        self.uniforms, self.ints, self.asked = iter(uniform), iter(randint), []

    def uniform(self, a, b):
        return next(self.uniforms)

    def randint(self, a, b):
        self.asked.append((a, b))
        return next(self.ints)


def test_a_crop_is_torchvisions():
    """RandomResizedCrop.get_params: width = sqrt(area * ratio), height = sqrt(area / ratio), a whole side at most."""
    rng = Said([0.32, math.log(2)], [3, 5])
    assert crop_box(100, 50, (0.2, 1.0), (0.5, 2.0), rng) == (3, 5, 3 + 57, 5 + 28)  # area 1600: 56.57 by 28.28
    assert rng.asked == [(0, 100 - 57), (0, 50 - 28)]
    assert crop_box(100, 50, (0.2, 1.0), (0.5, 2.0), Said([1.0, math.log(2)])) == (0, 0, 100, 50)
    assert crop_box(100, 50, (0.2, 1.0), (0.5, 2.0), Said([1.0, 0.0, 0.02, 0.0], [1, 2])) == (
        1,
        2,
        11,
        12,
    )  # 71 is high
    assert crop_box(100, 50, (1.0, 1.0), (0.5, 2.0), Said([])) == (0, 0, 100, 50)


def test_erasing_happens_as_often_as_it_says():
    dark = Image.new("RGB", (8, 8), (9, 9, 9))
    times = sum(bool((pixels_of(whole(8, erase=0.3), dark, seed=seed)[0] == 0).any()) for seed in range(200))
    assert 30 < times < 90


def test_a_rectangle_to_erase_is_torchvisions():
    """RandomErasing.get_params: height = sqrt(area * ratio), width = sqrt(area / ratio), anywhere within."""
    rng = Said([0.08, math.log(2)], [3, 5])
    assert erase_box(100, 50, rng) == (3, 5, 3 + 14, 5 + 28)  # area 400: 28.28 high, 14.14 wide
    assert rng.asked == [(0, 100 - 14), (0, 50 - 28)]
    # a rectangle as high as the picture does not count; the second one does
    assert erase_box(100, 20, Said([0.2, math.log(1.0), 0.02, math.log(1.0)])) == (0, 0, 6, 6)
    assert erase_box(100, 20, Said([0.2, math.log(1.0)] * 10)) == (0, 0, 0, 0)  # none of ten: nothing is erased


def test_erasing_puts_the_mean_colour_in_one_rectangle(image):
    plain = pixels_of(whole(), image)[0]
    erased = pixels_of(whole(erase=1.0), image)[0]
    gone = (erased == 0).all(0)
    assert 0.01 < gone.float().mean() < 0.36
    rows, columns = gone.any(1).nonzero(), gone.any(0).nonzero()
    area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    assert gone.sum() == area
    assert torch.equal(erased[:, ~gone], plain[:, ~gone])


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0}, {"size": (8, 0)}, {"size": 8, "scale": (0.5, 1.5)}, {"size": 8, "scale": (0.9, 0.5)},
        {"size": 8, "scale": (0.0, 0.5)}, {"size": 8, "flip": 2.0}, {"size": 8, "flip": -0.1},
        {"size": 8, "erase": 1.1}, {"size": 8, "erase": -0.1},
    ],
)  # fmt: skip
def test_impossible_transforms(options):
    with pytest.raises(UserError, match=r"size|scale|flip|erase"):
        TrainTransform(**options)


# -- RandAugment --


def apply(name, image, level=0.7, sign=1):
    return np.asarray(from_planes(OPERATIONS[name](to_planes(image), level, sign))).astype(int)


PILLOWS = {
    "identity": lambda image, factor: image,
    "autocontrast": lambda image, factor: ImageOps.autocontrast(image),
    "equalize": lambda image, factor: ImageOps.equalize(image),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
}


@pytest.mark.parametrize("name", PILLOWS)
def test_colours_change_as_pillow_changes_them_to_the_byte(name, image):
    rng = np.random.default_rng(0)
    sizes = [(1, 1, 9), (1, 9, 256), (9, 1, 256), (2, 3, 256), (3, 3, 256), (5, 7, 3), (20, 30, 1), (33, 20, 200)]
    noises = [Image.fromarray(rng.integers(0, top, (h, w, 3), np.uint8)) for h, w, top in sizes]
    for picture in (image, *noises):
        for level in (0.0, 0.35, 0.7, 1.0):
            wanted = np.asarray(PILLOWS[name](picture, 0.1 + 1.8 * level))
            assert (apply(name, picture, level) == wanted).all(), (picture.size, level)


SHIFT = 0.3 * 0.7
MOVES = {  # output (x, y) takes input (ax + by + c, dx + ey + f), for level 0.7 and sign 1
    "shear_x": (1, -SHIFT, 0, 0, 1, 0), "shear_y": (1, 0, 0, -SHIFT, 1, 0), "translate_x": (1, 0, -3.5, 0, 1, 0),
    "translate_y": (1, 0, 0, 0, 1, -3.5),
}  # fmt: skip


@pytest.mark.parametrize("name", [*MOVES, "rotate"])
def test_pixels_are_moved_as_pillow_moves_them_but_for_rounding(name, image):
    level = 0.35 if name.startswith("translate") else 0.7
    if name == "rotate":
        wanted, outside = (
            np.asarray(turned.rotate(21, Image.Resampling.BILINEAR), float)
            for turned in (image, Image.new("RGB", image.size, (255,) * 3))
        )
    else:
        wanted, outside = (
            np.asarray(moved.transform(image.size, Image.Transform.AFFINE, MOVES[name], Image.Resampling.BILINEAR))
            for moved in (image, Image.new("RGB", image.size, (255,) * 3))
        )
    inside = np.asarray(Image.fromarray(outside.astype(np.uint8)).filter(ImageFilter.MinFilter(5)))[..., 0] == 255
    found = apply(name, image, level)
    difference = found[inside] - wanted.astype(int)[inside]
    assert difference.min() >= 0  # Pillow drops what follows the point
    assert difference.max() <= 1
    assert 0.1 < difference.mean() < 0.7 or name.startswith("translate")
    gone = np.asarray(Image.fromarray(outside.astype(np.uint8)).filter(ImageFilter.MaxFilter(5)))[..., 0] == 0
    assert (found[gone] == 128).all()
    assert gone.any() or name.startswith("translate")


def test_the_outermost_pixels_are_blended_with_the_grey():
    white = Image.new("RGB", (8, 8), (255, 255, 255))
    moved = apply("translate_x", white, 0.25)  # 2.5 pixels
    assert moved[3, :5, 0].tolist() == [128, 128, 192, 255, 255]
    assert apply("translate_y", white, 0.25, -1)[-5:, 3, 1].tolist() == [255, 255, 192, 128, 128]


def test_where_pixels_come_from_is_kept_for_small_pictures_alone():
    randaugment._grid.cache_clear()
    for _ in range(2):
        randaugment.affine(torch.zeros(3, 512, 512, dtype=torch.uint8), 1, 0.1, 0, 0, 1, 0)
        randaugment.affine(torch.zeros(3, 512, 513, dtype=torch.uint8), 1, 0.1, 0, 0, 1, 0)
    about = randaugment._grid.cache_info()
    assert (about.currsize, about.hits) == (1, 1)


@pytest.mark.parametrize("size", [(3, 9), (7, 7), (8, 2)])
def test_what_is_moved_out_of_a_small_picture_is_gone(size):
    image = Image.new("RGB", size, (9, 9, 9))
    for name, side in (("translate_x", size[0]), ("translate_y", size[1])):
        for sign in (-1, 1):
            assert (apply(name, image, sign=sign) == 9).mean() == max(0, side - 7) / side


def test_the_ten_operations():
    assert set(NAMES) == {
        "identity", "autocontrast", "equalize", "brightness", "sharpness", "shear_x", "shear_y", "translate_x",
        "translate_y", "rotate",
    }  # fmt: skip


def test_translation_is_seven_pixels_with_grey_border(image):
    before = np.asarray(image)
    right = apply("translate_x", image)
    assert (right[:, :7] == 128).all()
    assert (right[:, 7:] == before[:, :-7]).all()
    up = apply("translate_y", image, sign=-1)
    assert (up[-7:] == 128).all()
    assert (up[:-7] == before[7:]).all()


def test_brightness_factor(image):
    np.testing.assert_allclose(apply("brightness", image), (np.asarray(image) * 1.36).clip(0, 255), atol=1)


def test_shear_keeps_the_top_left_and_moves_by_021(image):
    columns = Image.new("RGB", (80, 60))
    columns.paste((255, 255, 255), (30, 0, 31, 60))
    inside = np.arange(20, 60)  # where no grey comes to
    lit = apply("shear_x", columns)[:, 20:60, 0]
    centre = [np.average(inside, weights=row) for row in lit]
    assert centre[0] == pytest.approx(30, abs=0.3)
    assert (centre[50] - centre[0]) / 50 == pytest.approx(0.21, abs=0.01)
    lit = apply("shear_y", columns.transpose(Image.Transpose.TRANSPOSE), sign=-1)[15:60, :, 0]
    centre = [np.average(np.arange(15, 60), weights=lit[:, x]) for x in (0, 50)]
    assert (centre[1] - centre[0]) / 50 == pytest.approx(-0.21, abs=0.01)


def test_rotation_is_21_degrees(image):
    line = Image.new("RGB", (101, 101))
    line.paste((255, 255, 255), (0, 50, 101, 51))
    lit = apply("rotate", line)[25:76, :, 0]
    y = [np.average(np.arange(25, 76), weights=lit[:, x]) for x in (30, 70)]
    assert np.degrees(np.arctan2(y[0] - y[1], 40)) == pytest.approx(21, abs=0.5)
    assert (apply("rotate", image)[0, 0] == 128).all()


def test_numbers_that_no_augmentation_has_are_refused(image):
    planes = to_planes(image)
    assert RandAugment(0, 10)(planes, Random(0)) is planes
    for number, magnitude in ((-1, 5), (2, 10.5), (2, -1)):
        with pytest.raises(UserError, match=r"number >= 0 and magnitude in 0\.\.10"):
            RandAugment(number, magnitude)


def test_pictures_and_planes_are_augmented_alike(image):
    for seed in range(12):
        found = RandAugment(2, 7).picture(image, Random(seed))
        assert torch.equal(to_planes(found), RandAugment(2, 7)(to_planes(image), Random(seed)))
        rng, other = Random(seed), Random(seed)
        RandAugment(3, 7).picture(image, rng)
        RandAugment(3, 7)(to_planes(image), other)
        assert rng.random() == other.random()
    assert RandAugment(2, 7, probability=0.0).picture(image, Random(0)) is image


def test_half_of_the_draws_do_nothing(image, monkeypatch):
    calls = []
    fake = {name: lambda image, level, sign, name=name: calls.append((name, level, sign)) or image for name in NAMES}
    monkeypatch.setattr("mmkit.data.images.randaugment.OPERATIONS", fake)
    rng = Random(0)
    for _ in range(4000):
        RandAugment(2, 7)(image, rng)
    assert len(calls) / 8000 == pytest.approx(0.5, abs=0.02)
    assert {name for name, _, _ in calls} == set(NAMES)
    assert {level for _, level, _ in calls} == {0.7}
    assert {sign for _, _, sign in calls} == {-1, 1}
    counts = [sum(name == other for name, _, _ in calls) for other in NAMES]
    assert min(counts) > 0.08 * len(calls)
