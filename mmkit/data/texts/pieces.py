"""A tokenizer trained on the captions at hand: sentencepiece's BPE, for any language, with spaces or without."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from mmkit.data.texts.offsets import Span, same_places, trimmed
from mmkit.data.texts.protocol import Kind
from mmkit.data.texts.sample import LONGEST, drawn, lines, valid
from mmkit.data.texts.words import word_starts
from mmkit.errors import UserError
from mmkit.files import write_bytes

SP_FILE = "sentencepiece.model"
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class SentencePieceTokenizer:
    """A sentencepiece BPE model, lower-cased (NFKC with case folding); made for any language, spaces or none.

    BPE and not unigram: sentencepiece's unigram trainer looks for candidates among the distinct words, each counted
    once, so that on captions with a small vocabulary it cuts even "background" into five pieces.
    """

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._processor = _processor(model)
        self.vocab_size = self._processor.get_piece_size()
        ids = [self._processor.piece_to_id(name) for name in SPECIALS]
        if ids != list(range(len(SPECIALS))):
            raise UserError(
                f"not a sentencepiece model of mmkit: it needs {', '.join(SPECIALS)} as its first pieces. "
                "Train one with `mmkit tokenizer train`"
            )
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids
        self.special_ids = frozenset(ids)
        self._word = lru_cache(maxsize=1 << 14)(self._encoded)
        self._ids = lru_cache(maxsize=4096)(self._by_words if self._cuts_at_spaces() else self._encoded)
        self._surfaces = [self._surface(i) for i in range(self.vocab_size)]

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 8000) -> SentencePieceTokenizer:
        """Train on captions, a seeded sample over all of them where they are many (``drawn``).

        A vocabulary larger than the corpus allows becomes as large as it can be; UserError where it is too small for
        the letters of the captions.
        """
        import sentencepiece

        if vocab_size <= len(SPECIALS):
            raise UserError(f"vocab_size={vocab_size}: {len(SPECIALS)} special tokens alone need more")
        sample = drawn(captions)
        if not sample:
            raise UserError("the tokenizer cannot be trained: there are no captions")
        out = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines(sample), model_writer=out, model_type="bpe", vocab_size=vocab_size,
                hard_vocab_limit=False, normalization_rule_name="nmt_nfkc_cf", character_coverage=0.9999,
                pad_id=0, unk_id=1, bos_id=2, eos_id=3, pad_piece="[PAD]", unk_piece="[UNK]", bos_piece="[CLS]",
                eos_piece="[SEP]", control_symbols=["[MASK]"], max_sentence_length=LONGEST, num_threads=1,
                minloglevel=3,
            )  # fmt: skip
        except RuntimeError as error:
            raise UserError(_untrained(len(sample), vocab_size, str(error))) from error
        return cls(out.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> SentencePieceTokenizer:
        """From a model file, or the folder that holds it."""
        path = Path(path) / SP_FILE if Path(path).is_dir() else Path(path)
        try:
            return cls(path.read_bytes())
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def encode(self, text: str, max_tokens: int | None, kind: Kind = "caption") -> list[int]:
        """See ``Tokenizer``."""
        return [self.cls_id, *self._ids(text)][:max_tokens]

    def encode_with_offsets(
        self, text: str, max_tokens: int | None, kind: Kind = "caption"
    ) -> tuple[list[int], list[Span]]:
        """See ``WithOffsets``. UserError for half a character."""
        same_places(text, valid(text), "it holds half a character")
        try:
            found = self._processor.encode(text, return_type="offset_mapping")
            ids, offsets = found["ids"], found["offsets"]
        except TypeError:  # sentencepiece before 0.2.3
            pieces = self._processor.encode(text, out_type="immutable_proto").pieces
            ids, offsets = [piece.id for piece in pieces], [(piece.begin, piece.end) for piece in pieces]
        return [self.cls_id, *ids][:max_tokens], [(0, 0), *trimmed(text, offsets)][:max_tokens]

    def decode(self, ids: Sequence[int]) -> str:
        """See ``Tokenizer``."""
        return str(self._processor.decode([int(i) for i in ids if int(i) not in self.special_ids]))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """See ``Tokenizer``."""
        return [str(self._processor.id_to_piece(int(i))) for i in ids]

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        """See ``Tokenizer``, and ``word_starts``."""
        return word_starts([self._surfaces[int(i)] for i in ids])

    def save(self, folder: str | Path) -> None:
        """See ``Tokenizer``. Atomic, so that several processes may write the same model; one that is there stays."""
        write_bytes(Path(folder) / SP_FILE, self._model)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"])  # type: ignore[misc]

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._processor.encode(valid(text)))

    def _by_words(self, text: str) -> tuple[int, ...]:
        """The same, of what was encoded before where that can be: captions have more words in common than texts."""
        if not text.isascii():  # beyond it letters of two words may be joined before they are cut
            return self._encoded(text)
        return tuple(chain.from_iterable(map(self._word, text.split(" "))))

    def _cuts_at_spaces(self) -> bool:
        """Whether the words of an ASCII text are encoded as each is alone: none of the pieces reaches over a space."""
        pieces = map(self._processor.id_to_piece, range(self.vocab_size))
        apart = chain.from_iterable(map(self._encoded, ("a", "", "B", "")))  # a model might keep the second space
        return not any("▁" in piece[1:] for piece in pieces) and self._encoded("a  B ") == tuple(apart)

    def _surface(self, number: int) -> bytes | None:
        """What a piece spells, as ``word_starts`` takes it."""
        piece = self._processor.id_to_piece(number)
        if number in self.special_ids or self._processor.is_control(number):
            return None
        if self._processor.is_byte(number):
            return bytes([int(piece[3:-1], 16)])
        return str(piece).replace("▁", " ").encode()


def _untrained(captions: int, vocab_size: int, reason: str) -> str:
    """Why no vocabulary could be made."""
    about = f"the tokenizer cannot be trained on {captions} captions with vocab_size={vocab_size}"
    if (found := re.search(r"required_chars\.? *\d+ vs (\d+)", reason)) is not None:
        return f"{about}: their letters alone need {found[1]} pieces; give at least {int(found[1]) + 100}"
    return f"{about}: {reason.rpartition('] ')[2].strip() or reason}"


def _processor(model: bytes) -> Any:
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"not a sentencepiece model: {error}") from error
