"""A font that draws a text: Pillow's own where it can, else one of the system's. For all that is drawn with words."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from mmkit.errors import UserError

log = logging.getLogger(__name__)

FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "NotoSans-Regular.ttf",
    "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf", "msyh.ttc", "simsun.ttc", "malgun.ttf", "DejaVuSans.ttf",
)  # fmt: skip
"""Fonts of Linux, macOS and Windows for scripts that Pillow's own cannot draw; MMKIT_FONT names a file before them."""


@lru_cache(maxsize=512)
def font(text: str, size: int, file: str | Path | None = None) -> ImageFont.FreeTypeFont:
    """A font of ``size`` pixels for ``text``: ``file`` if it is given, else the first that has all its characters.

    UserError where ``file`` cannot be read. Where no font has them all it is said, once, and Pillow's own is taken.
    """
    own = ImageFont.load_default(size)
    assert isinstance(own, ImageFont.FreeTypeFont)
    if file is not None:
        try:
            return ImageFont.truetype(str(file), size)
        except OSError as error:
            raise UserError(f"font {file}: cannot be read ({error}); give a TrueType or OpenType file") from error
    if _draws(own, text):
        return own
    for name in filter(None, (os.environ.get("MMKIT_FONT"), *FONTS)):
        try:
            found = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _draws(found, text):
            return found
    _warn()
    return own


def cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or its beginning and an ellipsis where it is wider than so many pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


@lru_cache(maxsize=1)
def _warn() -> None:
    """Once is enough."""
    log.warning(
        "no font of this machine draws all characters of the texts, some may show as boxes: set MMKIT_FONT to a font "
        "file"
    )


def _draws(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Whether the font has a drawing for each character (that of one it has not is always the same)."""
    absent = _shape(font, "\U0010fffe")
    return all(char.isspace() or _shape(font, char) != absent for char in set(text))


def _shape(font: ImageFont.FreeTypeFont, char: str) -> Sequence[object]:
    mask = font.getmask(char)
    return (mask.size, bytes(mask))
