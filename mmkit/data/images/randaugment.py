"""RandAugment as ALBEF's official code has it (Cubuk et al. 2020; RECIPES A.4), on bytes in three planes.

Ten operations without colour changes; N are drawn with replacement, each is applied with probability one half; all
share the magnitude M of 10. Shears keep the top left corner, translations are in pixels whatever the size, borders
become grey 128: that is what the official OpenCV code does, and torchvision's does not. What changes colours gives
Pillow's bytes; what moves pixels blends the outermost with the grey and rounds, as OpenCV does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mmkit.data.images.planes import from_planes, to_planes
from mmkit.data.images.view import Affine, inverse, shifted
from mmkit.errors import UserError

FILL = 128
KEPT = 512 * 512
"""Of pictures up to so many pixels, it is kept where each pixel comes from."""
Bytes = NDArray[np.uint8]
Drawn = tuple[str, int]
"""An operation and its sign."""


def affine(planes: Tensor, a: float, b: float, c: float, d: float, e: float, f: float) -> Tensor:
    """Output (x, y) takes input (ax + by + c, dx + ey + f), bilinear, grey outside; the corner is (0, 0)."""
    height, width = planes.shape[1:]
    make = _grid if height * width <= KEPT else _grid.__wrapped__
    values = planes[None].float().sub_(FILL)
    moved = functional.grid_sample(values, make(height, width, a, b, c, d, e, f), align_corners=False)[0].numpy()
    moved += np.float32(FILL + 0.5)  # outside it was 0
    return torch.from_numpy(moved.astype(np.uint8))


@lru_cache(8)  # shears and turns by the same angle, to both sides
def _grid(height: int, width: int, a: float, b: float, c: float, d: float, e: float, f: float) -> Tensor:
    """(1, height, width, 2) float32: where each pixel is taken from, as ``grid_sample`` counts, -1 to 1."""
    x, y = torch.arange(width) + 0.5, (torch.arange(height) + 0.5)[:, None]
    grid = torch.empty(1, height, width, 2)
    torch.add(x * (2 * a / width), y * (2 * b / width) + (2 * c / width - 1), out=grid[0, :, :, 0])
    torch.add(x * (2 * d / height), y * (2 * e / height) + (2 * f / height - 1), out=grid[0, :, :, 1])
    return grid


def turned(degrees: float, width: int, height: int) -> Affine:
    """Where the pixels come from of a picture that is turned about its centre, counter-clockwise."""
    x, y = width / 2, height / 2
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def translate(planes: Tensor, right: float, down: float) -> Tensor:
    """Moved by so many pixels, grey where it came from."""
    if not (right.is_integer() and down.is_integer()):
        return affine(planes, 1, 0, -right, 0, 1, -down)
    (from_y, to_y), (from_x, to_x) = _overlap(planes.shape[1], int(down)), _overlap(planes.shape[2], int(right))
    moved = torch.full_like(planes, FILL)
    moved[:, to_y, to_x] = planes[:, from_y, from_x]
    return moved


def _overlap(length: int, by: int) -> tuple[slice, slice]:
    """What stays of a line that is moved: where it was, where it comes to."""
    first, last = min(length, max(0, -by)), max(0, min(length, length - by))
    return slice(first, last), slice(first + by, last + by)  # both empty where nothing stays


def enhance(level: float) -> float:
    """The blending factor of brightness and sharpness: 1 leaves the picture as it is."""
    return 0.1 + 1.8 * level


def autocontrast(planes: Tensor) -> Tensor:
    """Each colour from 0 to 255; Pillow's."""
    return _looked_up(planes, [_stretched(int(plane.min()), int(plane.max())) for plane in planes.numpy()])


def _stretched(low: int, high: int) -> Bytes:
    values = np.arange(256)
    if low == high:
        return values.astype(np.uint8)
    scale = 255 / (high - low)
    return (values * scale + -low * scale).clip(0, 255).astype(np.uint8)


def equalize(planes: Tensor) -> Tensor:
    """Each colour's levels about equally frequent; Pillow's."""
    return _looked_up(planes, [_equal(np.array(Image.fromarray(plane).histogram())) for plane in planes.numpy()])


