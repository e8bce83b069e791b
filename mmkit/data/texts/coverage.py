"""How well a tokenizer's vocabulary fits the texts at hand: what it does not know, what it spells, what is cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mmkit.data.texts.protocol import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Counts over some texts. unknown: pieces that stand for what the vocabulary lacks. spelt: pieces of one letter in
    words of several pieces. cut: texts that are longer than ``max_tokens``.
    """

    max_tokens: int
    texts: int
    pieces: int
    unknown: int
    spelt: int
    cut: int

    def line(self) -> str:
        """For people."""
        whole = max(1, self.pieces)
        return (
            f"texts: of the pieces of {self.texts:,} captions {self.unknown / whole:.1%} are unknown and "
            f"{self.spelt / whole:.1%} letters of spelt words; {self.cut:,} captions are longer than "
            f"{self.max_tokens} tokens"
        )


def coverage(tokenizer: Tokenizer, texts: Iterable[str], max_tokens: int) -> Coverage:
    """The counts for some texts; special tokens are no pieces."""
    number = pieces = unknown = spelt = cut = 0
    special = tokenizer.special_ids - {tokenizer.unk_id}
    for text in texts:
        ids = tokenizer.encode(text, None)
        number += 1
        cut += len(ids) > len(tokenizer.encode(text, max_tokens))
        starts = [*tokenizer.starts_word(ids), True]
        for place, (token, piece) in enumerate(zip(ids, tokenizer.pieces(ids), strict=True)):
            if token in special:
                continue
            pieces += 1
            unknown += token == tokenizer.unk_id
            letters = piece.removeprefix("##").strip("▁Ġ").removesuffix("</w>")
            spelt += len(letters) == 1 and letters.isalpha() and not (starts[place] and starts[place + 1])
    return Coverage(max_tokens=max_tokens, texts=number, pieces=pieces, unknown=unknown, spelt=spelt, cut=cut)
