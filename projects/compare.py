"""Fine-tuning from a pre-trained model against the same from scratch: equal steps, several seeds, one table.

    python -m projects.compare projects/nlvr2/config.py --start runs/quickstart --seeds 0 1 2 --out runs/compare/nlvr2

    python -m projects.compare configs/quickstart.py:questions --start runs/quickstart --out runs/compare/questions

Trains ``openmoji(start=..., seed=...)``, or the function that is named, for each start and seed, leaves out what is
done already, and prints the accuracies and their mean as Markdown. ``--args`` are further arguments of the function.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from statistics import mean

from rich.console import Console

from mmkit.config import load_experiment, override
from mmkit.files import check_new_folder, write_json
from mmkit.hub.folder import save
from mmkit.train.stages import train_stages


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="FILE.py[:function]")
    parser.add_argument("--start", required=True, help="the folder of a pre-trained ALBEF, or `pretraining`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--args", default="", help="such as steps=500, sentences=('both',)")
    parser.add_argument("--set", nargs="*", default=[], dest="changes", metavar="path=value")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.start != "pretraining" and not (Path(args.start) / "model.safetensors").is_file():
        parser.error(f"--start {args.start}: no model.safetensors there; name the folder of a trained model")
    check_new_folder(args.out)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found: dict[str, list[dict[str, float]]] = {"scratch": [], args.start: []}
    for seed in args.seeds:
        for start, numbers in found.items():
            call = ", ".join(part for part in (f"start={start!r}, seed={seed}", args.args) if part)
            folder = args.out / f"{'scratch' if start == 'scratch' else 'pretrained'}-{seed}"
            function = args.config if ":" in args.config else f"{args.config}:openmoji"
            numbers.append(run(f"{function}({call})", args.changes, folder))
    Console(soft_wrap=True).print(table(found, args.seeds), markup=False, highlight=False)
    write_json(args.out / "compare.json", found)


def run(spec: str, changes: list[str], folder: Path) -> dict[str, float]:
    """The last metrics of one run, trained unless they are there."""
    return train_stages(override(load_experiment(spec), changes), folder, resume=True, save_model=save)


def table(found: dict[str, list[dict[str, float]]], seeds: list[int]) -> str:
    """Markdown: one row a start, the seeds' accuracies, their mean, and what guessing gives, where it is known."""
    lines = [
        f"| start | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | chance |",
        f"| --- |{' --- |' * (len(seeds) + 2)}",
    ]
    for start, numbers in found.items():
        values = [one["accuracy"] for one in numbers]
        chance = f"{numbers[0]['chance']:.3f}" if "chance" in numbers[0] else ""
        cells = " | ".join([*(f"{value:.3f}" for value in (*values, mean(values))), chance])
        lines.append(f"| {start} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
