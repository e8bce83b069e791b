"""What mmkit asks of a tokenizer, and how a text is framed for the model that reads it.

Every tokenizer follows ALBEF's treatment of a caption where nothing else is said: [CLS] and the tokens, no [SEP]
(official code, ``caption_dataset``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from mmkit.errors import UserError

Kind = Literal["caption", "question", "answer"]
"""What a text is. ALBEF cleans captions (and all that is compared with pictures) and questions, each its own way."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """What stands around a text's tokens, for a Hugging Face tokenizer.

    first: [CLS], or what begins texts there, goes first. last: [SEP], or what ends texts there, goes last, also where
    a text was cut. canonical: lower-cased and without punctuation (SigLIP). clean: "albef" = captions and questions are
    cleaned, and cut to 30 and 50 words, as the official ALBEF does; answers are read as they are. grows: special tokens
    that the tokenizer lacks are added to its vocabulary; otherwise it stays as weights know it, what begins or ends a
    text, or is unknown, stands in, and there may be no [MASK].
    """

    first: bool = True
    last: bool = False
    canonical: bool = False
    grows: bool = True
    clean: Literal["none", "albef"] = "none"

    def __post_init__(self) -> None:
        if self.clean not in ("none", "albef"):
            raise UserError(f"framing: clean={self.clean!r}; it is 'none' or 'albef'")


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of mmkit asks of a tokenizer. ``vocab_size`` counts every id that may occur.

    ``mask_id`` is None where there is no [MASK].
    """

    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int | None
    special_ids: frozenset[int]

    def encode(self, text: str, max_tokens: int | None, kind: Kind = "caption") -> list[int]:
        """[CLS] and the tokens, at most ``max_tokens`` in all; None = the whole text, uncut."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The tokens as people write them, one per id."""

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        """For each id, whether a new word begins there."""

    def save(self, folder: str | Path) -> None:
        """Write everything that ``load_tokenizer`` needs."""


def is_cjk(char: str) -> bool:
    """Whether the character belongs to a script that is written without spaces (each piece then is a word)."""
    ranges = (("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))
    return any(low <= char <= high for low, high in ranges)
