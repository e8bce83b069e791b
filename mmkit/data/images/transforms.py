"""Pictures to pixels: the training augmentation of ALBEF (RECIPES A.4) and the plain resize for evaluation.

Every random choice comes from the ``random.Random`` that is passed in. Pictures are bytes at every step, and travel as
such to the device, which normalises them: ``look`` gives these, the transforms' own calls give the float pixels.
Evaluation resizes by Pillow, which the originals did; training's crops see ``planes``. Left out: colour jitter, mixing
of pictures (ALBEF has neither).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from random import Random
from typing import Any

from PIL import Image
from torch import Tensor

from mmkit.data.images.planes import Box, painter, resized_crop, to_planes
from mmkit.data.images.randaugment import Drawn, RandAugment
from mmkit.data.images.resizing import RESAMPLE, Resample, resized
from mmkit.data.images.size import Size, height_width
from mmkit.data.images.view import Affine, View, mirrored, scaled, shifted
from mmkit.data.texts.mirror import Edit, swaps
from mmkit.errors import UserError
from mmkit.types import Normalise, Pixels, RawPixels

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FACTOR = 1 / 255
"""What bytes are multiplied by before they are normalised."""

Triple = tuple[float, float, float]


def to_pixels(image: Image.Image, mean: Triple, std: Triple, factor: float = FACTOR) -> RawPixels:
    """RGB picture to (3, h, w) uint8, with how it is normalised."""
    return _raw(image, False, _normalise(tuple(mean), tuple(std), factor))


def _raw(image: Image.Image, mirrored: bool, normalise: Normalise, erased: Box = (0, 0, 0, 0)) -> RawPixels:
    """The same, still to be painted where it can be."""
    if (paint := painter(image, mirrored)) is not None:
        return RawPixels(None, normalise, erased, paint=paint, shape=(3, image.height, image.width))
    return RawPixels(to_planes(image, mirrored), normalise, erased)


@cache
def _normalise(mean: Triple, std: Triple, factor: float) -> Normalise:
    """One for all pictures that are normalised alike."""
    return Normalise(mean=mean, std=std, factor=factor)


def look(transform: Any, *given: Any) -> Any:
    """What a transform makes of a picture (and the caption and Random of training), on its way to a batch.

    Its ``raw_pixels``, which takes what its call takes and gives ``RawPixels`` in place of float pixels; its call where
    it has no such method, or its class is one of the user's own that changes the call alone.
    """
    return transform.raw_pixels(*given) if "raw_pixels" in _own(transform) else transform(*given)


def _own(transform: Any) -> set[str]:
    """Which of the ways to use a transform the nearest of its classes defines that defines any."""
    return _defined(transform.__class__)


@cache
def _defined(transform: type) -> set[str]:
    kinds = (vars(kind).keys() & {"draw", "view", "raw_pixels", "__call__"} for kind in transform.__mro__)
    return next(names for names in kinds if names)


def drawn(transform: Any, image: Any, texts: Sequence[str], rng: Random) -> tuple[Pixels, str, View | None]:
    """What training sees of a picture or clip and of the first of its texts, and the view, which holds for the rest.

    texts: all words that must stay true; "" as the first where there is no caption. A transform without a ``draw``, or
    of a class of the user's own that changes the call alone, gives no view.
    """
    if isinstance(transform, Blank):
        return drawn(transform.transform, blank(image), texts, rng)
    if "draw" not in _own(transform):
        return *look(transform, image, texts[0], rng), None
    view: View = transform.draw(image.size, texts, rng)
    return view.picture(image), view.words(texts[0]), view


def draws(transform: Any) -> bool:
    """Whether ``drawn`` gives a view."""
    return draws(transform.transform) if isinstance(transform, Blank) else "draw" in _own(transform)


def view_of(transform: Any, size: tuple[int, int]) -> View | None:
    """What an evaluation transform shows of pictures of this size, (width, height); None where it cannot tell."""
    if isinstance(transform, Blank):
        return view_of(transform.transform, size)
    if "view" not in _own(transform):
        return None
    view: View = transform.view(size)
    return view


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

    def view(self, size: tuple[int, int]) -> View:
        """What is shown of pictures of this size, (width, height)."""
        height, width = height_width(self.size)
        return View(whole=size, size=(width, height), paint=self.raw_pixels, moves=fitting(size, (width, height)))

    def resized(self, size: Size) -> EvalTransform:
        """The same for another size of the result."""
        return replace(self, size=size)


def fitting(size: tuple[int, int], to: tuple[int, int]) -> tuple[Affine, ...]:
    """How places move where a whole picture is resized; both (width, height)."""
    return () if size == to else (scaled(to[0] / size[0], to[1] / size[1]),)


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
        view = self.draw(image.size, (caption,), rng)
        return view.picture(image), view.words(caption)

    def draw(self, size: tuple[int, int], texts: Sequence[str], rng: Random) -> View:
        """One draw for pictures of this size, (width, height), and for all that is said of them.

        texts: those that must stay true; where left and right of one cannot be swapped, the view is not mirrored.
        """
        high, wide = height_width(self.size)
        crop = crop_box(*size, self.scale, self.ratio, rng)
        swapped = _swapped(texts) if self.flip and rng.random() < self.flip else None
        augment = None if self.randaugment is None else RandAugment(*self.randaugment)
        changes = [] if augment is None else augment.draw(rng)
        erased = erase_box(wide, high, rng) if self.erase and rng.random() < self.erase else (0, 0, 0, 0)
        return View(
            whole=size, size=(wide, high), swapped=swapped,
            paint=partial(self._painted, crop, swapped is not None, changes, erased),
            moves=(
                shifted(-crop[0], -crop[1]), scaled(wide / (crop[2] - crop[0]), high / (crop[3] - crop[1])),
                *(() if swapped is None else (mirrored(wide),)),
                *(augment.moves(changes, wide, high) if augment is not None and changes else ()),
            ),
        )  # fmt: skip

    def _painted(
        self, crop: Box, is_mirrored: bool, changes: list[Drawn], erased: Box, image: Image.Image
    ) -> RawPixels:
        """A picture by what was drawn; one that is squashed whole is what evaluation sees."""
        height, width = height_width(self.size)
        normalise = _normalise(tuple(self.mean), tuple(self.std), FACTOR)
        if self.scale == (1.0, 1.0):
            raw = _raw(resized(image, (width, height), "bicubic"), is_mirrored, normalise, erased)
        else:
            planes = resized_crop(image, crop, width, height)
            raw = RawPixels(planes.flip(2) if is_mirrored else planes, normalise, erased)
        if self.randaugment is None:
            return raw
        return raw._replace(bytes=RandAugment(*self.randaugment).applied(raw.bytes, changes))

    def for_eval(self) -> EvalTransform:
        """The evaluation transform with the same size and normalisation."""
        return EvalTransform(size=self.size, mean=self.mean, std=self.std)


def _swapped(texts: Sequence[str]) -> dict[str, Sequence[Edit]] | None:
    """The edits of each text; None where one of them cannot be true of a mirrored picture."""
    found: dict[str, Sequence[Edit]] = {}
    for text in texts:
        edits = swaps(text)
        if edits is None:
            return None
        found[text] = edits
    return found


@dataclass(frozen=True)
class Blank:
    """An evaluation transform that sees grey pictures only, of the same sizes."""

    transform: Any

    @property
    def reads_clips(self) -> bool:
        """Whether it is of clips; as the transform."""
        return bool(getattr(self.transform, "reads_clips", False))

    def __call__(self, image: Any, *further: Any) -> Any:
        """RGB picture -> what the transform makes of a grey one; what else it takes stays as it is."""
        return self.transform(blank(image), *further)

    def raw_pixels(self, image: Any, *further: Any) -> Any:
        """The same before it is normalised, where the transform gives that."""
        return look(self.transform, blank(image), *further)


class BlankTrain(Blank):
    """The same for training: (RGB picture, caption, Random)."""


def blank(image: Any) -> Any:
    """Nothing but grey, of the same size; of a clip as many frames."""
    return Image.new("RGB", image.size, (128, 128, 128)) if isinstance(image, Image.Image) else image.blank()


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
