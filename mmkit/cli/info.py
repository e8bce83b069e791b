"""``mmkit info``: what a checkpoint is, of mmkit or of others."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_command

if TYPE_CHECKING:
    from mmkit.cli.main import Commands


def register(commands: Commands) -> None:
    """Add ``mmkit info``."""
    parser = add_command(commands, "info", "say what a checkpoint is, of mmkit or of others", run)
    parser.add_argument("path", metavar="PATH", help="the folder of a run or a model, or a file of others")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """The facts, by dotted name."""
    from mmkit.hub_info import describe

    return describe(args.path)
