"""What the published recipes of masked image modelling say, as facts: learning rates and what fine-tuning takes.

MAE's PRETRAIN.md and FINETUNE.md, SimMIM's and BEiT's configurations.
"""

from __future__ import annotations

from dataclasses import dataclass


def lr_of(base: float, batch: int, unit: int) -> float:
    """The learning rate of a step of ``batch`` samples: MAE gives it for each 256, SimMIM for each 512."""
    return base * batch / unit


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A published fine-tuning on ImageNet-1k at 224 pixels; top1: per cent, as released.

    base_lr: for each 256 samples of MAE, for each 512 of SimMIM; BEiT's is that of its whole step. decay: what the
    learning rate of each layer is multiplied with, for each layer that lies above it.
    """

    base_lr: float
    decay: float
    epochs: int
    drop_path: float
    top1: float


MAE_FINE_TUNING = {
    "base": FineTuning(base_lr=5e-4, decay=0.65, epochs=100, drop_path=0.1, top1=83.664),
    "large": FineTuning(base_lr=1e-3, decay=0.75, epochs=50, drop_path=0.2, top1=85.952),
    "huge": FineTuning(base_lr=1e-3, decay=0.75, epochs=50, drop_path=0.3, top1=86.928),
}
SIMMIM_FINE_TUNING = FineTuning(base_lr=1.25e-3, decay=0.65, epochs=100, drop_path=0.1, top1=83.8)
