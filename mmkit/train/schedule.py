"""The learning rate as a pure function of the optimizer step: a line up, half a cosine down.

The cosine is that of Loshchilov & Hutter 2017, without restarts.
"""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, lr: float, min_lr: float, warmup_lr: float = 0.0, warmup_steps: int, steps: int
) -> float:
    """The rate for optimizer step ``step`` of ``steps``, counted from 0.

    The last of the ``warmup_steps`` steps has ``lr``, the last step of all ``min_lr``.
    """
    done = step + 1
    if done <= warmup_steps:
        return warmup_lr + (lr - warmup_lr) * done / warmup_steps
    share = min(1.0, (done - warmup_steps) / max(1, steps - warmup_steps))
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * share)) / 2
