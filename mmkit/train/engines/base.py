"""What an engine is: it lays a task and its optimizer out over the processes, and brings them together again.

The loop asks it for a forward pass, for the end of a micro-batch, for the gradient's norm; what writes and reads
training states asks it for ``full_state`` and gives ``load_state`` what was read. States have the names, shapes and
forms of a run on one process, whatever the engine: a run that one engine wrote, another goes on with.

To write one file: ``full_state``. To write shards (``torch.distributed.checkpoint``): save what ``state`` gives; to
read them on any number of processes, under any engine: load into what ``state`` gives, then ``load_state`` of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmkit.config import Optim
from mmkit.train.optim import of_muon
from mmkit.types import Batch, Count


@dataclass(frozen=True, kw_only=True)
class State:
    """All that training changes in the modules and the optimizer.

    task: as ``Task.state_dict()`` gives it. optimizer: as ``torch.optim.AdamW.state_dict()``, whose groups also have
    ``param_names`` in the order of their numbers; of Muon's parameters without ``exp_avg_sq``. Tensors have the shapes
    of one process; those of ``full_state`` are whole and plain, those of ``state`` may be DTensors.
    """

    task: Mapping[str, Any]
    optimizer: Mapping[str, Any]


class Engine(Protocol):
    """Made by ``choose.make_engine``; ``prepare`` is called once, before all others, and by all processes.

    name: "ddp", "fsdp" or "hsdp". told: what the plan says of it once it is prepared, "" where nothing is to be said.
    """

    name: str
    told: str

    def prepare(self, task: Any, optim: Optim, compiled: bool) -> Any:
        """Lay out ``task``, on its device already, and make its optimizer, which is given back, as Accelerate has it.

        compiled: compile the transformer blocks before. UserError for what cannot be laid out.
        """

    def forward(self, batch: Batch, step: int, before: int, totals: Mapping[str, Count] | None) -> Any:
        """``Task.forward`` of this process, in the run's precision."""

    def count(self, batches: Sequence[Batch], step: int) -> Any:
        """``Task.count``; by all processes."""

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one; gradients travel in that of the last one of a step."""

    def clip(self, most: float | None) -> Tensor:
        """The norm of the whole gradient, a plain float32 scalar, equal on all processes; brought down to ``most``."""

    def check(self) -> None:
        """Before ``Task.after_step``: RuntimeError where an average or a bound would be lost."""

    def whole(self, first_only: bool = False) -> AbstractContextManager[None]:
        """Inside, the task's ``model`` and ``heads`` are whole, plain modules with the weights of now.

        For evaluators, reports and the model for use; by all processes, as weights travel. first_only: they are used
        on the first process alone, which keeps them in its main memory.
        """

    def state(self) -> State:
        """What this process holds: shards as DTensors, scalars and buffers whole, equal on all processes.

        By all processes. The optimizer's moments are there before its first step too, as zeros. Tensors may be those
        that the next step changes.
        """

    def full_state(self) -> State | None:
        """All of it on the first process, None on the others; by all processes, as shards travel.

        Tensors may be those that the next step changes: write or copy them before it.
        """

    def load_state(self, state: State) -> None:
        """Become what ``full_state`` or ``state`` gave; of what is whole each process gives all, and keeps its share.

        By all processes. RuntimeError, as of ``load_state_dict``, where a name or a shape is not that of this run.
        """


def filled(optimizer: Any) -> dict[str, Any]:
    """The optimizer's state, also of parameters that have taken no step yet: with what they begin with."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p not in optimizer.state:
                step = torch.zeros((), dtype=torch.float32, device=p.device if group["fused"] else "cpu")
                averages = ("exp_avg",) if "muon" in group else ("exp_avg", "exp_avg_sq")
                optimizer.state[p] = {"step": step} | {name: torch.zeros_like(p) for name in averages}
    return dict(optimizer.state_dict())


def held(module: nn.Module, optim: Optim) -> int:
    """The bytes of weights, gradients and optimizer that this process keeps between its steps."""
    total, single = 0, set(of_muon(module, optim.rules))
    for p in module.parameters():
        own = p.to_local() if isinstance(p, DTensor) else p
        copies = 1 if not p.requires_grad else 3 if p in single else 4  # itself, its gradient, and its averages
        total += own.numel() * own.element_size() * copies
    return total


def size(number: int) -> str:
    """Bytes as "1.25 GiB" or "3.2 MiB"."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def clip(parameters: Sequence[nn.Parameter], most: float | None) -> Tensor:
    """The norm of the gradients of ``parameters``, all plain or all of one mesh; then brought down to ``most``."""
    own = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in own if p.grad is not None])
    if isinstance(norm, DTensor):  # of shards it is this process's part so far
        norm = norm.full_tensor()
    if most is not None:
        torch.nn.utils.clip_grads_with_norm_(own, most, norm)
    return norm
