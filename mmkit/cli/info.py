"""``mmkit info``: what a checkpoint is, of mmkit or of others."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mmkit.cli.main import add_command, write_json

if TYPE_CHECKING:
    from mmkit.cli.main import Commands


def register(commands: Commands) -> None:
    """Add ``mmkit info``."""
    parser = add_command(commands, "info", "say what a checkpoint is, of mmkit or of others", run)
    parser.add_argument(
        "path", metavar="PATH",
        help="the folder of a run, a model or a checkpoint, a weights file of mmkit or of others, timm:NAME, "
        "hf:OWNER/NAME or open_clip:ARCH/TAG",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """The facts, a line each: nothing is cut, as some of them are commands to copy."""
    from mmkit.hub.info import describe

    facts = describe(args.path)
    width = max(map(len, facts))
    for name, value in facts.items():
        sys.stdout.write(
            f"{_printable(name):<{width}}  {f'{value:,}' if isinstance(value, int) else _printable(str(value))}\n"
        )
    write_json(args.json, facts)


def _printable(text: str) -> str:
    """A stranger's words may hold orders to the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
