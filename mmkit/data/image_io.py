"""Opening pictures: any mode becomes RGB, the camera's rotation is applied, and what cannot be read names its file."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

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
    if isinstance(image, Image.Image):
        return to_rgb(image)
    name = str(image) if isinstance(image, (str, Path)) else "a picture in memory"
    if isinstance(record, Record):
        name = record.key if isinstance(image, bytes) else f"{image} ({record.key})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise BadImage(f"{name}: {opened.width} x {opened.height} pixels are too many; make it smaller")
            opened.load()
            return to_rgb(ImageOps.exif_transpose(opened))
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


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: alpha and palette transparency on white, 16-bit grey scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        # 16-bit grey (PNG, TIFF): PIL's own conversion would clip everything above 255 to white.
        return image.convert("I").point(lambda level: level / 257).convert("L").convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGB", layer.size, (255, 255, 255))
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    return image.convert("RGB")
