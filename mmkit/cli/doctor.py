"""``mmkit doctor``: whether a machine is fit for a run; under ``accelerate launch -m mmkit doctor``, all of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmkit.cli.main import add_command, leave_processes, write_json
from mmkit.errors import UserError

if TYPE_CHECKING:
    from mmkit.cli.main import Commands


def register(commands: Commands) -> None:
    """Add ``mmkit doctor``."""
    parser = add_command(commands, "doctor", "measure whether this machine, or all of a launch, are fit for a run", run)
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where runs are kept, whose disk is measured (default: "
        "here)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """A line for each finding of the first process and of all together; exit code 1 where something is wrong."""
    if not args.out.is_dir():
        raise UserError(f"--out {args.out}: no such folder")
    from mmkit.doctor import machine, together
    from mmkit.doctor.finding import attempted
    from mmkit.ranks import gather_objects, rank, world_size
    from mmkit.train.setup import join_processes, local_processes, on_cpu

    device = join_processes(on_cpu()).device
    own = [
        finding
        for name, check in machine.checks(device, args.out, local_processes()).items()
        for finding in attempted(name, check)
    ]
    each = gather_objects(own)
    shared = []
    for name, check in together.checks(device).items() if world_size() > 1 else ():
        shared += attempted(name, check)
    wrong = False
    if rank() == 0:
        lines = [finding.line() for finding in (*each[0], *shared)]
        for number, others in enumerate(each[1:], 1):  # what is well elsewhere goes without saying
            lines += [f"{finding.line()} (process {number})" for finding in others if finding.state != "ok"]
        sys.stdout.write("\n".join(lines) + "\n")
        found = {
            f"{f.name}.{part}": getattr(f, part) for f in (*each[0], *shared) for part in ("said", "state", "value")
        }
        write_json(args.json, {name: value for name, value in found.items() if value is not None})
        wrong = any(finding.state == "wrong" for findings in (*each, shared) for finding in findings)
    wrong = any(gather_objects(wrong))
    if wrong:
        sys.stdout.flush()
        leave_processes()
        raise SystemExit(1)
