"""Opening pictures: any mode becomes RGB, the camera's rotation is applied, and what cannot be read names its file.

A mode that states its range keeps it: 8 bits, and 16 bits of grey ("I;16", as in PNG and most TIFF), of which 65535 is
white. Whole numbers of 32 bits ("I") and floats ("F") state none: there the smallest of the usual ranges that holds
every value of the picture is taken, 0 to 1 (floats alone), 0 to 255, or 0 to 65535; values outside are refused.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from mmkit.data.images.formats import FORMATS, kind_of
from mmkit.data.records import Record
from mmkit.errors import UserError

LIMIT = "MMKIT_MAX_MEGAPIXELS"
"""The environment variable that raises or lowers ``MAX_MEGAPIXELS``, for every command and every process of a run."""
MAX_MEGAPIXELS = 100.0
"""Pictures with more millions of pixels are refused before they are decoded, which would take gigabytes."""

ORIENTATION = 0x0112  # the tag of EXIF, 1 to 8
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
"""What Pillow raises for broken files of one format or another."""


class BadImage(UserError):
    """A picture that cannot be read. The loader replaces it and counts it; everything else shows the message."""


def max_megapixels() -> float:
    """The limit that holds now; UserError where ``MMKIT_MAX_MEGAPIXELS`` is no number above 0."""
    said = os.environ.get(LIMIT)
    if said is None:
        return MAX_MEGAPIXELS
    try:
        value = float(said)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{LIMIT}={said!r}: give millions of pixels, such as {LIMIT}=200")
    return value


def load_image(record: Record | Image.Image | Path | str | bytes | IO[bytes]) -> Image.Image:
    """The picture as RGB, upright as its EXIF says; transparent parts on white; of several frames the first.

    A path, the bytes of its file, the file opened for reading, the same opened by Pillow, and a record of either give
    the same pixels and the same errors. A Pillow picture is left as it is, but for being loaded; of one with several
    frames the frame is taken at which it stands.

    Raises:
        BadImage: missing, truncated, no picture of a known format, or too large; the message names the file.
    """
    image = record.image if isinstance(record, Record) else record
    name = str(image) if isinstance(image, (str, Path)) else "a picture in memory"
    if isinstance(record, Record):
        name = f"{image} ({record.key})" if isinstance(image, Path) and record.key != str(image) else record.key
    try:
        with _opened(image, name) as opened:
            if not (opened.width and opened.height):
                raise BadImage(f"{name}: {opened.width} x {opened.height} pixels; there is nothing to see")
            _check_size(opened, name)
            opened.load()
            return to_rgb(upright(opened), name)
    except FileNotFoundError as error:
        raise BadImage(f"{name}: no such picture") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"{name}: {_unknown(image)}") from error
    except DAMAGE as error:
        if isinstance(error, UserError):
            raise
        raise BadImage(f"{name}: damaged picture ({error})") from error


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as the orientation in its EXIF says; the rest of the EXIF may be damaged."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except (*DAMAGE, AttributeError):  # no EXIF that Pillow can read is no EXIF
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in ("exif", "xmp", "XML:com.adobe.xmp"):  # whoever opens it once more must not turn it once more
        turned.info.pop(key, None)
    return turned


@contextmanager
def _opened(image: Image.Image | Path | str | bytes | IO[bytes], name: str) -> Iterator[Image.Image]:
    """Opened by Pillow, its header read; closed again if it was opened here."""
    if isinstance(image, Image.Image):
        if isinstance(image, ImageFile.ImageFile) and image.format not in FORMATS:
            raise BadImage(f"{name}: opened as {image.format}, which is not read. Known formats: {', '.join(FORMATS)}")
        yield image
        return
    if isinstance(image, (str, Path)):
        _check_file(image, name)
    file = image if isinstance(image, (str, Path)) else io.BytesIO(file_bytes(image))
    limit = int(max_megapixels() * 1e6)
    if Image.MAX_IMAGE_PIXELS is not None and limit > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow refuses twice of it by itself, and our limit is the one that people set
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            opened = Image.open(file, formats=_formats())
        except Image.DecompressionBombError as error:
            raise BadImage(f"{name}: too many pixels ({error}); {_larger()}") from error
    with opened:
        yield opened


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow opens; MPO is opened as JPEG, and AVIF is not everywhere."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def file_bytes(image: bytes | IO[bytes]) -> bytes:
    """All that an open file holds, from its beginning where it can go back."""
    if isinstance(image, bytes):
        return image
    if image.seekable():
        image.seek(0)
    return image.read()


def _check_file(path: Path | str, name: str) -> None:
    """OSError or BadImage for what is no plain file: opening a pipe would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL in the name
        raise BadImage(f"{name!r}: not the name of a file ({error})") from error
    if stat.S_ISDIR(mode):
        raise BadImage(f"{name}: a folder, no picture")
    if not stat.S_ISREG(mode):
        raise BadImage(f"{name}: no plain file, but a pipe or a device")


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > max_megapixels() * 1e6:
        raise BadImage(f"{name}: {image.width} x {image.height} pixels are too many; {_larger()}")


def _larger() -> str:
    return f"make it smaller, or raise the limit of {max_megapixels():g} megapixels: {LIMIT}=N"


def _unknown(image: Image.Image | Path | str | bytes | IO[bytes]) -> str:
    """Why a file was not recognised."""
    start = b""
    if isinstance(image, (str, Path)):
        with open(image, "rb") as file:
            start = file.read(64)
    elif not isinstance(image, Image.Image):
        start = file_bytes(image)[:64]
    if not start:
        return "an empty file, no picture"
    kind = kind_of(start)
    return f"{kind}, no picture that can be read" if kind else "not a picture in a known format"


def to_rgb(image: Image.Image, name: str = "a picture in memory") -> Image.Image:
    """Any mode to RGB: alpha and palette transparency on white, deep grey scaled to 8 bits (see the module).

    Raises:
        BadImage: values outside every known range; the message begins with ``name``.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _deep_grey(image, name)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGB", layer.size, (255, 255, 255))
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    return image.convert("RGB")


def _deep_grey(image: Image.Image, name: str) -> Image.Image:
    # PIL's own conversion clips everything above 255 to white, and makes values from 0 to 1 black.
    values = np.asarray(image.convert("I") if image.mode.startswith("I;16") else image, np.float32)
    low, high = float(values.min()), float(values.max())
    ranges = (65535,) if image.mode.startswith("I;16") else (255, 65535) if image.mode == "I" else (1, 255, 65535)
    full = next((full for full in ranges if low >= 0 and high <= full), None)  # none either where a value is nan
    if full is None:
        raise BadImage(
            f"{name}: grey values from {low:.6g} to {high:.6g} (mode {image.mode}); of these 0 to "
            f"{' or 0 to '.join(map(str, ranges))} is understood. Scale them, or save the picture with 8 bits"
        )
    return Image.fromarray((values * (255 / full)).round().astype(np.uint8)).convert("RGB")
