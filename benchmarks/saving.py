"""How long training stands still for a save: for the copy alone, as in the background, or until it is on the disk.

    python benchmarks/saving.py [--out FOLDER] [--gib 0.94] [--times 3] [--device cuda]

The state is as large as a model with its teacher and AdamW's two averages: half of it the task's, half the optimizer's.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from mmkit.train import checkpoint
from mmkit.train.engines.base import State
from mmkit.train.resuming import Meta

META = Meta(step=1, world=1, product="highest", precision="no", threads=1, records=1, experiment={})
AVERAGES = ("exp_avg", "exp_avg_sq")


def made(gib: float, device: str) -> State:
    """A state of about this size, in tensors of 4 MiB."""
    count = max(1, round(gib * 2**30 / 2**22 / 4))
    task = {f"t{number}": torch.randn(1024, 1024, device=device) for number in range(2 * count)}
    averages = {
        number: {"step": torch.tensor(1.0), **{name: torch.randn(1024, 1024, device=device) for name in AVERAGES}}
        for number in range(count)
    }
    return State(task=task, optimizer={"state": averages, "param_groups": []})


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--gib", type=float, default=0.94)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    state, copies, writes = made(options.gib, options.device), [], []
    for _ in range(options.times):
        with tempfile.TemporaryDirectory(dir=options.out) as folder:
            if options.device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            staged = checkpoint.stage(state, copied=True)
            copied = time.perf_counter()
            path = checkpoint.write(Path(folder), META, staged)
            copies.append(copied - began)
            writes.append(time.perf_counter() - copied)
            shutil.rmtree(path)
    copy, write = statistics.median(copies), statistics.median(writes)
    print(f"{options.gib:.2f} GiB: {copy:.2f} s for the copy, {write:.2f} s to the disk, {write / copy:.1f} x")


if __name__ == "__main__":
    main()
