"""A clip: what a record holds in place of a picture where something moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmkit.errors import UserError

Frame = Image.Image | Path | bytes
FILMS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"))
"""Endings of videos, in lower case."""
BEGINNINGS = {
    b"\x1aE\xdf\xa3": ".mkv", b"FLV": ".flv", b"\0\0\1\xba": ".mpg", b"0&\xb2u": ".wmv",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Clip:
    """Pictures in the order of time, not yet opened; see ``video/opening.py``.

    frames: the path of a video, of an animated picture, of an array (``.npy``) or of a folder of pictures; the bytes of
    such a file; pictures in order; or an array (T, height, width, 3) uint8. rate: frames per second, where the frames
    do not tell it themselves; None = unknown.
    """

    frames: Path | bytes | Sequence[Frame] | np.ndarray[Any, Any]
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise UserError(f"clip: rate={self.rate}; give frames per second, above 0")

    @property
    def path(self) -> Path | None:
        """The one file or folder that it is; None for several, and for what is in memory."""
        return self.frames if isinstance(self.frames, Path) else None

    def files(self) -> Iterator[Path]:
        """The paths that it names."""
        if isinstance(self.frames, Path):
            yield self.frames
        elif isinstance(self.frames, Sequence) and not isinstance(self.frames, bytes):
            yield from (frame for frame in self.frames if isinstance(frame, Path))

    def __str__(self) -> str:
        """For messages."""
        if isinstance(self.frames, Path):
            return str(self.frames)
        if isinstance(self.frames, bytes) or not len(self.frames) or not isinstance(self.frames[0], Path):
            return "a clip in memory"
        return f"{self.frames[0]} ... ({len(self.frames)} frames)"


def as_seen(file: Path) -> Path | Clip:
    """A file as a record holds it: a video is a clip, all else a picture."""
    return Clip(file) if file.suffix.lower() in FILMS else file


def film_ending(start: bytes) -> str:
    """The ending that a video should have, by its first 16 bytes; ".mp4" where they do not tell."""
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return ".avi"
    return next((ending for begins, ending in BEGINNINGS.items() if start.startswith(begins)), ".mp4")
