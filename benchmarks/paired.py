"""What benchmarks of a step beside another library's share: the boxes of both, steps in turns, the command line."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mmkit.heads.boxes.truth import Truth

Work = Callable[[], Tensor]
Clock = Callable[[], float]


def random_truth(g: Generator, batch: int, most: int, classes: int) -> tuple[Truth, list[dict[str, Tensor]]]:
    """One to ``most`` boxes in each of ``batch`` pictures, in our form and in transformers'."""
    counts = torch.randint(1, most + 1, (batch,), generator=g)
    boxes, labels = torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(batch, int(counts.max()), 1), []
    named = torch.zeros(boxes.shape[:2], dtype=torch.int64)
    for i, n in enumerate(counts.tolist()):
        boxes[i, :n] = torch.rand(n, 4, generator=g) * 0.4 + 0.1
        named[i, :n] = torch.randint(classes, (n,), generator=g)
        labels.append({"boxes": boxes[i, :n], "class_labels": named[i, :n]})
    return Truth(boxes, named, counts, torch.empty(0, dtype=torch.int64)), labels


def timed(work: Work, model: nn.Module, clock: Clock) -> float:
    """Seconds of a step: forward, losses, backward."""
    model.zero_grad()
    start = clock()
    work().backward()
    return clock() - start


def in_turns(
    pair: Callable[[int], tuple[Work, Work]], models: tuple[nn.Module, nn.Module], steps: int, clock: Clock
) -> dict[str, float]:
    """Steps 1 to ``steps`` of ours and theirs, in turns: the median seconds, and the median ratio of paired steps."""
    taken: list[tuple[float, float]] = []
    for step in range(1, steps + 1):
        works = pair(step)
        order = (0, 1) if step % 2 else (1, 0)
        seconds = {i: timed(works[i], models[i], clock) for i in order}
        taken.append((seconds[0], seconds[1]))
    return {
        "ours_seconds": statistics.median(a for a, _ in taken),
        "theirs_seconds": statistics.median(b for _, b in taken),
        "ratio": statistics.median(b / a for a, b in taken), "steps": float(steps),
    }  # fmt: skip


def command(
    about: str | None, settings: Mapping[str, Any], default: str, measure: Callable[[Any, int, Clock], dict[str, float]]
) -> None:
    """The command line of such a benchmark: measure one of its settings, say and write the numbers."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=settings, default=default)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="after a first one that does not count")
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of the process, for a machine that is busy")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = measure(settings[args.setting], args.steps, time.process_time if args.cpu else time.perf_counter)
    print(f"{args.setting}, {args.threads} threads, torch {torch.__version__}: ours {found['ours_seconds']:.3f} s, "
          f"transformers {found['theirs_seconds']:.3f} s, theirs / ours {found['ratio']:.2f}")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({**found, "setting": asdict(settings[args.setting])}))
