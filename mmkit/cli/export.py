"""``mmkit export``: a trained model as graphs that run without mmkit."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.evaluate import add_model_choice
from mmkit.cli.main import add_command

if TYPE_CHECKING:
    from mmkit.cli.main import Commands


def register(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "export", "write a model's towers and matching as ONNX graphs", run)
    add_model_choice(command)
    command.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a new folder for the graphs")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """The largest difference of each graph from the model, relative to its largest output."""
    import mmkit
    from mmkit.files import check_new_folder

    check_new_folder(args.out)
    from mmkit.inference.export import export

    graphs = export(mmkit.load(args.model, image_size=args.image_size, allow=args.allow), args.out)
    return {"out": str(args.out)} | {f"{name}.difference": graph.difference for name, graph in graphs.items()}
