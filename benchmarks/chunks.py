"""What ``run.chunks`` saves and costs: peak memory and time of an ALBEF step over one batch, by the number of chunks.

    python benchmarks/chunks.py --setting cpu-small --batch 64 --threads 1 --chunks 1 2 4 8
    python benchmarks/chunks.py --setting paper --device cuda --variant bf16 --batch 512 --chunks 1 2 4 8 16

Each number of chunks has a process of its own, with the teacher, the queue and AdamW, as ``train_step.py`` has them.
``0`` chunks is the process before its first step: weights, teacher, queue.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from train_step import SETTINGS, Ours, peak_memory, random_batch


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu-small")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--variant", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="after a first one that does not count")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace, chunks: int) -> dict[str, float]:
    """Seconds of a step, GiB at the peak and the first loss, in this process."""
    torch.set_num_threads(args.threads)
    step = Ours(replace(SETTINGS[args.setting], batch=args.batch), args.device, args.variant, compiled=False)
    step.clock.looking = False
    step.task.chunks = max(1, chunks)
    steps = [
        step(random_batch(replace(SETTINGS[args.setting], batch=args.batch), seed=i).to(args.device))["step"]
        for i in range(args.steps + 1 if chunks else 0)
    ]
    return {"seconds": statistics.median(steps[1:]) if chunks else 0.0, "peak_gib": peak_memory(args.device)}


def apart(args: argparse.Namespace, chunks: int) -> dict[str, float] | None:
    """The same in a process of its own; None where it did not come to its end, as for want of memory."""
    names = ("setting", "device", "variant", "batch", "threads", "steps")
    options = [part for name in names for part in (f"--{name}", str(getattr(args, name)))]
    command = [sys.executable, __file__, *options, "--chunks", str(chunks), "--alone"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main() -> None:
    """The command."""
    args = parse()
    if args.alone:
        print(json.dumps(measure(args, args.chunks[0])))
        return
    print(f"{args.setting}, {args.variant}, {args.device}, batch {args.batch}, torch {torch.__version__}")
    found = {chunks: apart(args, chunks) for chunks in (0, *args.chunks)}
    first = next((of for chunks, of in found.items() if chunks and of), None)
    for chunks, of in found.items():
        if of is None:
            print(f"{chunks:>3} chunks: did not fit")
        elif not chunks:
            print(f"before the first step: {of['peak_gib']:.2f} GiB")
        else:
            print(f"{chunks:>3} chunks: {of['peak_gib']:6.2f} GiB, {of['seconds']:7.3f} s a step, "
                  f"{of['seconds'] / first['seconds']:.2f} x the time of the first")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
