"""Where the files in a tar archive lie, by its headers alone; damage is told with its byte.

POSIX ustar and pax, GNU's long names and large numbers. ``tarfile`` does the same in ten times the time, and takes an
archive that was cut off between two files for a whole one. Left out: compressed archives, links, sparse files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
AHEAD = 8192
"""Bytes read at once: a header, and what is short behind it."""
FILES, NEXT, SKIPPED = b"0\0007", b"xL", b"g5K"
"""Kinds of entries: files; names and sizes of the next one; the archive's own, folders, targets of links."""


class BadTar(ValueError):
    """What is wrong with an archive. at: the byte of the entry."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.at = at


class Member(NamedTuple):
    """A file in an archive. at: the first byte of its entry; start, size: its own bytes."""

    name: str
    at: int
    start: int
    size: int


class Ahead:
    """Reads of an archive from front to back; ``read(start, size)`` gives fewer bytes at the end alone."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read, self._start, self._kept = read, 0, b""

    def __call__(self, start: int, size: int) -> bytes:
        """As ``read``, mostly from what was read before."""
        if not self._start <= start <= start + size <= self._start + len(self._kept):
            self._start, self._kept = start, self._read(start, max(size, AHEAD))
        return self._kept[start - self._start : start - self._start + size]


def members(read: Callable[[int, int], bytes], length: int) -> Iterator[Member]:
    """Every file of an archive of ``length`` bytes, in its order; BadTar at the first damage."""
    at = begin = 0
    said: dict[str, bytes] = {}
    while (head := read(at, BLOCK)).strip(b"\0"):
        name, size, kind = _parsed(head, at, length)
        if "size" in said:
            size = _number(said["size"], 10, at)
        start = at + BLOCK
        if start + size > length:
            raise BadTar(f"cut off: {_text(name, begin)} has {size} bytes, and the archive ends at {length}", begin)
        if kind in NEXT:
            body = read(start, size)
            said |= _pax(body, at) if kind == b"x" else {"path": body.rstrip(b"\0")}
        elif kind in FILES:
            yield Member(_text(said.get("path", name), begin), begin, start, size)
        elif kind not in SKIPPED:
            raise BadTar(f"{_text(name, begin)}: a link or something else that is no plain file", begin)
        at = start + -(-size // BLOCK) * BLOCK
        if kind not in NEXT:
            said, begin = {}, at
    if len(head) < BLOCK:
        raise BadTar(f"cut off: ends at byte {length} without the empty blocks of an archive's end", begin)
    _check_end(read, at, length)


def _check_end(read: Callable[[int, int], bytes], at: int, length: int) -> None:
    """BadTar where something follows the end, as where two archives were put into one file."""
    for start in range(at, length, 1 << 20):
        rest = read(start, min(1 << 20, length - start))
        if rest.strip(b"\0"):
            raise BadTar("something follows the archive's end; were several put into one file?", start)


def _parsed(head: bytes, at: int, length: int) -> tuple[bytes, int, bytes]:
    """Name, size and kind that a header says."""
    if len(head) < BLOCK:
        raise BadTar(f"cut off: ends at byte {length}, within a header", at)
    told = _number(head[148:156], 8, at)
    if told != sum(head) - sum(head[148:156]) + 8 * 32:
        raise BadTar("no header of a tar archive; damaged, or compressed", at)
    name = head[:100].partition(b"\0")[0]
    prefix = head[345:500].partition(b"\0")[0] if head[257:263] == b"ustar\0" else b""
    size = int.from_bytes(head[125:136], "big") if head[124] == 0x80 else _number(head[124:136], 8, at)
    return b"/".join((prefix, name)) if prefix else name, size, head[156:157]


def _pax(body: bytes, at: int) -> dict[str, bytes]:
    """What an entry of the form "LENGTH key=value" says of the next one."""
    said = {}
    while body:
        length, _, _ = body.partition(b" ")
        size = _number(length, 10, at)
        key, equals, value = body[len(length) + 1 : size - 1].partition(b"=")
        if size <= len(length) or not equals or key.startswith(b"GNU.sparse"):
            raise BadTar("an entry of pax that cannot be read, or a sparse file", at)
        said[key.decode("utf-8", "replace")], body = value, body[size:]
    return said


def _number(digits: bytes, base: int, at: int) -> int:
    try:
        value = int(digits.strip(b" \0") or b"0", base)
    except ValueError:
        value = -1
    if value < 0:
        raise BadTar("no header of a tar archive; damaged, or compressed", at)
    return value


def _text(name: bytes, at: int) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadTar(f"the name {name!r} is not UTF-8", at) from error
