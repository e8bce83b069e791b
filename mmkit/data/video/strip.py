"""A clip as one picture, for people: some of its frames side by side."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mmkit.data.clip import Clip
from mmkit.data.images.opening import load_image
from mmkit.data.records import Record
from mmkit.data.video.opening import open_clip
from mmkit.data.video.samplers import Sampler

FRAMES = 4
GAP = 2
GREY = (120, 120, 128)


def shown(record: Record, frames: int = FRAMES) -> Image.Image:
    """A record's picture; of a clip so many frames from the first to the last, side by side.

    BadImage for what cannot be read.
    """
    if not isinstance(record.image, Clip):
        return load_image(record)
    clip = open_clip(record.image, record.key)
    return strip(clip.take(Sampler(how="linear", frames=min(frames, clip.count)).fixed(clip.count)))


def strip(frames: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size side by side."""
    (width, height), n = frames[0].size, len(frames)
    canvas = Image.new("RGB", (n * width + (n - 1) * GAP, height), GREY)
    for i, frame in enumerate(frames):
        canvas.paste(frame, (i * (width + GAP), 0))
    return canvas
