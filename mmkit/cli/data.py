"""``mmkit data``: look at a data set and check it, before anything is trained."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_command

if TYPE_CHECKING:
    from mmkit.cli.main import Commands

SOURCE = "a file of records (JSON lines), a folder of pictures with captions beside them, or openmoji[:LANGUAGE]"


def register(commands: Commands) -> None:
    """Add ``mmkit data``."""
    parser = commands.add_parser("data", help="look at a data set and check it")
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = add_command(inner, "show", "draw a training batch as the model sees it", show)
    command.add_argument("source", metavar="SOURCE", help=SOURCE)
    command.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture to write")
    command.add_argument("--n", type=int, default=16, help="samples (default 16)")
    command.add_argument("--size", type=int, default=128, help="pixels of each side (default 128)")
    command.add_argument("--seed", type=int, default=0, help="which batch (default 0)")
    command = add_command(inner, "check", "open every picture and read every caption", check)
    command.add_argument("source", metavar="SOURCE", help=SOURCE)


def show(args: argparse.Namespace) -> Mapping[str, Any]:
    """Draw one batch."""
    from mmkit.data.show import grid, open_source, sample_batch
    from mmkit.errors import UserError

    batch, tokenizer = sample_batch(open_source(args.source), n=args.n, size=args.size, seed=args.seed)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        grid(batch, tokenizer).save(args.out)
    except (OSError, ValueError) as error:
        raise UserError(f"--out {args.out}: cannot be written as a picture ({error})") from error
    return {"samples": len(batch), "picture": str(args.out)}


def check(args: argparse.Namespace) -> Mapping[str, Any]:
    """Go through a source; exit code 2 where a picture in it cannot be used."""
    from dataclasses import asdict

    from mmkit.cli.progress import progress
    from mmkit.data.check import check as check_source
    from mmkit.data.show import open_source
    from mmkit.errors import UserError

    source = open_source(args.source)
    with progress() as report:
        summary = check_source(source, lambda done: report("pictures", done, len(source)))
    if summary.bad_images:
        first = "\n  ".join(summary.bad[:10])
        raise UserError(f"{summary.bad_images} of {summary.records} pictures cannot be read:\n  {first}")
    return asdict(summary)
