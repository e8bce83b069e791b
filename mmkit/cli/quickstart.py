"""``mmkit quickstart``: pre-train a small ALBEF on the built-in scenes, let it answer questions, and show both."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_changes, add_command
from mmkit.cli.train import add_resume

if TYPE_CHECKING:
    from mmkit.cli.main import Commands

log = logging.getLogger("mmkit")


def register(commands: Commands) -> None:
    """Add ``mmkit quickstart``."""
    parser = add_command(
        commands, "quickstart", "pre-train a small ALBEF on drawn scenes, in minutes on a CPU, and report", run
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), metavar="DIR", help="default %(default)s")
    add_resume(parser)
    add_changes(parser)
    parser.set_defaults(trains=True)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """The experiment of configs/quickstart.py, and where its report is."""
    from mmkit.cli.train import run_experiment
    from mmkit.config import load_experiment, override
    from mmkit.config.load import own_config
    from mmkit.train.folder import check_no_run

    if not args.resume:
        check_no_run(args.out)
    from mmkit.train.throughput import peak_memory

    started = time.perf_counter()
    experiment = override(load_experiment(str(own_config("quickstart.py"))), args.changes)
    numbers = run_experiment(experiment, args.out, bool(args.resume))
    log.info("open %s in a browser", args.out / "report.html")
    return {**numbers, **peak_memory(), "seconds": time.perf_counter() - started}
