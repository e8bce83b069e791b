"""Pictures that keep their shape: a shorter side, a longest one, batches with a true mask (ViLT, section 3.3; DETR).

A picture is scaled until its shorter side is as wanted, or less where the longer one would pass its bound, and both are
rounded down to whole patches. Unequal pictures share a batch in the upper left corner of a canvas. Left out: sorting
records by shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmkit.data.images.randaugment import Drawn, RandAugment
from mmkit.data.images.resizing import Resample, resized
from mmkit.data.images.transforms import FACTOR, Triple, check_numbers, fitting, to_pixels
from mmkit.data.images.view import View
from mmkit.errors import UserError
from mmkit.types import RawPixels

HALF: Triple = (0.5, 0.5, 0.5)


def fitted(width: int, height: int, shorter: int, longest: int, multiple: int) -> tuple[int, int]:
    """(width, height) of a picture after scaling; whole multiples, at least one."""
    scale = shorter / min(width, height)
    sides = (shorter if side == min(width, height) else scale * side for side in (width, height))
    wide, high = sides
    if (most := max(wide, high)) > longest:
        wide, high = longest / most * wide, longest / most * high
    return _whole(wide, multiple), _whole(high, multiple)


def _whole(side: float, multiple: int) -> int:
    return max(multiple, int(side + 0.5) // multiple * multiple)


@dataclass(frozen=True, kw_only=True)
class KeepShape:
    """The shape is kept, for evaluation. (PIL RGB) -> (3, h, w) float32.

    size: the shorter side in pixels. longest: bound of the longer side; None = 5 / 3 of the shorter. multiple: both
    sides become multiples of it, the patch. mean, std: normalisation; as published, to -1 .. 1. resample, factor: as in
    ``EvalTransform``.
    """

    size: int
    longest: int | None = None
    multiple: int = 32
    mean: Triple = HALF
    std: Triple = HALF
    resample: Resample = "bicubic"
    factor: float = FACTOR

    def __post_init__(self) -> None:
        check_numbers("KeepShape", self.mean, self.std, self.resample, self.factor)
        if not isinstance(self.size, int) or self.size < self.multiple or self.bound < self.size:
            raise UserError(
                f"KeepShape size={self.size}, longest={self.longest}, multiple={self.multiple}: give the shorter "
                "side as one number, at least a multiple and at most longest"
            )

    @property
    def bound(self) -> int:
        """The longer side's bound in pixels."""
        return self.longest if self.longest is not None else int(1333 / 800 * self.size)

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) into which every picture fits, lying or standing."""
        side = self.bound // self.multiple * self.multiple
        return side, side

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture to (3, h, w) float32, normalised."""
        return self.raw_pixels(image).normalised()

    def raw_pixels(self, image: Image.Image) -> RawPixels:
        """The same before it is normalised."""
        size = self._fitted(image.size)
        return to_pixels(resized(image, size, self.resample), self.mean, self.std, self.factor)

    def view(self, size: tuple[int, int]) -> View:
        """What is shown of pictures of this size, (width, height)."""
        to = self._fitted(size)
        return View(whole=size, size=to, paint=self.raw_pixels, moves=fitting(size, to))

    def _fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        return fitted(*size, self.size, self.bound, self.multiple)


@dataclass(frozen=True, kw_only=True)
class KeepShapeTrain:
    """The same for training, with RandAugment at will. (PIL RGB, caption, Random) -> (pixels, caption).

    randaugment: (number, magnitude of 10) or None. No crop and no flip: the caption stays true.
    """

    size: int
    longest: int | None = None
    multiple: int = 32
    randaugment: tuple[int, int] | None = None
    mean: Triple = HALF
    std: Triple = HALF

    def __post_init__(self) -> None:
        self.for_eval()

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) into which every picture fits."""
        return self.for_eval().canvas

    def __call__(self, image: Image.Image, caption: str, rng: Random) -> tuple[Tensor, str]:
        """((3, h, w) float32, normalised; the caption)."""
        raw, caption = self.raw_pixels(image, caption, rng)
        return raw.normalised(), caption

    def raw_pixels(self, image: Image.Image, caption: str, rng: Random) -> tuple[RawPixels, str]:
        """The same before it is normalised."""
        return self.draw(image.size, (caption,), rng).picture(image), caption

    def draw(self, size: tuple[int, int], texts: Sequence[str], rng: Random) -> View:
        """One draw for pictures of this size, (width, height), and for all that is said of them."""
        whole = self.for_eval().view(size)
        if self.randaugment is None:
            return whole
        augment = RandAugment(*self.randaugment)
        changes = augment.draw(rng)
        paint = partial(self._painted, changes)
        return replace(whole, paint=paint, moves=(*augment.moves(changes, *size), *whole.moves))

    def _painted(self, changes: list[Drawn], image: Image.Image) -> RawPixels:
        augment = RandAugment(*(self.randaugment or (0, 0)))
        return self.for_eval().raw_pixels(augment.painted(image, changes))

    def for_eval(self) -> KeepShape:
        """The evaluation transform with the same sizes and normalisation."""
        return KeepShape(size=self.size, longest=self.longest, multiple=self.multiple, mean=self.mean, std=self.std)


def stack_pixels(
    pictures: Sequence[Tensor | RawPixels], canvas: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Pictures (3, h, w) as one batch (B, 3, height, width), and (B, height, width) bool where there is picture.

    Clips (3, T, h, w) are of one size, and their batch is (B, 3, T, h, w).

    canvas: (height, width) of the batch, for ranks that must agree on it; None = the largest sides, and no mask where
    all pictures are of one size. ValueError for a picture that is larger than the canvas.
    """
    shapes = {tuple(picture.shape) for picture in pictures}
    if canvas is None and len(shapes) == 1:
        return _side_by_side(pictures), None
    if any(len(shape) != 3 for shape in shapes):
        of = "clips are of one size and number of frames" if any(len(shape) == 4 for shape in shapes) else ""
        raise UserError(
            f"pictures of unequal shapes {sorted(map(tuple, shapes))} cannot share a batch{of and '; ' + of}"
        )
    largest = max(shape[1] for shape in shapes), max(shape[2] for shape in shapes)
    height, width = canvas or largest
    if largest[0] > height or largest[1] > width:
        raise UserError(f"a picture of {largest[0]}x{largest[1]} does not fit the canvas {height}x{width}")
    painted = _painted(pictures)
    pixels = painted[0].new_zeros(len(painted), painted[0].shape[0], height, width)
    mask = torch.zeros(len(painted), height, width, dtype=torch.bool)
    for i, picture in enumerate(painted):
        pixels[i, :, : picture.shape[1], : picture.shape[2]] = picture
        mask[i, : picture.shape[1], : picture.shape[2]] = True
    return pixels, mask


def _painted(pictures: Sequence[Tensor | RawPixels]) -> list[Tensor]:
    return [picture.bytes if isinstance(picture, RawPixels) else picture for picture in pictures]


def _side_by_side(pictures: Sequence[Tensor | RawPixels]) -> Tensor:
    """Those of one shape as one batch, painted there where all are still to be painted."""
    paints = [picture.paint for picture in pictures if isinstance(picture, RawPixels) and picture.paint]
    if len(paints) < len(pictures):
        return torch.stack(_painted(pictures))
    out = np.empty((len(pictures), *pictures[0].shape), np.uint8)
    for row, paint in zip(out, paints, strict=True):
        paint(row)
    return torch.from_numpy(out)