def _equal(counts: NDArray[np.int64]) -> Bytes:
    there = counts[counts > 0]
    step = int(there.sum() - there[-1]) // 255
    if len(there) == 1 or not step:
        return np.arange(256, dtype=np.uint8)
    return ((step // 2 + counts.cumsum() - counts) // step).clip(0, 255).astype(np.uint8)


def brighten(planes: Tensor, factor: float) -> Tensor:
    """Every value times the factor; Pillow's."""
    return _looked_up(planes, [_cut(np.arange(256, dtype=np.float32) * np.float32(factor))] * 3)


def sharpen(planes: Tensor, factor: float) -> Tensor:
    """Away from what a smoothed picture has, or towards it; Pillow's, which leaves the outermost pixels."""
    out = planes.clone()
    for plane, made in zip(planes.numpy(), out.numpy(), strict=True):
        values = plane.astype(np.int16)
        inner, rows = values[1:-1, 1:-1], values[:-2] + values[1:-1] + values[2:]
        sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * inner
        smooth = sums * np.float32(1 / 13)
        smooth = np.floor(np.add(smooth, np.float32(0.5), out=smooth), out=smooth)
        blended = inner - smooth
        blended *= np.float32(factor)
        made[1:-1, 1:-1] = _cut(np.add(blended, smooth, out=blended))
    return out


def _cut(values: NDArray[np.float32]) -> Bytes:
    """To bytes as Pillow blends: what follows the point is dropped. The values are overwritten."""
    return values.clip(0, 255, out=values).astype(np.uint8)


def _looked_up(planes: Tensor, tables: list[Bytes]) -> Tensor:
    """Every byte replaced, by a table of 256 for each plane."""
    pairs = zip(planes.numpy(), tables, strict=True)
    made = b"".join([plane.tobytes().translate(table.tobytes()) for plane, table in pairs])
    return torch.frombuffer(bytearray(made), dtype=torch.uint8).view(planes.shape)


COME_FROM: Mapping[str, Callable[[float, float, int, int], Affine]] = {
    # (level in 0..1, sign, width, height) -> where the pixels come from, of the operations that move them
    "shear_x": lambda level, sign, width, height: (1, -sign * 0.3 * level, 0, 0, 1, 0),
    "shear_y": lambda level, sign, width, height: (1, 0, 0, -sign * 0.3 * level, 1, 0),
    "translate_x": lambda level, sign, width, height: shifted(-sign * 10 * level, 0.0),
    "translate_y": lambda level, sign, width, height: shifted(0.0, -sign * 10 * level),
    "rotate": lambda level, sign, width, height: turned(sign * 30 * level, width, height),
}


def _affine(name: str) -> Callable[[Tensor, float, float], Tensor]:
    return lambda planes, level, sign: affine(planes, *COME_FROM[name](level, sign, planes.shape[2], planes.shape[1]))


OPERATIONS: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    # ((3, h, w) uint8, level in 0..1, sign) -> the same
    "identity": lambda planes, level, sign: planes,
    "autocontrast": lambda planes, level, sign: autocontrast(planes),
    "equalize": lambda planes, level, sign: equalize(planes),
    "brightness": lambda planes, level, sign: brighten(planes, enhance(level)),
    "sharpness": lambda planes, level, sign: sharpen(planes, enhance(level)),
    "shear_x": _affine("shear_x"),
    "shear_y": _affine("shear_y"),
    "translate_x": lambda planes, level, sign: translate(planes, sign * 10 * level, 0.0),
    "translate_y": lambda planes, level, sign: translate(planes, 0.0, sign * 10 * level),
    "rotate": _affine("rotate"),
}
NAMES = tuple(OPERATIONS)


class RandAugment:
    """``number`` operations at ``magnitude`` of 10, each with ``probability``."""

    def __init__(self, number: int = 2, magnitude: float = 7, probability: float = 0.5) -> None:
        if number < 0 or not 0 <= magnitude <= 10:
            raise UserError(f"randaugment=({number}, {magnitude}): number >= 0 and magnitude in 0..10 are needed")
        self.number, self.level, self.probability = number, magnitude / 10, probability

    def __call__(self, planes: Tensor, rng: Random) -> Tensor:
        """(3, h, w) uint8 to the same."""
        return self.applied(planes, self.draw(rng))

    def picture(self, image: Image.Image, rng: Random) -> Image.Image:
        """RGB picture to RGB picture of the same size; itself where no operation is drawn."""
        return self.painted(image, self.draw(rng))

    def painted(self, image: Image.Image, drawn: Sequence[Drawn]) -> Image.Image:
        """The same by what was drawn."""
        return from_planes(self.applied(to_planes(image), drawn)) if drawn else image

    def draw(self, rng: Random) -> list[Drawn]:
        """Each operation that is to be applied."""
        names = rng.choices(NAMES, k=self.number)
        return [(name, rng.choice((-1, 1))) for name in names if rng.random() < self.probability]

    def applied(self, planes: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """(3, h, w) uint8 to the same, by what was drawn."""
        for name, sign in drawn:
            planes = OPERATIONS[name](planes, self.level, sign)
        return planes

    def moves(self, drawn: Sequence[Drawn], width: int, height: int) -> tuple[Affine, ...]:
        """Where places of a picture come to, by what was drawn."""
        moving = [(name, sign) for name, sign in drawn if name in COME_FROM]
        return tuple(inverse(COME_FROM[name](self.level, sign, width, height)) for name, sign in moving)
