"""Opening pictures: any mode becomes RGB, the camera's rotation is applied, and what cannot be read names its file.

A mode that states its range keeps it: 8 bits, and 16 bits of grey ("I;16", as in PNG and most TIFF), of which 65535 is
white. Whole numbers of 32 bits ("I") and floats ("F") state none: there the smallest of the usual ranges that holds
every value of the picture is taken, 0 to 1 (floats alone), 0 to 255, or 0 to 65535; values outside are refused.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmkit.data.records import Record
from mmkit.errors import UserError

MAX_PIXELS = 100_000_000
"""Pictures with more pixels are refused: decoding them would take gigabytes."""


class BadImage(UserError):
    """A picture that cannot be read. The loader replaces it and counts it; everything else shows the message."""


def load_image(record: Record | Image.Image | Path | str | bytes) -> Image.Image:
    """The picture as RGB, upright; transparent parts on white.

    Raises:
        BadImage: missing, truncated, not a picture, or more than ``MAX_PIXELS``; the message names the file.
    """
    image = record.image if isinstance(record, Record) else record
    name = str(image) if isinstance(image, (str, Path)) else "a picture in memory"
    if isinstance(record, Record):
        name = f"{image} ({record.key})" if isinstance(image, Path) and record.key != str(image) else record.key
    if isinstance(image, Image.Image):
        if not (image.width and image.height):
            raise BadImage(f"{name}: {image.width} x {image.height} pixels; there is nothing to see")
        return to_rgb(image, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise BadImage(f"{name}: {opened.width} x {opened.height} pixels are too many; make it smaller")
            opened.load()
            return to_rgb(ImageOps.exif_transpose(opened), name)
    except FileNotFoundError as error:
        raise BadImage(f"{name}: no such picture") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"{name}: not a picture in a known format") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"{name}: too many pixels; make it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"{name}: damaged picture ({error})") from error


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
