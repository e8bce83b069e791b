"""What a vocabulary is trained on: a sample over all captions, whole however long they are, of valid Unicode."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from random import Random

log = logging.getLogger(__name__)

LIMIT = 1_000_000
"""Captions that a vocabulary is made of, at most; of more, so many drawn from all with a fixed seed."""
LONGEST = 4192
"""Bytes of a line that sentencepiece reads; it leaves longer ones out."""


def valid(text: str) -> str:
    """The text with half characters (lone surrogates, which no encoding can hold) as U+FFFD; two halves are one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def drawn(captions: Iterable[str], limit: int = LIMIT, seed: int = 0) -> list[str]:
    """All captions with words in them in their order, or a uniform sample of so many of them (Vitter's algorithm R)."""
    rng, kept, seen = Random(seed), list[str](), 0
    for caption in captions:
        if not caption.strip():
            continue
        seen += 1
        if len(kept) < limit:
            kept.append(caption)
        elif (place := rng.randrange(seen)) < limit:
            kept[place] = caption
    if seen > limit:
        log.info("the vocabulary is made of %s captions, drawn from all %s", f"{limit:,}", f"{seen:,}")
    return kept


def lines(captions: Iterable[str], longest: int = LONGEST) -> Iterator[str]:
    """Each caption in lines of at most ``longest`` bytes, cut at spaces; where there is none, cut and said."""
    long = cut = 0
    for caption in captions:
        text = " ".join(valid(caption).replace("\0", " ").splitlines())
        if len(text) * 4 <= longest or len(text.encode()) <= longest:
            yield text
            continue
        long += 1
        parts, broken = _parts(text, longest)
        cut += broken
        yield from parts
    if long:
        log.info(
            "%d captions are longer than %s bytes, and were read in parts, cut at spaces%s", long, f"{longest:,}",
            f"; {cut} of them have runs without a space that are longer, and were cut there too" if cut else "",
        )  # fmt: skip


def _parts(text: str, longest: int) -> tuple[list[str], bool]:
    """The text in parts of at most so many bytes, and whether one had to be cut where there is no space."""
    parts: list[str] = []
    broken = False
    line, size = list[str](), 0
    for word in text.split(" "):
        long = len(word.encode())
        if line and size + 1 + long > longest:
            parts.append(" ".join(line))
            line, size = [], 0
        while long > longest:
            broken = True
            head = word.encode()[:longest].decode("utf-8", "ignore")
            parts.append(head)
            word = word[len(head) :]
            long = len(word.encode())
        size += long + bool(line)
        line.append(word)
    return [*parts, *([" ".join(line)] if line else [])], broken
