"""One row of the table of docs/sight.md: a tower is trained with several seeds, and probed on kinds it never saw.

    python -m projects.mim.drawings drawings
    python -m projects.mim.table mae --drawings drawings --out runs/table --seeds 0 1 2

Every tower is the ViT of 4 x 128 that ``albef_mini`` has (SimMIM's with relative positions), and sees 1,400 steps of 64
samples (89,600). A run that is there already is not trained again, so a row that was stopped goes on. Below the row
stands what the objective says of 500 held-out scenes, where it can be asked (``held_out.py``). On a machine with a GPU
give ``--workers``, which draw.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import torch

from mmkit.cli import main as mmkit
from mmkit.config import dump
from mmkit.data.images.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from projects.mim.model import sight_mini

ROWS = {
    "random": None,
    "mae": "projects/mim/config.py:mae",
    "mae-pixels": "projects/mim/config.py:mae(norm_pix=False)",
    "simmim": "projects/mim/config.py:simmim",
    "simmim-absolute": "projects/mim/config.py:simmim(cell=24, squared=0.0, relative=False, lr=1e-3)",
    "beit": "projects/mim/config.py:beit",
    "supervised": "configs/pretrain/classify.py:openmoji(steps=1400)",
    "albef": "configs/quickstart.py:pretrain(steps=1400, muon=None)",
    "mae-albef": "projects/mim/config.py:beside_albef",
}
HELD_OUT = ("mae", "mae-pixels", "simmim", "simmim-absolute", "beit")
ALBEF = ("data.global_batch=64", "report=null")
KINDS = ("knn", "linear", "attentive")


def settings(row: str, seed: int, workers: int = 0) -> list[str]:
    """What ``mmkit train`` is told beside the config: the seed, who draws, and what is measured."""
    quiet = [] if row in HELD_OUT else ["evals={}"]
    return [f"run.seed={seed}", f"data.workers={workers}", *quiet, *(ALBEF if "albef" in row else [])]


def trained(row: str, seed: int, out: Path, workers: int = 0) -> Path:
    """The folder of the model, which is trained where it is not there."""
    folder, spec = out / f"{row}-{seed}", ROWS[row]
    if (folder / "numbers.json").is_file() or (spec is None and (folder / "config.json").is_file()):
        return folder
    if spec is None:
        torch.manual_seed(seed)
        transform = EvalTransform(size=96, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        parts = {"model": dump(partial(sight_mini)), "heads": {}}
        hub.save(folder, Predictor(sight_mini(), {}, None, transform, 0), {"name": "random", "args": parts})
        return folder
    resume = ["--resume"] if folder.is_dir() else []
    if mmkit(["train", spec, "--out", str(folder), *resume, "--set", *settings(row, seed, workers)]):
        raise UserError(f"{folder}: the training did not end well; see above")
    return folder


def probed(model: Path, drawings: Path, seed: int) -> dict[str, float]:
    """The rates of each kind of head."""
    file = model / "probe.json"
    data = ["--data", str(drawings / "train"), "--test", str(drawings / "test")]
    if mmkit(["probe", "--model", str(model), *data, "--seed", str(seed), "--json", str(file)]):
        raise UserError(f"{model}: could not be probed; see above")
    found = json.loads(file.read_text(encoding="utf-8"))
    return {kind: found[kind]["top1"] for kind in KINDS}


def told(row: str, found: Sequence[Path]) -> str:
    """What the objective says of held-out pictures, a line for each run; nothing of a row that has no such."""
    lines = []
    for folder in found if row in HELD_OUT else ():
        numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
        said = {key.removeprefix("held_out."): x for key, x in numbers.items() if key.startswith("held_out.")}
        lines.append(f"{folder.name}: {', '.join(f'{name} {value:.4g}' for name, value in said.items())}\n")
    return "".join(lines)


def line(row: str, found: Sequence[dict[str, float]]) -> str:
    """The row in Markdown: of each kind of head the mean over the seeds, with the lowest and the highest."""
    cells = []
    for kind in KINDS:
        rates = [100 * one[kind] for one in found]
        spread = f" ({min(rates):.1f} to {max(rates):.1f})" if len(rates) > 1 else " (one seed)"
        cells.append(f"{mean(rates):.1f} %{spread}")
    return f"| {row} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--drawings", type=Path, required=True, help="what projects.mim.drawings wrote")
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=0, help="processes that draw, beside the one that trains")
    args = parser.parse_args(arguments)
    if not (args.drawings / "test").is_dir():
        parser.error(f"--drawings {args.drawings}: has no test; make it by python -m projects.mim.drawings")
    try:
        runs = [trained(args.row, seed, args.out, args.workers) for seed in args.seeds]
        found = [probed(run, args.drawings, seed) for run, seed in zip(runs, args.seeds, strict=True)]
    except UserError as error:
        parser.error(str(error))
    sys.stdout.write(f"| after | {' | '.join(KINDS)} |\n| --- | --- | --- | --- |\n{line(args.row, found)}\n")
    sys.stdout.write(told(args.row, runs))


if __name__ == "__main__":
    main()
