"""What pre-training is worth: each task fine-tuned from a pre-trained model and from nothing, at equal steps.

    python benchmarks/pretraining_gain.py --start runs/quickstart --seeds 0 1 --out runs/gain

Every run is an experiment of configs/ or projects/ whose function takes ``start`` and ``seed``. Runs that are already in
the folder are not repeated. Prints a table with the accuracy of each seed on held-out data, and its mean.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

from mmkit import hub
from mmkit.config import load_experiment
from mmkit.train.stages import train_stages

ROOT = Path(__file__).parent.parent
TASKS = {
    "scene questions": f"{ROOT}/configs/quickstart.py:questions",
    "true or false of two scenes": f"{ROOT}/projects/nlvr2/config.py:openmoji",
    "entailment": f"{ROOT}/projects/visual_entailment/config.py:openmoji",
}


def accuracy(task: str, start: str, seed: int, steps: int | None, out: Path) -> float:
    """Train, unless it was done, and measure."""
    folder = out / f"{task.replace(' ', '-')}-{'scratch' if start == 'scratch' else 'pretrained'}-{seed}"
    numbers = folder / "numbers.json"
    if not numbers.is_file():
        arguments = f"start={start!r}, seed={seed}" + ("" if steps is None else f", steps={steps}")
        arguments += ", assignment_steps=0" if "nlvr2" in TASKS[task] else ""  # what is compared is pre-training alone
        train_stages(load_experiment(f"{TASKS[task]}({arguments})"), folder, resume=True, save_model=hub.save)
    found = json.loads(numbers.read_text())
    return next(value for name, value in found.items() if name.endswith(".accuracy") and name.count(".") == 1)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="What pre-training is worth")
    parser.add_argument("--start", required=True, help="the folder of a pre-trained run")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, help="instead of each task's own")
    parser.add_argument("--out", type=Path, default=Path("runs/gain"))
    args = parser.parse_args()
    print("| task | start | " + " | ".join(f"seed {seed}" for seed in args.seeds) + " | mean |")
    print("|---|---|" + "---|" * (len(args.seeds) + 1))
    for task in args.tasks:
        for start in (args.start, "scratch"):
            found = [accuracy(task, start, seed, args.steps, args.out) for seed in args.seeds]
            cells = " | ".join(f"{100 * value:.1f} %" for value in (*found, mean(found)))
            print(f"| {task} | {'nothing' if start == 'scratch' else 'pre-trained'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
