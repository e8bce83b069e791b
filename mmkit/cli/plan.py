"""``mmkit plan``: what a run needs on how many cards, before it starts; without data, downloads or training."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_changes, add_command, write_json
from mmkit.errors import UserError

if TYPE_CHECKING:
    from mmkit.cli.main import Commands


def register(commands: Commands) -> None:
    """Add ``mmkit plan``."""
    parser = add_command(commands, "plan", "say what a run needs, before it starts", run)
    parser.add_argument("experiment", metavar="FILE.py[:func(args)]", help="a config function and its arguments")
    parser.add_argument(
        "--device", default="h100", metavar="NAME", help="a card of the table (h100, a100-80, rtx4090, ...), or cpu; "
        "default h100"
    )  # fmt: skip
    parser.add_argument("--world", type=int, default=1, metavar="N", help="processes, one for each card (default 1)")
    parser.add_argument(
        "--gpus-per-node", type=int, default=8, metavar="N", help="of these on one node (default 8)"
    )  # fmt: skip
    parser.add_argument("--records", type=int, metavar="N", help="as if the data had so many; they are not opened then")
    parser.add_argument("--vocabulary", type=int, metavar="N", help="as if the tokenizer had so many words")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of a card, in place of the table's")
    parser.add_argument("--tflops", type=float, metavar="N", help="the card's peak, in place of the table's")
    add_changes(parser)


def run(args: argparse.Namespace) -> None:
    """The numbers, a line each; UserError, after them, for what cannot fit."""
    for name in ("world", "gpus_per_node", "records", "vocabulary", "memory", "tflops"):
        if (value := getattr(args, name)) is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be greater than 0")
    from mmkit.config import load_experiment, override

    experiment = override(load_experiment(args.experiment), args.changes)
    from mmkit.train.needs.ask import Question, forecasts  # slow, as what it asks

    question = Question(
        device=args.device, world=args.world, node=args.gpus_per_node, memory_gib=args.memory, tflops=args.tflops,
        records=args.records, vocabulary=args.vocabulary,
    )  # fmt: skip
    found: dict[str, Any] = {}
    refused: list[str] = []
    several = experiment.first is not None
    for forecast in forecasts(experiment, question):
        sys.stdout.write("\n".join(forecast.lines()) + "\n")
        sys.stdout.flush()
        found |= {
            (f"{forecast.name}.{name}" if several else name): value for name, value in forecast.numbers().items()
        }  # fmt: skip
        refused += [why for why in (forecast.refusal(),) if why]
    write_json(args.json, found)
    if refused:
        raise UserError(" ".join(refused))
