"""``mmkit train``: run an experiment. ``scripts/pretrain.py`` is the same for ``accelerate launch``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_allow, add_changes, add_command
from mmkit.errors import UserError
from mmkit.parent import restarts

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
    add_resume(parser)
    add_allow(parser)
    parser.set_defaults(trains=True)


def add_resume(parser: argparse.ArgumentParser) -> None:
    """--resume, and --resume auto, which is for commands that are given again and again until the run is finished."""
    parser.add_argument(
        "--resume", nargs="?", const=True, default=False, metavar="auto", action=_Resume,
        help="go on from the newest checkpoint in DIR; `--resume auto` is the same, for a job that starts again by "
        "itself: it begins where there is no run, goes on where there is one, and ends at once where it is finished",
    )  # fmt: skip


class _Resume(argparse.Action):
    """Takes the word ``auto`` or none; another word after it is the config, as it always was."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        namespace.resume = values
        configs = [action for action in parser._actions if action.dest == "experiment"]
        if values in (True, "auto"):
            return
        if not configs or getattr(namespace, "experiment", None) not in (None, configs[0].default):
            parser.error(f"argument --resume: {values!r}: nothing, or the word auto, stands after it")
        configs[0].required, configs[0].default, namespace.experiment = False, values, values


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Load, override, train; the last metrics."""
    from mmkit.config import load_experiment, override
    from mmkit.train.folder import check_no_run

    if args.resume not in (False, True, "auto", args.experiment):
        raise UserError(f"--resume {args.resume}: nothing, or the word auto, stands after it")
    if args.out is not None and not (args.resume or restarts()):
        check_no_run(args.out)
    experiment = override(load_experiment(args.experiment), args.changes)
    return run_experiment(experiment, args.out or Path("runs") / experiment.name, bool(args.resume), args.allow)


def run_experiment(
    experiment: Experiment, out: Path, resume: bool = False, allow: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Train all stages, and write each model in the form that ``mmkit.load`` reads."""
    from mmkit.hub import folder as hub
    from mmkit.train.stages import train_stages

    return train_stages(experiment, out, resume, save_model=hub.save, allow=allow)
