"""Where words begin, by the places of the pieces in the text that they spell (by Unicode's rules, UAX 29, in short).

A word is a run between white space: letters of any script with their marks, digits, and the apostrophes, hyphens and
points inside ("it's", "t-shirt", "3.5"); what stands before and behind it belongs to it. Scripts that are written
without spaces have a word for each ideograph, kana, or syllable (Thai, Lao, Khmer, Myanmar, Tibetan, ...), or for each
piece where a piece holds more: finding their words takes a dictionary. Each emoji is a word, whatever it is joined of.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

# Ideographs and kana; then scripts whose syllables follow one another without a space.
_IDEOGRAPHS = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_SYLLABLES = re.compile(
    "[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaa7f]"
)
_LEADING = re.compile("[\u0e40-\u0e44\u0ec0-\u0ec4]")  # vowels of Thai and Lao that stand before their consonant
_FOLLOWING = re.compile("[\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0eb0\u0eb2\u0eb3\u0ebd\u0ec6]")  # and those behind it
_STACKING = re.compile("[\u1039\u17d2\u0f84]")  # the next consonant is written below
_SMALL = frozenset("ぁぃぅぇぉっゃゅょァィゥェォッャュョー々")
_INSIDE = frozenset("'’ʼ＇-‐‑_.·&@°")  # between two letters they join
_POINTS = frozenset(".,:٫٬")  # between two digits too
JOINER = "\u200d"
FLAGS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_RUN = re.compile(r"\S+")
_ONLY_LETTERS = re.compile(rb"( *)[A-Za-z]+")


def word_starts(surfaces: Sequence[bytes | None]) -> list[bool]:
    """For each piece, whether a word begins there.

    surfaces: the UTF-8 bytes that each piece spells, a space where it carries one; None for what spells nothing
    ([CLS]) or cannot be told ([UNK]): it is a word of its own, and so begins the piece behind it.
    """
    return list(_starts(tuple(map(_alike, surfaces))))


@lru_cache(maxsize=1 << 16)
def _alike(surface: bytes | None) -> bytes | None:
    """One of the surfaces that begin words where this one does: any letters will do for others."""
    letters = None if surface is None else _ONLY_LETTERS.fullmatch(surface)
    return surface if letters is None else letters[1] + b"a"


@lru_cache(maxsize=1 << 12)
def _starts(surfaces: tuple[bytes | None, ...]) -> tuple[bool, ...]:
    starts: list[bool] = []
    run: list[bytes] = []
    for surface in (*surfaces, None):
        if surface is not None:
            run.append(surface)
            continue
        starts += _starts_in(run) if run else ()
        starts.append(True)
        run = []
    return tuple(starts[: len(surfaces)])


def _starts_in(run: Sequence[bytes]) -> list[bool]:
    """The same of pieces that follow one another in a text. The first begins a word.

    A space alone opens the word behind it, but for scripts without spaces, whose words begin by themselves.
    """
    data = b"".join(run)
    begins = _in_bytes(data.decode("utf-8", "surrogateescape"))  # of half a character each byte counts as one
    out: list[bool] = []
    place, opened = 0, False
    for piece in run:
        text = piece.lstrip(b" ")
        blank = bool(piece) and not text
        begun = place + len(piece) - len(text) in begins and not (opened and _needs_space(text))
        out.append(not out or blank or begun)
        place, opened = place + len(piece), blank
    return out


def _needs_space(text: bytes) -> bool:
    first = text.decode("utf-8", "ignore")[:1]
    return first != "" and _kind(first) in ("letter", "mark", "sign")


def _in_bytes(text: str) -> set[int]:
    """The bytes at which words begin."""
    starts = boundaries(text)
    if text.isascii():
        return set(starts)
    sizes = (len(char.encode("utf-8", "surrogateescape")) for char in text)
    places = [0, *accumulate(sizes)]
    return {places[i] for i in starts}


def boundaries(text: str) -> list[int]:
    """The characters of a text at which words begin."""
    return [run.start() + i for run in _RUN.finditer(text) for i in _within(run.group())]


@lru_cache(maxsize=1 << 16)
def _within(run: str) -> tuple[int, ...]:
    """The same of a run without white space."""
    return (0, *(i for i in range(1, len(run)) if _begins(run, i, run[i], run[i - 1])))


def _begins(run: str, i: int, char: str, before: str) -> bool:
    kind = _kind(char)
    if kind in ("mark", "sign") or before == JOINER:
        return False
    if kind == "flag":  # two letters of a flag belong together
        return (len(run[:i]) - len(run[:i].rstrip(FLAGS))) % 2 == 0
    if kind == "syllable":
        attached = _FOLLOWING.match(char) or _LEADING.match(before) or _STACKING.match(before)
        return not attached
    if kind != "letter":  # an ideograph, an emoji
        return True
    base = next((other for other in reversed(run[:i]) if _kind(other) != "mark"), char)
    if _kind(base) == "sign":
        return not _joined(run, i)
    return _kind(base) != "letter"


def _joined(run: str, i: int) -> bool:
    """Whether the sign before a letter or digit joins it to what stands before the sign, or opens the run: "(red"."""
    sign, left = run[i - 1], run[i - 2] if i > 1 else ""
    if not left or _kind(left) == "sign":
        return all(_kind(char) == "sign" for char in run[:i])
    if left.isdigit() and run[i].isdigit():
        return sign in _POINTS | _INSIDE
    return sign in _INSIDE and _kind(left) in ("letter", "mark")


@lru_cache(maxsize=1 << 16)
def _kind(char: str) -> str:
    category = unicodedata.category(char)
    if category[0] == "M" or category == "Cf" or char in _SMALL:
        return "mark"
    if char in FLAGS:
        return "flag"
    if _IDEOGRAPHS.match(char):
        return "ideograph"
    if category[0] in "LN" or category == "Cs":
        return "syllable" if _SYLLABLES.match(char) and category != "Nd" else "letter"
    return "emoji" if category == "So" and char >= "\u2300" else "sign"
