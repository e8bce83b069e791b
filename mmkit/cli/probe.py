"""``mmkit probe``: how good the features of a model's image tower are, by heads that are trained on them, frozen."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from mmkit.cli.evaluate import add_evaluation_options, add_source_options, evaluation, measure, open_data
from mmkit.cli.main import add_command
from mmkit.errors import UserError

if TYPE_CHECKING:
    from mmkit.cli.main import Commands


def register(commands: Commands) -> None:
    """Add ``mmkit probe``."""
    command = add_command(commands, "probe", "measure the frozen features of a model by classes of pictures", probe)
    command.add_argument(
        "--data", required=True, metavar="PATH",
        help="pictures to train on: a folder of class folders, a CSV (path,label), JSON lines with image and label",
    )  # fmt: skip
    command.add_argument(
        "--test", metavar="PATH", help="pictures to measure on, of the same classes (default: a fifth of --data)"
    )
    add_source_options(command, "image=...,label=...")
    command.add_argument("--steps", type=int, default=1000, help="of the linear heads (default 1000)")
    command.add_argument("--seed", type=int, default=0, help="of what is held out and of the heads (default 0)")
    command.add_argument("--no-attentive", action="store_true", help="leave out the head that reads all tokens")
    add_evaluation_options(command, "what each kind of head says of each test picture")


def probe(args: argparse.Namespace) -> None:
    """Measure and show."""
    if args.test is not None and os.path.realpath(args.test) == os.path.realpath(args.data):
        raise UserError(f"--test {args.test}: is what is trained on (--data); leave it out, and a part is held out")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: must be at least 0")
    source = open_data(args, {"label"}, ("image", "label"))
    test = None
    if args.test is not None:
        test = open_data(argparse.Namespace(**{**vars(args), "data": args.test}), {"label"}, ("image", "label"))
    from mmkit.evals.probe.evaluate import Probe

    measure(args, Probe(
        source=source, test=test, steps=args.steps, seed=args.seed, attentive=not args.no_attentive, **evaluation(args)
    ))  # fmt: skip
