"""Opening clips: folders and lists of pictures, arrays, animated pictures, and video files.

What cannot be read is a ``BadImage`` that names the file, as for pictures, and is counted and left out as these are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmkit.data.clip import Clip
from mmkit.data.images.formats import SUFFIXES
from mmkit.data.images.opening import BadImage, load_image
from mmkit.data.labels import natural
from mmkit.data.records import Record
from mmkit.data.video.animated import Animated, is_picture
from mmkit.data.video.by_torchcodec import open_by_torchcodec
from mmkit.data.video.files import open_video
from mmkit.data.video.frames import Array, Frames, Pictures
from mmkit.data.video.samplers import Reader
from mmkit.errors import UserError

READERS: dict[Reader, Callable[[Path | bytes, str], Frames]] = {"pyav": open_video, "torchcodec": open_by_torchcodec}


def reads_clips(transform: object) -> bool:
    """Whether a transform takes opened clips (``Frames``), and not pictures: its ``reads_clips``."""
    return bool(getattr(transform, "reads_clips", False))


def shown_as(transform: object) -> str:
    """What a model is shown, in a title: "pictures", or "clips"."""
    return "clips" if reads_clips(transform) else "pictures"


def reader_of(transform: object) -> Reader:
    """By which library a transform wants videos to be read."""
    found: Reader = getattr(transform, "reader", "pyav")
    return found


def open_for(transform: object, record: Record) -> Image.Image | Frames:
    """A record's picture, or its clip where the transform reads clips: a picture then is a clip of one frame, and an
    animated one all of its frames. BadImage for what cannot be read; UserError for a clip where pictures are read.
    """
    if reads_clips(transform):
        image = record.image
        name = f"{image} ({record.key})" if isinstance(image, (Path, Clip)) else record.key
        return open_clip(image, record.key if str(image) == record.key else name, reader_of(transform))
    if isinstance(record.image, Clip):
        raise UserError(f"{record.key}: is a clip, and this model reads pictures; {FRAMES}")
    return load_image(record)


FRAMES = (
    "train one that reads clips (docs/video.md), or compare by the mean of frames, where the model has a joint space: "
    "--frames segments:12"
)


def open_clip(
    what: Clip | Image.Image | Path | str | bytes, name: str | None = None, reader: Reader = "pyav"
) -> Frames:  # fmt: skip
    """A clip, or a picture as a clip of one frame; BadImage, which begins with ``name``, for what cannot be read.

    reader: of videos. UserError for a video file where it is not installed.
    """
    clip = what if isinstance(what, Clip) else Clip((what,) if isinstance(what, Image.Image) else as_file(what))
    frames, name = clip.frames, str(clip) if name is None else name
    if isinstance(frames, np.ndarray):
        return Array(name, frames, clip.rate)
    if isinstance(frames, Path | bytes):
        return _of_file(frames, name, clip.rate, reader)
    return Pictures(name, frames, clip.rate)


def check_there(file: Path) -> None:
    """BadImage for a picture that cannot be read, and a clip that is not there, before a model is loaded."""
    if file.is_dir() or (file.is_file() and not is_picture(file)):
        return
    load_image(file)


def as_file(what: Path | str | bytes) -> Path | bytes:
    """A path as such."""
    return Path(what) if isinstance(what, str) else what


def _of_file(file: Path | bytes, name: str, rate: float | None, reader: Reader) -> Frames:
    if isinstance(file, Path):
        if os.path.isdir(file):
            return Pictures(name, pictures_of(file), rate)
        if not os.path.isfile(file):
            raise BadImage(f"{name}: {'no plain file, but a pipe or a device' if file.exists() else 'no such clip'}")
        if file.suffix.lower() == ".npy":
            return Array(name, _mapped(file, name), rate)
    if is_picture(file):
        return Animated(name, file)
    return READERS[reader](file, name)


def pictures_of(folder: Path) -> list[Path]:
    """The pictures right in a folder, as people count: frame_2 stands before frame_10."""
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    except OSError as error:
        raise BadImage(f"{folder}: cannot be read ({error.strerror})") from error
    return sorted(found, key=lambda path: natural(path.name))


def _mapped(file: Path, name: str) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadImage(f"{name}: damaged array ({error})") from error
    return array
