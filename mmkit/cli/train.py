"""``mmkit train``: run an experiment. ``scripts/pretrain.py`` is the same for ``accelerate launch``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_allow, add_changes, add_command

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.config import Experiment


def register(commands: Commands) -> None:
    """Add ``mmkit train``."""
    add_arguments(add_command(commands, "train", "run an experiment", run))


def add_arguments(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """What ``mmkit train`` and the scripts that train take; ``default``: the config where none is named."""
    parser.add_argument(
        "experiment", metavar="FILE.py[:func(args)]", nargs="?" if default else None, default=default,
        help="a config function and its arguments" + (f" (default: {default})" if default else ""),
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/NAME)")
    add_changes(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in DIR")
    add_allow(parser)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Load, override, train; the last metrics."""
    from mmkit.config import load_experiment, override
    from mmkit.train.folder import check_no_run

    if args.out is not None and not args.resume:
        check_no_run(args.out)
    experiment = override(load_experiment(args.experiment), args.changes)
    return run_experiment(experiment, args.out or Path("runs") / experiment.name, args.resume, args.allow)


def run_experiment(
    experiment: Experiment, out: Path, resume: bool = False, allow: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Train all stages, and write each model in the form that ``mmkit.load`` reads."""
    from mmkit.hub import folder as hub
    from mmkit.train.stages import train_stages

    return train_stages(experiment, out, resume, save_model=hub.save, allow=allow)
