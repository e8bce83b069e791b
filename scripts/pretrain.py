"""Pre-train an experiment on any number of processes.

    accelerate launch scripts/pretrain.py configs/quickstart.py --out runs/quickstart --set run.steps=500
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 scripts/pretrain.py FILE.py:func(args)

The second line starts two processes on the CPU. The same as ``mmkit train`` on one process.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmkit.allocator import begin_anew
from mmkit.cli.main import execute
from mmkit.cli.train import add_arguments, run


def main(what: str = "Pre-train an experiment", default: str | None = None) -> int:
    """Parse, train; the exit code. what: for the help; default: the config where none is named."""
    parser = argparse.ArgumentParser(description=what)
    add_arguments(parser, default)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the last metrics there as JSON")
    parser.set_defaults(run=run)
    args = parser.parse_args()
    begin_anew()
    return execute(args)


if __name__ == "__main__":
    sys.exit(main())
