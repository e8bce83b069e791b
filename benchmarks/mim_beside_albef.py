"""What MAE costs beside ALBEF: one training step of the mini sizes with it and without it, in turns.

    python benchmarks/mim_beside_albef.py --steps 20

Both have the quickstart's ALBEF with its teacher; one has MAE's head too, three quarters of 64 patches hidden, with
the decoder of ``projects/mim/config.py:beside_albef``. A step is forward, backward, AdamW, teacher. The ratio is the
median over pairs of steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef_mini
from mmkit.task import Task
from mmkit.types import Batch, MaskedText
from projects.mim.mae import MAE

VOCAB, SAMPLES, TOKENS = 1600, 64, 16


def task_of(decoder: dict[str, int]) -> tuple[Task, torch.optim.Optimizer]:
    """The task and its optimizer. decoder: of MAE's head; empty for none."""
    torch.manual_seed(0)
    model = albef_mini(VOCAB)
    heads = {"itc": ITC(model.spec, queue_size=0), "itm": ITM(model.spec), "mlm": MLM(model.spec)}
    more = {"mae": MAE(model.spec, norm_pix=True, **decoder)} if decoder else {}
    task = Task(model, {**heads, **more}, momentum=0.9)
    return task.train(), torch.optim.AdamW((p for p in task.parameters() if p.requires_grad), lr=1e-4, fused=True)


def batch_of() -> Batch:
    """Random pictures and texts, four words of each hidden."""
    rows = torch.arange(SAMPLES)
    ids = torch.randint(5, VOCAB, (SAMPLES, TOKENS))
    positions = torch.arange(1, 5).expand(SAMPLES, -1).contiguous()
    masked = MaskedText(
        ids=ids.scatter(1, positions, 4), positions=positions, index=torch.arange(4 * SAMPLES),
        labels=ids.gather(1, positions).flatten(),
    )  # fmt: skip
    return Batch(
        pixels=torch.randn(SAMPLES, 3, 96, 96), ids=ids, mask=torch.ones(SAMPLES, TOKENS, dtype=torch.bool),
        image_id=rows, caption_id=rows, masked=masked,
    )  # fmt: skip


def seconds(task: Task, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> float:
    """Of one step."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        out = task(batch, step)
    out.loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    task.after_step([out.carry])
    return time.perf_counter() - start


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--depth", type=int, default=1, help="of the decoder, in blocks (default 1)")
    parser.add_argument("--width", type=int, default=64, help="of the decoder, with a head for each 32 (default 64)")
    args = parser.parse_args()
    decoder = {"depth": args.depth, "width": args.width, "heads": max(1, args.width // 32)}
    plain, beside, batch = task_of({}), task_of(decoder), batch_of()
    for pair in (plain, beside):
        seconds(*pair, batch, 0)
    times = [(seconds(*plain, batch, i), seconds(*beside, batch, i)) for i in range(args.steps)]
    ratio = statistics.median(with_mae / without for without, with_mae in times)
    without, with_mae = (statistics.median(column) for column in zip(*times, strict=True))
    sys.stdout.write(f"ALBEF {without:.3f} s, with MAE {with_mae:.3f} s; median ratio of pairs {ratio:.3f}\n")


if __name__ == "__main__":
    main()
