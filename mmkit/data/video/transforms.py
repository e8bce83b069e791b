"""Clips to pixels: which frames are seen, and one view for all of them.

Whatever a picture's transform draws (crop, flip, colours, what is erased), it draws once for all frames of a clip. Left
out: frames of unequal size in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any, ClassVar, cast, get_args

import torch
from PIL import Image
from torch import Tensor

from mmkit.data.images.size import Size
from mmkit.data.images.transforms import TrainTransform, look, view_of
from mmkit.data.images.view import View
from mmkit.data.video.frames import Frames
from mmkit.data.video.samplers import Reader, Sampler
from mmkit.errors import UserError
from mmkit.types import Pixels, RawPixels


@dataclass(frozen=True, kw_only=True)
class ClipTransform:
    """Frames for evaluation. (opened clip) -> (3, T, h, w) float32.

    frame: what is made of each, a picture's evaluation transform. sampler: which are seen. reader: of video files, see
    ``by_torchcodec``.
    """

    reads_clips: ClassVar[bool] = True
    frame: Any
    sampler: Sampler
    reader: Reader = "pyav"

    def __post_init__(self) -> None:
        _check(self.sampler, self.reader)
        self.sampler.for_eval().fixed(self.sampler.frames, self.sampler.rate)

    @property
    def size(self) -> Size:
        """Of the frames."""
        found: Size = self.frame.size
        return found

    @property
    def std(self) -> tuple[float, float, float]:
        """By which the frames' colours are divided."""
        found: tuple[float, float, float] = self.frame.std
        return found

    def __call__(self, clip: Frames) -> Tensor:
        """The chosen frames, normalised: (3, T, h, w) float32."""
        pixels = self.raw_pixels(clip)
        return pixels.normalised() if isinstance(pixels, RawPixels) else pixels

    def raw_pixels(self, clip: Frames) -> Pixels:
        """The same before it is normalised, where the view gives bytes."""
        numbers = self.sampler.for_eval().fixed(clip.count, clip.rate)
        return stacked([look(self.frame, frame) for frame in clip.take(numbers)])

    def resized(self, size: Size) -> ClipTransform:
        """The same for another size of the frames."""
        return replace(self, frame=self.frame.resized(size))

    def view(self, size: tuple[int, int]) -> View | None:
        """What is shown of clips whose frames are of this size, (width, height); None where ``frame`` cannot tell."""
        one = view_of(self.frame, size)
        return None if one is None else replace(one, paint=cast(Any, self.raw_pixels))


@dataclass(frozen=True, kw_only=True)
class ClipTrain(TrainTransform):
    """A picture's training transform on the frames of a clip, one draw for all. (clip, caption, Random) -> (pixels,
    caption).

    sampler: which frames. tested: which are seen in evaluations; None = by the same sampler. reader: of video files,
    "pyav" or "torchcodec". The rest as in ``TrainTransform``; a flip swaps left and right in the caption, of what moves
    too.
    """

    reads_clips: ClassVar[bool] = True
    sampler: Sampler
    tested: Sampler | None = None
    reader: Reader = "pyav"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.sampler, self.reader)
        if self.tested is not None and self.tested.frames != self.sampler.frames:
            raise UserError(
                f"ClipTrain tested={self.tested}: {self.sampler.frames} frames are read in training; "
                "evaluate with as many, or train again"
            )

    def raw_pixels(self, image: Any, caption: str, rng: Random) -> tuple[RawPixels, str]:
        """((3, T, h, w) uint8; the caption, with left and right swapped if the frames were mirrored)."""
        return super().raw_pixels(image, caption, rng)

    def draw(self, size: tuple[int, int], texts: Sequence[str], rng: Random) -> View:
        """One draw for clips whose frames are of this size, (width, height), and for which of them are seen."""
        view, chosen = super().draw(size, texts, rng), rng.getrandbits(32)
        return replace(view, paint=partial(self._frames, view.paint, chosen))

    def _frames(self, paint: Callable[[Image.Image], RawPixels], chosen: int, clip: Any) -> RawPixels:
        numbers = self.sampler.draw(clip.count, clip.rate, Random(chosen))
        return stacked([paint(frame) for frame in clip.take(numbers)])  # type: ignore[return-value]  # all are bytes

    def for_eval(self) -> ClipTransform:  # type: ignore[override]
        """The evaluation transform with the same size, normalisation and frames."""
        sampler = (self.tested or self.sampler).for_eval()
        return ClipTransform(frame=super().for_eval(), sampler=sampler, reader=self.reader)


def stacked(frames: Sequence[Pixels]) -> Pixels:
    """Frames (3, h, w) as one clip (3, T, h, w), bytes where all of them are."""
    raw = [frame for frame in frames if isinstance(frame, RawPixels)]
    if len(raw) == len(frames):
        return raw[0]._replace(bytes=torch.stack([frame.bytes for frame in raw], 1))
    return torch.stack([f.normalised() if isinstance(f, RawPixels) else f for f in frames], 1)


def _check(sampler: object, reader: str) -> None:
    if reader not in get_args(Reader):
        raise UserError(f"reader={reader!r}: videos are read by {' or '.join(map(repr, get_args(Reader)))}")
    if not isinstance(sampler, Sampler):
        raise UserError(f"sampler={sampler!r}: give a Sampler, such as Sampler(how='segments', frames=8)")
