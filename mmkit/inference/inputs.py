"""What people hand to a model, checked: pictures in any form, lists of texts, sizes of batches.

One picture or one text where a list is wanted is refused, not read letter by letter; generators are taken.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmkit.data.clip import Clip
from mmkit.data.images.opening import LOCKS, file_bytes, load_image
from mmkit.data.records import Record
from mmkit.data.texts.cleaning import CAPTION_WORDS
from mmkit.data.texts.protocol import Kind, Tokenizer
from mmkit.data.video.frames import Frames
from mmkit.data.video.opening import open_clip, open_for, reader_of, reads_clips
from mmkit.errors import UserError

log = logging.getLogger(__name__)

Picture = str | Path | bytes | IO[bytes] | Image.Image | Tensor | Record | Clip | np.ndarray[Any, Any] | Sequence[Any]
"""A picture, or for models that read clips also a ``Clip``, a list of its frames, or an array (T, h, w, 3) uint8."""


def many_pictures(images: Iterable[Picture] | Tensor) -> Iterable[Picture]:
    """The pictures one after the other; UserError for a single one, or what holds none."""
    single = isinstance(images, str | Path | bytes | Image.Image | Record | Clip) or hasattr(images, "read")
    if single or (isinstance(images, Tensor) and images.ndim == 3):
        raise UserError(f"images must be a list of pictures, not one ({_kind(images)}); write [image]")
    if isinstance(images, Tensor) and images.ndim not in (4, 5):
        raise UserError(f"images: {_kind(images)}; give (n, 3, height, width), or a list of tensors (3, height, width)")
    if not isinstance(images, Iterable):
        raise UserError(f"images must be a list of pictures, not {_kind(images)}")
    return images


def many_texts(texts: Iterable[str], what: str = "text") -> Sequence[str]:
    """The texts as a list; UserError for a single one, or one that is none. what: the name of one of them."""
    if isinstance(texts, str):
        raise UserError(f"{what}s must be a list of strings, not one string ({texts[:40]!r}); write [{what}]")
    if not isinstance(texts, Iterable):
        raise UserError(f"{what}s must be a list of strings, not {_kind(texts)}")
    found = texts if isinstance(texts, list | tuple) else list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"{what} {number}: {_kind(text)} is not a string")
    return found


def pairs_of(
    images: Iterable[Picture] | Tensor, texts: Iterable[str], what: str = "text"
) -> tuple[Sequence[Picture], Sequence[str]]:
    """Both as lists, checked; UserError where they are not equally many. what: the name of one text."""
    pictures, words = list(many_pictures(images)), many_texts(texts, what)
    if len(pictures) != len(words):
        raise UserError(f"image i goes with {what} i: {len(pictures)} images do not go with {len(words)} {what}s")
    return pictures, words


def open_seen(transform: object, image: Picture, number: int = 0) -> Image.Image | Frames:
    """Any form of a picture as RGB; for a transform that reads clips any form of a clip, or a picture as one frame.

    BadImage or UserError as ``open_picture``.
    """
    if isinstance(image, Record):
        return open_for(transform, image)
    name = f"clip {number}"
    if not reads_clips(transform):
        if isinstance(image, Clip) or (isinstance(image, Tensor | np.ndarray) and image.ndim == 4):
            open_for(transform, Record(image=Clip(()), captions=(), image_id=name, key=name))  # says that it is none
        return open_picture(image, number)
    reader = reader_of(transform)
    if isinstance(image, Clip):
        return open_clip(image, None if image.path else name, reader)
    if isinstance(image, Tensor) and image.ndim == 4:
        return open_clip(
            Clip([picture_of(frame, f"{name}, frame {i}") for i, frame in enumerate(image.unbind(1))]), name
        )
    if isinstance(image, np.ndarray):
        return open_clip(Clip(image), name)
    if isinstance(image, list | tuple):
        return open_clip(Clip([open_picture(frame, i) for i, frame in enumerate(image)]), name)
    if isinstance(image, str | Path):
        return open_clip(Path(image), reader=reader)
    if isinstance(image, bytes | bytearray | memoryview):
        return open_clip(bytes(image), name, reader)
    return open_clip(open_picture(image, number), name)


def open_picture(image: Picture, number: int = 0) -> Image.Image:
    """Any form of a picture as RGB; BadImage or UserError names what cannot be read, by ``number`` if need be."""
    name = f"picture {number}"
    if isinstance(image, Tensor):
        return picture_of(image, name)
    if isinstance(image, bytes | bytearray | memoryview):
        image = bytes(image)
    elif hasattr(image, "read") and not isinstance(image, Image.Image):
        with LOCKS[id(image) // 16 % len(LOCKS)]:
            image = _read(cast(IO[bytes], image), name)
    if isinstance(image, bytes | Image.Image):
        image = Record(image=image, captions=(), image_id=str(number), key=name)
    elif not isinstance(image, str | Path | Record):
        raise UserError(
            f"{name}: {_kind(image)} is not a picture; give a path, a PIL image (of an array: Image.fromarray), "
            "encoded bytes, a file opened for reading bytes, or a tensor (3, h, w)"
        )
    return load_image(image)


def _read(file: IO[bytes], name: str) -> bytes:
    """All of an open file; UserError for one of text, or that cannot be read."""
    try:
        data = file_bytes(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: the open file cannot be read ({error})") from error
    if not isinstance(data, bytes):
        raise UserError(f'{name}: the file was opened for text; open it with mode "rb"')
    return data


def picture_of(pixels: Tensor, name: str) -> Image.Image:
    """A tensor (3, h, w) as a picture: uint8 from 0 to 255, or float from 0 to 1. UserError for anything else."""
    if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.numel():
        raise UserError(
            f"{name}: a tensor of shape {tuple(pixels.shape)} is not a picture; it must be (3, height, width)"
        )
    if pixels.is_floating_point():
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):  # also true for nan
            raise UserError(
                f"{name}: a float picture has values from 0 to 1, these are {low:.3g} to {high:.3g}. Do not normalise "
                "it before: the model's own preprocessing does"
            )
        pixels = (pixels * 255).round().to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        raise UserError(f"{name}: a picture is uint8 (0 to 255) or float (0 to 1), not {pixels.dtype}")
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().contiguous().numpy())


class Encoder:
    """Texts to ids, at most ``max_tokens`` each; says once how many of how many texts were longer and so were cut.

    It is said at the end of the outermost ``counting``, where there is one, and only if ``shown``.
    """

    def __init__(self, tokenizer: Tokenizer | None, max_tokens: int, shown: bool = True) -> None:
        self._words, self.max_tokens, self.shown = tokenizer, max_tokens, shown
        self._whole: dict[tuple[str, Kind], int] = {}  # of what was read: its uncut length, 0 where nothing was cut
        self._times: Counter[tuple[str, Kind]] = Counter()
        self._depth = 0
        self._said = False

    @property
    def tokenizer(self) -> Tokenizer:
        """UserError where there is none."""
        if self._words is None:
            raise UserError("this model reads pictures alone: it has no words to compare, match or answer with")
        return self._words

    def __call__(self, text: str, kind: Kind = "caption") -> list[int]:
        """The ids of one text."""
        ids = self.tokenizer.encode(text, self.max_tokens, kind)
        if not self._said:
            self._whole[text, kind] = self._cut(ids, text, kind)
        return ids

    @contextmanager
    def counting(self, texts: Iterable[str] = (), kind: Kind = "caption") -> Iterator[None]:
        """What is read within counts together, each text once, however often it is read.

        texts: all that there are, where the caller knows: of equal ones each counts, and those that another process
        reads too.
        """
        self._depth += 1
        if not self._said:
            for key, times in Counter((text, kind) for text in texts).items():
                self._times[key] = max(self._times[key], times)
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._tell()

    def _cut(self, ids: Sequence[int], text: str, kind: Kind) -> int:
        if len(ids) < self.max_tokens and text.count(" ") < CAPTION_WORDS:  # of which a cleaning may leave some out
            return 0
        whole = len(self.tokenizer.encode(text, None, kind))
        return whole if whole > len(ids) else 0

    def _tell(self) -> None:
        if self.shown and not self._said:
            for text, kind in self._times.keys() - self._whole.keys():  # read by another process
                self._whole[text, kind] = self._cut(self.tokenizer.encode(text, self.max_tokens, kind), text, kind)
            lengths = self._whole
            times = {key: self._times[key] or 1 for key in lengths}
            if any(lengths.values()):
                self._said = True
                log.warning(
                    "%d of %d texts are longer than this model reads and were cut to %d tokens; the longest has %d",
                    sum(times[key] for key, length in lengths.items() if length), sum(times.values()),
                    self.max_tokens, max(lengths.values()),
                )  # fmt: skip
        self._whole, self._times = {}, Counter()


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"something of type {type(value).__name__}"
