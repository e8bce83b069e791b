"""Which characters of a text each token stands for, for whoever points at words: phrases of boxes.

Tokenizers have ``encode_with_offsets`` where they know. What cannot be told is refused with the reason: a text that was
cleaned into another one before it was cut into tokens, and tokenizers that keep their characters to themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from mmkit.data.texts.protocol import Kind, Tokenizer
from mmkit.errors import UserError

Span = tuple[int, int]
"""Characters of a text, from the first to before the second; (0, 0) for a token of none, such as [CLS]."""


@runtime_checkable
class WithOffsets(Protocol):
    """A tokenizer that knows."""

    def encode_with_offsets(
        self, text: str, max_tokens: int | None, kind: Kind = "caption"
    ) -> tuple[list[int], list[Span]]:
        """The ids of ``encode``, and for each its characters in ``text``, without white space around."""


def encode_with_offsets(
    tokenizer: Tokenizer, text: str, max_tokens: int | None, kind: Kind = "caption"
) -> tuple[list[int], list[Span]]:
    """The ids of ``tokenizer.encode`` with the characters of each; UserError where it cannot tell."""
    if not isinstance(tokenizer, WithOffsets):
        raise UserError(
            f"{type(tokenizer).__name__} cannot tell which characters its tokens stand for, which phrases need: it has "
            "no encode_with_offsets. Take one that mmkit trains, or a fast one of Hugging Face"
        )
    return tokenizer.encode_with_offsets(text, max_tokens, kind)


def tokens_in(offsets: Sequence[Span], spans: Iterable[Span]) -> list[int]:
    """The places of the tokens that have characters in any of the spans, in order."""
    wanted = list(spans)
    return [
        place for place, (first, last) in enumerate(offsets)
        if first < last and any(first < end and begin < last for begin, end in wanted)
    ]  # fmt: skip


def trimmed(text: str, offsets: Iterable[Span]) -> list[Span]:
    """Without the white space at either end; (0, 0) for what is nothing else."""
    found: list[Span] = []
    for first, last in offsets:
        part = text[first:last]
        begin = first + len(part) - len(part.lstrip())
        end = last - len(part) + len(part.rstrip())
        found.append((begin, end) if begin < end else (0, 0))
    return found


def same_places(text: str, read: str, why: str) -> None:
    """UserError where the text that is cut into tokens has its characters elsewhere than what was said. why: so."""
    if text != read and (len(text) != len(read) or text.lower() != read.lower()):
        raise UserError(
            f"{text[:60]!r}: {why}, so that characters of phrases are not those that the model reads ({read[:60]!r})"
        )
