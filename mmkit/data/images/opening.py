"""Opening pictures: any mode becomes RGB, the camera's rotation is applied, and what cannot be read names its file.

Grey of more than 8 bits: see ``images/grey``.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO

from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from mmkit.data.clip import FILMS, Clip
from mmkit.data.images.formats import BEGINNINGS, FORMATS, kind_of
from mmkit.data.images.grey import deep_to_rgb, is_deep
from mmkit.data.images.planar import Planar
from mmkit.data.images.png import bare
from mmkit.data.records import Record
from mmkit.errors import Unreadable, UserError

LIMIT = "MMKIT_MAX_MEGAPIXELS"
"""The environment variable that raises or lowers ``MAX_MEGAPIXELS``, for every command and every process of a run."""
MAX_MEGAPIXELS = 100.0
"""Pictures with more millions of pixels are refused before they are decoded, which would take gigabytes."""

AT_ONCE = 1 << 22
"""Bytes of a file that the decoder gets at once; a JPEG's begins a row of blocks anew wherever its bytes end."""

ORIENTATION = 0x0112  # the tag of EXIF, 1 to 8
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, RuntimeError, AssertionError, ArithmeticError,
    struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises for broken files of one format or another."""
LOCKS = tuple(Lock() for _ in range(64))
"""Objects in memory are read by one thread at a time: Pillow loads a picture when it is first looked at, once."""


class BadImage(Unreadable):
    """A picture that cannot be read."""


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
    if isinstance(image, Clip):
        raise UserError(f"{image}: is a clip, and a picture is wanted here")
    if isinstance(image, Planar) and image.paint is not None:
        return image  # RGB and upright; it stays as it is, for who reads planes
    name = str(image) if isinstance(image, (str, Path)) else "a picture in memory"
    if isinstance(record, Record):
        name = f"{image} ({record.key})" if isinstance(image, Path) and record.key != str(image) else record.key
    with LOCKS[id(image) // 16 % len(LOCKS)]:
        try:
            return _rgb(image, name)
        except Image.DecompressionBombError as error:
            raise BadImage(f"{name}: too many pixels ({error}); {_larger()}") from error
        except DAMAGE as error:
            if isinstance(error, UserError):
                raise
            with suppress(*DAMAGE):
                pixels = None if _is_of_the_system(error) else bare(_bytes(image))
                if pixels is not None:
                    return _rgb(pixels, name)
            raise BadImage(f"{name}: {_why(error, image)}") from error


def _rgb(image: Image.Image | Path | str | bytes | IO[bytes], name: str) -> Image.Image:
    with _opened(image, name) as opened:
        if not (opened.width and opened.height):
            raise BadImage(f"{name}: {opened.width} x {opened.height} pixels; there is nothing to see")
        if opened.width * opened.height > max_megapixels() * 1e6:
            raise BadImage(f"{name}: {opened.width} x {opened.height} pixels are too many; {_larger()}")
        opened.load()
        return to_rgb(upright(opened), name)


def _is_of_the_system(error: BaseException) -> bool:
    """Whether the file cannot be had; Pillow's own errors of this class have no number."""
    return isinstance(error, OSError) and error.errno is not None


def _why(error: BaseException, image: Image.Image | Path | str | bytes | IO[bytes]) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such picture"
    if isinstance(error, UnidentifiedImageError):
        return _unknown(image)
    if isinstance(error, OSError) and _is_of_the_system(error):
        return f"cannot be read ({error.strerror})"
    return f"damaged picture ({error})"


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
        with _unmapped(image):
            yield image
        return
    if isinstance(image, (str, Path)):
        _check_file(image, name)
    limit = int(max_megapixels() * 1e6)
    if Image.MAX_IMAGE_PIXELS is not None and limit > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow refuses twice of it by itself, and our limit is the one that people set
    with _file(image) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(file, formats=_formats())
        opened.decodermaxblock = max(opened.decodermaxblock, min(size, AT_ONCE))
        with opened:
            yield opened


def _file(image: Path | str | bytes | IO[bytes]) -> IO[bytes]:
    # Pillow never gets the name: it would map a TIFF that is to be turned, with width and height confused
    return open(image, "rb") if isinstance(image, (str, Path)) else io.BytesIO(file_bytes(image))


@contextmanager
def _unmapped(image: Image.Image) -> Iterator[None]:
    """Within, Pillow loads the picture from its file and does not map it."""
    if not isinstance(image, TiffImageFile):
        yield
        return
    name, image.filename = image.filename, ""
    try:
        yield
    finally:
        image.filename = name


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow opens; MPO is opened as JPEG, and AVIF is not everywhere."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def file_bytes(image: bytes | IO[bytes]) -> bytes:
    """All that an open file holds, from its beginning where it can go back."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, io.TextIOBase):
        raise UserError('a picture\'s file is opened as text; open it as bytes: open(path, "rb")')
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


def _larger() -> str:
    return f"make it smaller, or raise the limit of {max_megapixels():g} megapixels: {LIMIT}=N"


def _bytes(image: Image.Image | Path | str | bytes | IO[bytes], most: int = -1) -> bytes:
    """The file's, the first ``most``; none of what Pillow has opened."""
    if isinstance(image, (str, Path)):
        with open(image, "rb") as file:
            return file.read(most)
    return b"" if isinstance(image, Image.Image) else file_bytes(image)[: most if most >= 0 else None]


def _unknown(image: Image.Image | Path | str | bytes | IO[bytes]) -> str:
    """Why a file was not recognised."""
    start = _bytes(image, 64)
    if not start:
        return "an empty file, no picture"
    if start.startswith(tuple(BEGINNINGS)):
        return "begins as a picture, but is damaged or of a kind that is not read (such as floats of 16 or 64 bits)"
    kind = kind_of(start)
    if kind is None and isinstance(image, Path | str) and Path(image).suffix.lower() in FILMS:
        return "a video, and a picture is wanted here; models that read clips take it (docs/video.md)"
    return f"{kind}, no picture that can be read" if kind else "not a picture in a known format"


def to_rgb(image: Image.Image, name: str = "a picture in memory") -> Image.Image:
    """Any mode to RGB: alpha and palette transparency on white, deep grey scaled to 8 bits (see the module).

    Raises:
        BadImage: values outside every known range; the message begins with ``name``.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_deep(image):
        try:
            return deep_to_rgb(image)
        except ValueError as error:
            raise BadImage(f"{name}: {error}") from error
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGB", layer.size, (255, 255, 255))
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    return image.convert("RGB")
