"""Every process holds everything, and gradients are averaged (DistributedDataParallel, through Accelerate).

On one process the same without the average.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from mmkit.config import Optim
from mmkit.ranks import rank, world_size
from mmkit.train.engines.base import State, clip, filled, held, size
from mmkit.train.optim import make_optimizer
from mmkit.types import Batch, Count


class DDP:
    """See ``Engine``."""

    name = "ddp"

    def __init__(self, accelerator: Accelerator, told: str = "") -> None:
        self.accelerator = accelerator
        self.told = told
        self.task: Any = None
        self.wrapped: Any = None
        self.optimizer: Any = None

    def prepare(self, task: Any, optim: Optim, compiled: bool) -> Any:
        """See ``Engine``."""
        if compiled:
            task.compile_blocks()
        self.task = task
        optimizer = make_optimizer(task, optim, half=self.accelerator.mixed_precision == "bf16")
        with warnings.catch_warnings():  # torch's new name for broadcast_buffers is not known to Accelerate yet
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self.wrapped, self.optimizer = self.accelerator.prepare(task, optimizer)
        if world_size() > 1:
            self.told = f"ddp: each process holds all weights, {size(held(task, optim))} with gradients and optimizer"
        return self.optimizer

    def forward(self, batch: Batch, step: int, before: int, totals: Mapping[str, Count] | None) -> Any:
        """See ``Engine``."""
        return self.wrapped(batch, step, before, totals)

    def count(self, batches: Sequence[Batch], step: int) -> Any:
        """See ``Engine``."""
        with self.accelerator.autocast():
            return self.task.count(batches, step, self.accelerator.device)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """See ``Engine``."""
        with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
            yield

    def clip(self, most: float | None) -> Tensor:
        """See ``Engine``."""
        self.accelerator.unscale_gradients()
        return clip(list(self.task.parameters()), most)

    def check(self) -> None:
        """Nothing can be lost: parameters are whole everywhere."""

    @contextmanager
    def whole(self, first_only: bool = False) -> Iterator[None]:
        """They are whole always."""
        yield

    def state(self) -> State:
        """See ``Engine``."""
        return State(task=self.task.state_dict(), optimizer=filled(self.optimizer))

    def full_state(self) -> State | None:
        """See ``Engine``; nothing travels."""
        return State(task=self.task.state_dict(), optimizer=self.optimizer.state_dict()) if rank() == 0 else None

    def load_state(self, state: State) -> None:
        """See ``Engine``."""
        self.task.load_state_dict(dict(state.task), strict=True)
        self.optimizer.load_state_dict(dict(state.optimizer))
