"""Tokenizers: sentencepiece models trained on the captions at hand, and any fast Hugging Face tokenizer.

Both follow ALBEF's treatment of a caption: [CLS] and the tokens, no [SEP] (official code, ``caption_dataset``; RECIPES
A.2.13). ``Framing`` says what stands around the tokens elsewhere. Left out: sentence pairs, and slow (pure Python)
Hugging Face tokenizers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from mmkit.data.records import Source, captions_of
from mmkit.data.texts.sample import LONGEST, drawn, lines, valid
from mmkit.data.texts.words import word_starts
from mmkit.errors import UserError
from mmkit.files import writing

SP_FILE = "sentencepiece.model"
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

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
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The tokens as people write them, one per id."""
        ...

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        """For each id, whether a new word begins there."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write everything that ``load_tokenizer`` needs."""
        ...


def is_cjk(char: str) -> bool:
    """Whether the character belongs to a script that is written without spaces (each piece then is a word)."""
    ranges = (("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))
    return any(low <= char <= high for low, high in ranges)


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
                sentence_iterator=lines(sample),
                model_writer=out,
                model_type="bpe",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                normalization_rule_name="nmt_nfkc_cf",
                character_coverage=0.9999,
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                pad_piece="[PAD]",
                unk_piece="[UNK]",
                bos_piece="[CLS]",
                eos_piece="[SEP]",
                control_symbols=["[MASK]"],
                max_sentence_length=LONGEST,
                num_threads=1,
                minloglevel=3,
            )
        except RuntimeError as error:
            raise UserError(_untrained(len(sample), vocab_size, str(error))) from error
        return cls(out.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> SentencePieceTokenizer:
        """From a model file, or the folder that holds it."""
        path = Path(path)
        return cls((path / SP_FILE if path.is_dir() else path).read_bytes())

    def encode(self, text: str, max_tokens: int | None, kind: Kind = "caption") -> list[int]:
        """See ``Tokenizer``."""
        return [self.cls_id, *self._processor.encode(valid(text))][:max_tokens]

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
        """See ``Tokenizer``. Atomic, so that several processes may write the same model."""
        folder = Path(folder)
        with writing(folder / SP_FILE, "wb") as file:
            file.write(self._model)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"])  # type: ignore[misc]

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


def sentencepiece(
    *, captions: Callable[[], Iterable[str]], folder: str | Path | None, vocab_size: int = 8000,
    more: Sequence[partial[Source]] = (),
) -> SentencePieceTokenizer:  # fmt: skip
    """Train a tokenizer on a run's captions and save it in the run's folder (None: not saved).

    more: further sources whose captions it should know, say those of a later fine-tuning.
    """
    texts = chain(captions(), *(captions_of(source()) for source in more))
    tokenizer = SentencePieceTokenizer.train(texts, vocab_size)
    if folder is not None:
        tokenizer.save(folder)
    return tokenizer


def huggingface(
    *, name: str, framing: Framing | None = None, captions: Callable[[], Iterable[str]] | None = None,
    folder: str | Path | None = None,
) -> Tokenizer:  # fmt: skip
    """Any fast Hugging Face tokenizer, saved in the run's folder; the captions are not needed."""
    from mmkit.data.hf_tokenizer import HuggingFaceTokenizer

    tokenizer = HuggingFaceTokenizer(name, framing)
    if folder is not None:
        tokenizer.save(folder)
    return tokenizer


def saved(*, path: str, captions: Callable[[], Iterable[str]], folder: str | Path | None) -> Tokenizer:
    """The tokenizer of an earlier run, copied to this run's folder; the captions are not needed."""
    tokenizer = load_tokenizer(path)
    if folder is not None:
        tokenizer.save(folder)
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A saved tokenizer: a folder, a sentencepiece ``.model`` file, or the name of a Hugging Face tokenizer."""
    folder = Path(path)
    if (folder / SP_FILE).is_file() or (folder.is_file() and folder.suffix == ".model"):
        return SentencePieceTokenizer.load(folder)
    from mmkit.data.hf_tokenizer import HuggingFaceTokenizer

    return HuggingFaceTokenizer(path)
