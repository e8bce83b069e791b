"""Pictures to pixels: the training augmentation of ALBEF (RECIPES A.4) and the plain resize for evaluation.

Every random choice comes from the ``random.Random`` that is passed in. Pictures are bytes at every step, and travel as
such to the device, which normalises them: ``look`` gives these, the transforms' own calls give the float pixels.
Evaluation resizes by Pillow, which the originals did; training's crops see ``planes``. Left out: colour jitter, mixing
of pictures (ALBEF has neither).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from PIL import Image
from torch import Tensor

from mmkit.data.images.planes import resized_crop, to_planes
from mmkit.data.images.randaugment import RandAugment
from mmkit.data.images.resizing import RESAMPLE, Resample, resized
from mmkit.data.images.size import Size, height_width
from mmkit.data.texts.mirror import swap_left_right
from mmkit.errors import UserError
from mmkit.types import Normalise, RawPixels

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FACTOR = 1 / 255
"""What bytes are multiplied by before they are normalised."""

Triple = tuple[float, float, float]


def to_pixels(image: Image.Image, mean: Triple, std: Triple, factor: float = FACTOR) -> RawPixels:
    """RGB picture to (3, h, w) uint8, with how it is normalised."""
    return RawPixels(to_planes(image), Normalise(mean=mean, std=std, factor=factor))


def look(transform: Any, *given: Any) -> Any:
    """What a transform makes of a picture (and the caption and Random of training), on its way to a batch.

    Its ``raw_pixels``, which takes what its call takes and gives ``RawPixels`` in place of float pixels; its call where
    it has no such method, or its class is one of the user's own that changes the call alone.
    """
    kinds = (vars(kind).keys() for kind in type(transform).__mro__)
    nearest = next(names for names in kinds if names & {"raw_pixels", "__call__"})
    return transform.raw_pixels(*given) if "raw_pixels" in nearest else transform(*given)


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """Squash to the size, bicubic, normalise (ALBEF's evaluation). (PIL RGB) -> (3, h, w) float32.

    resample: how. factor: what bytes are multiplied by, before ``mean`` is taken off and ``std`` divides.
    """

    size: Size
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD
    resample: Resample = "bicubic"
    factor: float = FACTOR

    def __post_init__(self) -> None:
        height_width(self.size)
        check_numbers(type(self).__name__, self.mean, self.std, self.resample, self.factor)

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture to (3, h, w) float32, normalised."""
        return self.raw_pixels(image).normalised()

    def raw_pixels(self, image: Image.Image) -> RawPixels:
        """The same before it is normalised."""
        height, width = height_width(self.size)
        return to_pixels(resized(image, (width, height), self.resample), self.mean, self.std, self.factor)

    def resized(self, size: Size) -> EvalTransform:
        """The same for another size of the result."""
        return replace(self, size=size)


def check_numbers(name: str, mean: Triple, std: Triple, resample: str, factor: float) -> None:
    """UserError for what no picture can be normalised with, or a resampling that Pillow has not."""
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or 0 in std:
        raise UserError(f"{name} mean={mean}, std={std}: three finite numbers each, of which std has no 0")
    if resample not in RESAMPLE:
        raise UserError(f"{name} resample={resample!r}: there are {', '.join(RESAMPLE)}")
    if not (math.isfinite(factor) and factor > 0):
        raise UserError(f"{name} factor={factor}: what bytes are multiplied by, above 0 (1 / 255 as a rule)")


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Random crop, flip, RandAugment, erasing, normalisation. (PIL RGB, caption, Random) -> (pixels, caption).

    size: of the result. scale, ratio: share of the area and aspect ratio of the crop (1.0 to 1.0: the picture is
    squashed whole). flip: probability; left and right are swapped in the caption, and a caption whose left and right
    cannot be swapped safely keeps its picture unflipped. randaugment: (number, magnitude of 10) or None. erase:
    probability of replacing a random rectangle by the mean colour (Zhong et al. 2020). mean, std: normalisation.
    """

    size: Size
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    randaugment: tuple[int, int] | None = (2, 7)
    erase: float = 0.0
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD

    def __post_init__(self) -> None:
        height_width(self.size)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"transform scale={self.scale}: shares of the area, 0 < low <= high <= 1")
        if not 0 <= self.flip <= 1 or not 0 <= self.erase <= 1:
            raise UserError(f"transform flip={self.flip}, erase={self.erase}: probabilities must lie in 0..1")

    def __call__(self, image: Image.Image, caption: str, rng: Random) -> tuple[Tensor, str]:
        """((3, h, w) float32, normalised; the caption, with left and right swapped if the picture was)."""
        raw, caption = self.raw_pixels(image, caption, rng)
        return raw.normalised(), caption

    def raw_pixels(self, image: Image.Image, caption: str, rng: Random) -> tuple[RawPixels, str]:
        """The same before it is normalised."""
        planes = self._cropped(image, rng)
        if self.flip and rng.random() < self.flip:
            swapped = swap_left_right(caption)
            if swapped is not None:
                planes, caption = planes.flip(2), swapped
        if self.randaugment is not None:
            planes = RandAugment(*self.randaugment)(planes, rng)
        pixels = RawPixels(planes, Normalise(mean=self.mean, std=self.std, factor=FACTOR))
        if self.erase and rng.random() < self.erase:
            pixels = pixels._replace(erased=erase_box(planes.shape[2], planes.shape[1], rng))
        return pixels, caption

    def _cropped(self, image: Image.Image, rng: Random) -> Tensor:
        """(3, h, w) uint8; a picture that is squashed whole is what evaluation sees."""
        height, width = height_width(self.size)
        if self.scale == (1.0, 1.0):
            return to_planes(resized(image, (width, height), "bicubic"))
        box = crop_box(image.width, image.height, self.scale, self.ratio, rng)
        return resized_crop(image, box, width, height)

    def for_eval(self) -> EvalTransform:
        """The evaluation transform with the same size and normalisation."""
        return EvalTransform(size=self.size, mean=self.mean, std=self.std)


@dataclass(frozen=True)
class Blank:
    """An evaluation transform that sees grey pictures only, of the same sizes."""

    transform: Any

    def __call__(self, image: Image.Image, *further: Any) -> Any:
        """RGB picture -> what the transform makes of a grey one; what else it takes stays as it is."""
        return self.transform(blank(image), *further)

    def raw_pixels(self, image: Image.Image, *further: Any) -> Any:
        """The same before it is normalised, where the transform gives that."""
        return look(self.transform, blank(image), *further)


class BlankTrain(Blank):
    """The same for training: (RGB picture, caption, Random)."""


def blank(image: Image.Image) -> Image.Image:
    """Nothing but grey, of the same size."""
    return Image.new("RGB", image.size, (128, 128, 128))


def erase_box(width: int, height: int, rng: Random) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random rectangle to erase, drawn like torchvision's RandomErasing by default.

    Its area is 2 to 33 % of the picture's, its height 0.3 to 3.3 times its width. It never covers a whole side; where
    none of ten fits it is empty, and nothing is erased.
    """
    for h, w in _drawn_sides(width * height, (0.02, 0.33), (0.3, 3.3), rng):
        if w < width and h < height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, 0, 0


def _drawn_sides(
    area: int, scale: tuple[float, float], ratio: tuple[float, float], rng: Random
) -> Iterator[tuple[int, int]]:
    """The sides of ten rectangles, each drawn when it is asked for. ratio: the first by the second."""
    for _ in range(10):
        part, aspect = area * rng.uniform(*scale), math.exp(rng.uniform(*map(math.log, ratio)))
        yield round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))


def crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: Random
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random rectangle, drawn like torchvision's RandomResizedCrop."""
    if scale == (1.0, 1.0):
        return 0, 0, width, height
    for w, h in _drawn_sides(width * height, scale, ratio, rng):
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    # as torchvision: the largest centred rectangle whose aspect ratio is allowed
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
