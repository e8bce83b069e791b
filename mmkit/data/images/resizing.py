"""How large a picture is made, and resizing that makes no more of it than is kept.

The rules and their roundings are those of torchvision, open_clip and timm. Where the whole resized picture would be far
larger than the part of it that is kept (20,000 x 1 pixels whose shorter side becomes 224), only that part is made; the
result is the same but for rounding, which Pillow does once in each direction. Left out: other modes than RGB.
"""

from __future__ import annotations

from typing import Literal, get_args

from PIL import Image

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
"""In the order of Pillow's codes, 0 to 5."""
RESAMPLE: tuple[Resample, ...] = get_args(Resample)
Fit = Literal["cover", "inside", "squash", "none"]
"""The shape is kept until a size is covered, or until the picture lies inside of it; lost; or nothing is resized."""

WHOLE_PIXELS = 4_000_000
WHOLE_SHARE = 16
"""The whole is made where it has at most so many pixels, or so many times those that are kept: then it is exact."""


def whole_size(width: int, height: int, to: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """(width, height) of a whole picture after resizing to ``to``, (height, width); at least one pixel each."""
    high, wide = to
    if fit == "none":
        return width, height
    if fit == "squash":
        return wide, high
    if fit == "inside":
        ratio = max(height / high, width / wide)
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    if high != wide:
        ratio = min(height / high, width / wide)
        return max(wide, round(width / ratio)), max(high, round(height / ratio))
    if width <= height:
        return wide, max(high, int(wide * height / width))
    return max(wide, int(high * width / height)), high


def resized(image: Image.Image, size: tuple[int, int], resample: Resample) -> Image.Image:
    """A whole picture at another size, (width, height)."""
    return image if image.size == size else image.resize(size, RESAMPLE.index(resample))


def resized_part(
    image: Image.Image, whole: tuple[int, int], part: tuple[int, int, int, int], resample: Resample,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> Image.Image:  # fmt: skip
    """Of a picture resized to ``whole``, (width, height), the rectangle ``part``: (left, top, right, bottom).

    fill: what stands where the rectangle lies beside the picture.
    """
    left, top, right, bottom = part
    size = right - left, bottom - top
    inside = max(0, left), max(0, top), min(whole[0], right), min(whole[1], bottom)
    if whole[0] * whole[1] <= max(WHOLE_PIXELS, WHOLE_SHARE * size[0] * size[1]):
        made = resized(image, whole, resample)
        made = made if inside == (0, 0, *made.size) else made.crop(inside)
    else:
        across, down = image.width / whole[0], image.height / whole[1]
        box = inside[0] * across, inside[1] * down, inside[2] * across, inside[3] * down
        made = image.resize((inside[2] - inside[0], inside[3] - inside[1]), RESAMPLE.index(resample), box=box)
    if made.size == size:
        return made
    ground = Image.new("RGB", size, fill)
    ground.paste(made, (inside[0] - left, inside[1] - top))
    return ground
