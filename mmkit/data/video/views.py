"""Several views of a clip in a test, whose answers are averaged (ViViT, section 4.1: four clips by three crops).

``samplers.Views`` names them. Of a frame that is no square three crops stand at the start, in the middle and at the end
of its longer side; a transform that squashes frames cuts them to its shape there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mmkit.data.images.centre_crop import Box, CentreCrop
from mmkit.data.images.size import height_width
from mmkit.data.images.transforms import EvalTransform, look
from mmkit.data.video.frames import Frames
from mmkit.data.video.samplers import SEVERAL, Views
from mmkit.data.video.transforms import ClipTransform, stacked
from mmkit.errors import UserError
from mmkit.types import Pixels


def check_views(views: Views, transform: object) -> None:
    """UserError for a model that reads no clips, or whose sampler knows one clip of a video alone."""
    if not isinstance(transform, ClipTransform):
        raise UserError(f"--views {views}: is of clips, and this model reads pictures; leave it out")
    how = transform.sampler.for_eval().how
    if views.clips > 1 and how not in SEVERAL:
        raise UserError(
            f"--views {views}: this model's sampler {how!r} takes its frames from the whole video, which is one clip; "
            f"give 1x{views.crops}, or train with {' or '.join(map(repr, SEVERAL))}"
        )
    if views.crops > 1 and type(transform.frame) not in (EvalTransform, CentreCrop):
        raise UserError(f"--views {views}: this model's own transform of frames has no crops; give {views.clips}x1")


def views_of(views: Views, transform: ClipTransform, clip: Frames) -> list[Pixels]:
    """What the model sees of each, (3, T, h, w), clip by clip; of "1x1" what ``transform`` itself shows."""
    sampler = transform.sampler.for_eval()
    chosen = [sampler.fixed(clip.count, clip.rate, (number, views.clips)) for number in range(views.clips)]
    every = sorted({number for numbers in chosen for number in numbers})
    found = dict(zip(every, clip.take(every), strict=True))
    crops = [transform.frame] if views.crops == 1 else [_crop(transform.frame, i / 2) for i in range(3)]
    return [stacked([look(crop, found[number]) for number in numbers]) for numbers in chosen for crop in crops]


def _crop(frame: EvalTransform, at: float) -> CentreCrop:
    """A frame's transform with its window at this share of the longer side; one that squashes is cut to its shape."""
    given: dict[str, Any] = {field.name: getattr(frame, field.name) for field in fields(frame)}
    return _CropAt(**given, at=at)


@dataclass(frozen=True, kw_only=True)
class _CropAt(CentreCrop):
    """A ``CentreCrop`` whose window stands at a share of the way along the longer side: 0 at its start, 1 its end."""

    at: float = 0.5

    def _place(self, width: int, height: int) -> tuple[tuple[int, int], Box]:
        whole, (left, top, right, bottom) = super()._place(width, height)
        high, wide = height_width(self.window or self.size)
        across, down = whole[0] - wide, whole[1] - high
        if self.at == 0.5 or max(across, down) <= 0:
            return whole, (left, top, right, bottom)
        if across >= down:
            return whole, (round(across * self.at), top, round(across * self.at) + right - left, bottom)
        return whole, (left, round(down * self.at), right, round(down * self.at) + bottom - top)
