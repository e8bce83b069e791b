"""The tokenizer of a run: trained on its captions, one of Hugging Face's, or that of an earlier run; and saved ones.

Left out: sentence pairs, and slow (pure Python) Hugging Face tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from mmkit.data.records import Source, captions_of
from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.pieces import SP_FILE, SentencePieceTokenizer
from mmkit.data.texts.protocol import Framing, Tokenizer


def train_sentencepiece(
    *, captions: Callable[[], Iterable[str]], folder: str | Path | None, vocab_size: int = 8000,
    more: Sequence[partial[Source]] = (),
) -> Tokenizer:  # fmt: skip
    """Train a tokenizer on a run's captions and save it in the run's folder (None: not saved).

    more: further sources whose captions it should know, say those of a later fine-tuning.
    """
    texts = chain(captions(), *(captions_of(source()) for source in more))
    return _saved(SentencePieceTokenizer.train(texts, vocab_size), folder)


def from_hub(
    *, name: str, framing: Framing | None = None, captions: Callable[[], Iterable[str]] | None = None,
    folder: str | Path | None = None,
) -> Tokenizer:  # fmt: skip
    """Any fast Hugging Face tokenizer, saved in the run's folder; the captions are not needed."""
    return _saved(HuggingFaceTokenizer(name, framing), folder)


def reuse(*, path: str, captions: Callable[[], Iterable[str]], folder: str | Path | None) -> Tokenizer:
    """The tokenizer of an earlier run, copied to this run's folder; the captions are not needed."""
    return _saved(load_tokenizer(path), folder)


def _saved(tokenizer: Tokenizer, folder: str | Path | None) -> Tokenizer:
    if folder is not None:
        tokenizer.save(folder)
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A saved tokenizer: a folder, a sentencepiece ``.model`` file, or the name of a Hugging Face tokenizer."""
    folder = Path(path)
    if (folder / SP_FILE).is_file() or (folder.is_file() and folder.suffix == ".model"):
        return SentencePieceTokenizer.load(folder)
    return HuggingFaceTokenizer(path)
