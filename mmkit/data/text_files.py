r"""Text that people bring, read by one rule: UTF-8 with or without a byte order mark, lines that end in \n or \r\n.

Another encoding is refused with the file, the line, the byte, and how to convert it; so is half a character (a lone
surrogate, which JSON can spell and no encoding can hold). Every other separator that Unicode or ASCII knows (U+2028,
NEL, VT, FS, a lone \r) is part of the line that it stands in. Left out: guessing encodings.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from mmkit.errors import UserError

HALF = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_LISTED = re.compile(r"""\s*\[\s*["'].*["']\s*,?\s*\]\s*""", re.DOTALL)
_PACKED = {
    b"\x1f\x8b": "gzip, unpack it with gunzip", b"PK\x03\x04": "a zip archive, unpack it; Excel's, save it as CSV",
    b"PAR1": "Parquet, call it .parquet",
}  # fmt: skip
_WIDE = {codecs.BOM_UTF16_LE: "UTF-16LE", codecs.BOM_UTF16_BE: "UTF-16BE"}


class NotText(ValueError):
    """What is wrong with some bytes as text. at: the first byte of it."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.at = at


def decode(data: bytes, *, first: bool = False) -> str:
    """Bytes as text; NotText for what is no UTF-8. first: a byte order mark at the beginning is left out."""
    if first and data.startswith(codecs.BOM_UTF8):
        data = data[3:]
    if first and b"\0" in data[:2]:
        raise NotText("byte 0x00", data.index(b"\0"))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        half = re.match(rb"\xed[\xa0-\xbf]", data[error.start :])
        what = "half a character, as of an emoji in CESU-8, at byte" if half else "byte"
        raise NotText(f"{what} {data[error.start]:#04x}", error.start) from error


def encoding_of(data: bytes) -> str:
    """What bytes that are no UTF-8 seem to be, as iconv calls it."""
    if data[:2] in _WIDE:
        return "UTF-16"
    return "UTF-16LE" if data[1:2] == b"\0" else "UTF-16BE" if data[:1] == b"\0" else "CP1252"


def convert_advice(path: str | Path, data: bytes) -> str:
    """How to make UTF-8 of a file that begins with ``data``."""
    for begin, advice in _PACKED.items():
        if data.startswith(begin):
            return f"or rather, as it begins like {advice}"
    path = Path(path)
    other = path.with_name(f"{path.stem}.utf8{path.suffix}")
    kind = encoding_of(data)
    return f"if it is {kind}: iconv -f {kind} -t UTF-8 {quote(str(path))} > {quote(str(other))}"


def not_utf8(error: NotText, path: str | Path, data: bytes, begin: int = 0) -> str:
    """What to say of a line that begins at the byte ``begin`` of ``data``, and how to convert the file."""
    where = f"{error}, byte {error.at - begin + 1} of the line"
    return f"not UTF-8 ({where}); save it as UTF-8, {convert_advice(path, data)}"


def read_bytes(path: str | Path, what: str) -> bytes:
    """All of a file; UserError where it is missing or cannot be read. what: what it should be, for the message."""
    path = Path(path)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected {what}") from error
    except OSError as error:
        reason = "is a folder, not a file" if path.is_dir() else f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {reason}; expected {what}") from error


def read_text(path: str | Path, what: str = "text") -> str:
    """All of a text file; UserError, with line and byte, for another encoding, and for a table, whose commas would be
    read as words. what: see ``read_bytes``.
    """
    if Path(path).suffix.lower() in (".csv", ".parquet", ".arrow", ".yaml", ".yml"):
        raise UserError(f"{path}: no lines of text, but a table or YAML; expected {what} in a text file, call it .txt")
    data = read_bytes(path, what)
    try:
        return decode(data, first=True)
    except NotText as error:
        line = data.count(b"\n", 0, error.at) + 1
        begin = data.rfind(b"\n", 0, error.at) + 1
        raise UserError(f"{path}:{line}: {not_utf8(error, path, data, begin)}") from error


def split_lines(text: str) -> list[str]:
    r"""The lines of a text without their ends; only \n and \r\n end one."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def read_lines(path: str | Path, what: str = "text") -> list[str]:
    """The lines of a text file without their ends, blank ones too: line i of the file is [i - 1]."""
    return split_lines(read_text(path, what))


def check_not_numbered(lines: Sequence[str], where: str | Path) -> None:
    """UserError where each line begins with its own number, from 0 or 1 ("1. cat", "0: cat", "0 cat")."""
    for first in (0, 1):
        if len(lines) > 1 and all(
            re.match(rf"0*{number}[ .:,;|)=-]+\w", line) for number, line in enumerate(lines, start=first)
        ):
            raise UserError(
                f"{where}: the lines are numbered ({lines[0]!r}, ...), which would be read as words; write them without"
            )


def half_character(value: Any) -> str | None:
    r"""The first lone surrogate in a text, or in what JSON gave, written as JSON does ("\ud83d"); or None."""
    if isinstance(value, str):
        found = HALF.search(value)
        return None if found is None else f"\\u{ord(found[0]):04x}"
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    found_in = (half_character(item) for item in value) if isinstance(value, list | tuple) else ()
    return next((half for half in found_in if half is not None), None)


def parse_json(data: bytes, *, first: bool = False) -> Any:
    """The value of some JSON; ValueError (NotText for the encoding) says what is wrong with it in a few words.

    Beyond what json refuses: a key twice in one object, half a character, and nesting without end. first: as
    ``decode`` takes it.
    """
    try:
        value = json.loads(decode(data, first=first), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"malformed JSON: {error.msg} at {line}column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("malformed JSON: nested too deep") from error
    if _ESCAPED_HALF.search(data):
        half = half_character(value)
        if half is not None:
            raise ValueError(
                f"half a character ({half}, as of an emoji that was cut in two); complete it, or remove it"
            )
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f'the key "{twice}" stands in one object twice')
    return found


def read_json(path: str | Path, what: str = "JSON") -> Any:
    """The value of a JSON file; UserError where it is missing, or not JSON. what: see ``read_bytes``."""
    data = read_bytes(path, what)
    try:
        return parse_json(data, first=True)
    except NotText:
        read_text(path, what)
        raise
    except ValueError as error:
        lines = ""
        if data.lstrip()[:1] == b"{" and b"\n" in data.strip() and "Extra data" in str(error):
            lines = "; if it holds one object a line, call it .jsonl"
        raise UserError(f"{path}: cannot be read as JSON ({error}); expected {what}{lines}") from error


def stable_id(text: str) -> int:
    """A 63-bit id that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def is_null(value: Any) -> bool:
    """Whether a value is null, or NaN, which pandas writes in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_absent(value: Any) -> bool:
    """Whether a value says that there is none: null, NaN (as pandas writes it), or a text without letters."""
    return is_null(value) or (isinstance(value, str) and not value.strip())


def one_text(text: str, what: str) -> str:
    """The text without spaces around; ValueError for a list that a table or a program wrote as text, "['a', 'b']"."""
    if _LISTED.fullmatch(text):
        raise ValueError(
            f'"{what}" is a list written as one text, {text[:60]}; give each a row, or a list in JSON lines'
        )
    return text.strip()


def id_of(value: Any) -> str | None:
    """An id in one form, so that 10, 10.0 and "10" are equal; None where there is none (``is_absent``).

    ValueError for what is no id: a truth value, a list, an object, infinity.
    """
    if is_absent(value):
        return None
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) == math.inf:
        raise ValueError(f"must be a string or a number, not {json.dumps(value, default=str)[:80]}")
    return str(int(value)) if value == int(value) else str(value)
