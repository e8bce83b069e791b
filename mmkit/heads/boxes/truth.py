"""The boxes of a batch as DETR compares them: padded, centre, width and height, from 0 to 1 of each picture."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmkit.features import Features
from mmkit.heads.boxes.objects import objects_of, sizes
from mmkit.nn.boxes import to_centres


class Truth(NamedTuple):
    """boxes (B, M, 4) float32, labels (B, M) int64, counts: (B,) int64, how many of the M are real, on the CPU.

    Padding, at the end of a row, is a box over the whole picture of class 0, so that nothing is divided by zero.
    flat: (N,) int64, where the N boxes of the batch stand among the B x M.
    """

    boxes: Tensor
    labels: Tensor
    counts: Tensor
    flat: Tensor


def truth_of(f: Features) -> Truth:
    """Of the objects that are to be found, see ``objects_of``."""
    boxes, labels, of = objects_of(f)
    batch, device = len(f.batch), boxes.device
    counts = torch.bincount(of, minlength=batch)
    starts = counts.cumsum(0) - counts
    known = counts.cpu()  # the one place where the host waits for how many there are
    most = int(known.max()) if len(of) else 0
    flat = of * most + torch.arange(len(of), device=device) - starts[of]
    relative = boxes / sizes(f.batch).repeat(1, 2)[of]
    padded = torch.tensor([0.5, 0.5, 1.0, 1.0], device=device).repeat(batch * most, 1)
    padded[flat] = to_centres(relative)
    classes = torch.zeros(batch * most, dtype=torch.int64, device=device)
    classes[flat] = labels
    return Truth(padded.view(batch, most, 4), classes.view(batch, most), known, flat)
