"""``mmkit tokenizer train``: a vocabulary from the captions at hand."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_command

if TYPE_CHECKING:
    from mmkit.cli.main import Commands


def register(commands: Commands) -> None:
    """Add ``mmkit tokenizer``."""
    parser = commands.add_parser("tokenizer", help="train a tokenizer")
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = add_command(inner, "train", "train a sentencepiece vocabulary on captions, in any language", run)
    command.add_argument("data", metavar="SOURCE", help="a file of records (JSON lines), or openmoji[:LANGUAGE]")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for the tokenizer")
    command.add_argument("--vocab-size", type=int, default=8000, help="pieces at most (default 8000)")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Train, save, and show how one caption is cut."""
    from mmkit.data.records import captions_of
    from mmkit.data.sources.open import open_source
    from mmkit.data.texts.coverage import coverage
    from mmkit.data.texts.tokenizers import load_tokenizer, train_sentencepiece
    from mmkit.files import check_new_folder

    check_new_folder(args.out)
    source = open_source(args.data)
    train_sentencepiece(vocab_size=args.vocab_size, captions=lambda: captions_of(source), folder=args.out)
    tokenizer = load_tokenizer(args.out)
    example = next(iter(captions_of(source)))
    fit = coverage(tokenizer, islice(captions_of(source), 1000), max_tokens=512)
    return {
        "folder": str(args.out), "vocab_size": tokenizer.vocab_size, "example": example,
        "tokens": len(tokenizer.encode(example, max_tokens=512)),
        "unknown": fit.unknown / max(1, fit.pieces), "spelt": fit.spelt / max(1, fit.pieces),
    }  # fmt: skip
