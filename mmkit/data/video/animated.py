"""Animated pictures as clips, by Pillow: GIF, WebP, PNG; a picture that does not move is a clip of one frame."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from PIL import Image

from mmkit.data.images.formats import FORMATS, suffix_of
from mmkit.data.images.opening import DAMAGE, BadImage, load_image
from mmkit.data.video.frames import Timed

USUAL = 100
"""Milliseconds of a frame that says 0, as browsers show it."""


def is_picture(file: Path | bytes) -> bool:
    """Whether a file begins as a picture of ``FORMATS``."""
    try:
        start = file[:16] if isinstance(file, bytes) else _start(file)
    except OSError as error:
        raise BadImage(f"{file!s:.200}: cannot be read ({error.strerror})") from error
    return suffix_of(start) is not None


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(16)


class Animated(Timed):
    """The frames of a picture file."""

    def __init__(self, name: str, file: Path | bytes) -> None:
        self.file = file
        durations = _durations(file, name)
        times = [sum(durations[:i]) for i in range(len(durations))]
        super().__init__(name, times, durations[-1], 1000.0)
        if len(durations) == 1:
            self.count, self.rate, self._shown = 1, None, None

    def pictures(self, numbers: Sequence[int]) -> dict[int, Image.Image]:
        """See ``Timed``."""
        if len(numbers) == 1 and numbers[0] == 0:
            return {0: _whole(self.file, self.name)}
        found = {}
        with ExitStack() as stack:
            image = _opened(self.file, self.name, stack)
            for number in numbers:
                try:
                    image.seek(number)
                    image.load()
                except DAMAGE as error:
                    raise BadImage(f"{self.name}: damaged at frame {number} ({error})") from error
                found[number] = load_image(image.copy())
        return found


def _whole(file: Path | bytes, name: str) -> Image.Image:
    """The first frame; BadImage says what is wrong with the file."""
    try:
        return load_image(file)
    except BadImage as error:
        if isinstance(file, Path):
            raise
        raise BadImage(f"{name}: {error}") from error


def _opened(file: Path | bytes, name: str, stack: ExitStack) -> Any:
    opened: IO[bytes] = stack.enter_context(file.open("rb") if isinstance(file, Path) else io.BytesIO(file))
    try:
        return stack.enter_context(Image.open(opened, formats=[one for one in FORMATS if one in Image.OPEN] or None))
    except DAMAGE as error:
        _whole(file, name)
        raise BadImage(f"{name}: damaged picture ({error})") from error


def _durations(file: Path | bytes, name: str) -> tuple[int, ...]:
    """Milliseconds of each frame."""
    if isinstance(file, bytes):
        return _counted(file, name)
    state = file.stat()
    return _known(file, name, state.st_size, state.st_mtime_ns)


@lru_cache(4096)
def _known(file: Path, name: str, size: int, changed: int) -> tuple[int, ...]:
    return _counted(file, name)


def _counted(file: Path | bytes, name: str) -> tuple[int, ...]:
    Image.init()
    durations: list[int] = []
    with ExitStack() as stack:
        image = _opened(file, name, stack)
        if image.format == "GIF":
            _check_end(file, name)
        try:
            count = getattr(image, "n_frames", 1)
        except DAMAGE as error:
            raise BadImage(f"{name}: damaged picture ({error})") from error
        for number in range(count if image.format in ("GIF", "WEBP", "PNG", "AVIF") else 1):
            try:
                image.seek(number)
                image.load()
            except DAMAGE as error:
                if count == 1:
                    _whole(file, name)
                    return (USUAL,)  # it can be read all the same
                raise BadImage(f"{name}: damaged at frame {number} of {count} ({error})") from error
            durations.append(round(image.info.get("duration") or USUAL))
    return tuple(durations)


def _check_end(file: Path | bytes, name: str) -> None:
    """A GIF ends in a semicolon; Pillow takes one that was cut off for a shorter one."""
    data = file if isinstance(file, bytes) else file.read_bytes()
    if not data.rstrip(b"\0 \r\n").endswith(b";"):
        raise BadImage(f"{name}: damaged picture (cut off: a GIF has an end, and this has none)")
