"""What each piece of a Hugging Face tokenizer spells, whatever way the tokenizer writes it down.

WordPiece marks what goes on ("##ing"); byte-level BPE (GPT-2's, CLIP's) writes each byte as a letter; sentencepiece
writes a space as "▁", and bytes as <0xE4>; others mark the end of a word ("</w>"). Left out: tokenizers that spell
nothing back, such as those of character n-grams.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def surfaces(backend: Any, pieces: Sequence[str], special: Collection[int]) -> list[bytes | None]:
    """For each piece the UTF-8 bytes that it spells, with the space that it carries; None for special tokens."""
    kinds = set(_types(backend.pre_tokenizer)) | set(_types(backend.decoder))
    model = backend.model
    goes_on = getattr(model, "continuing_subword_prefix", None) or ""
    end = getattr(model, "end_of_word_suffix", None) or ""
    spaced = any(piece.startswith("▁") for piece in pieces)
    added = backend.get_added_tokens_decoder()

    def spelt(number: int, piece: str) -> bytes | None:
        if number in special or (number in added and added[number].special):
            return None
        if number in added:
            return f" {piece.strip()} ".encode()
        ended = bool(end) and piece.endswith(end)
        if end:
            piece = piece.removesuffix(end)
        if "ByteLevel" in kinds:
            return _bytes(piece) + b" " * ended
        if end:
            return piece.encode() + b" " * ended
        if goes_on:
            return (piece.removeprefix(goes_on) if piece.startswith(goes_on) else f" {piece}").encode()
        if (byte := _BYTE.fullmatch(piece)) is not None:
            return bytes([int(byte[1], 16)])
        return (piece.replace("▁", " ") if spaced else f" {piece}").encode()

    return [spelt(number, piece) for number, piece in enumerate(pieces)]


def _types(part: Any) -> Iterator[str]:
    """The types of a part of a tokenizer, and of the parts that it is made of."""
    if part is None:
        return
    waiting = [json.loads(part.__getstate__())]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from [one["type"]] if isinstance(one.get("type"), str) else []
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _alphabet() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: those that can be printed as they are, the others from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_ALPHABET = _alphabet()


def _bytes(piece: str) -> bytes:
    return b"".join(bytes([_ALPHABET[char]]) if char in _ALPHABET else char.encode() for char in piece)
