"""Each process holds its share of weights, gradients, teacher, optimizer (Zhao et al. 2023, arXiv:2304.11277; FSDP2).

Weights are gathered where they are needed and gradients scattered, over one mesh: all processes ("fsdp"), or those of
a node, whose shares the other nodes hold too ("hsdp"). Made in this order: rules and frozen parameters, scalars get an
axis, a twin for evaluation, compilation, shards, the optimizer. Accelerate keeps processes, device and autocast.

Evaluators, reports and exports use a twin with whole weights: they may call a model as often as they like on each
process, in the precision that they ask for. Left out: shards in main memory (offload), and whole weights that do not
fit one card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from mmkit.config import Optim
from mmkit.errors import UserError
from mmkit.ranks import rank
from mmkit.train.engines.base import State, clip, filled, held, size
from mmkit.train.engines.scalars import give_axes
from mmkit.train.engines.units import shard, units_of
from mmkit.train.engines.whole import Twin
from mmkit.train.optim import make_optimizer, settle
from mmkit.types import Batch, Count, TaskOutput

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Sharded:
    """See ``Engine``. mesh: of one axis, or of two, (replicas, shards). reshard: see ``Run``."""

    def __init__(self, name: str, accelerator: Accelerator, mesh: DeviceMesh, reshard: bool, told: str) -> None:
        self.name = name
        self.accelerator = accelerator
        self.mesh = mesh
        self.reshard = reshard
        self.told = told
        self.task: Any = None
        self.root: Any = None
        self.optimizer: Any = None
        self.scalars: frozenset[str] = frozenset()

    def prepare(self, task: Any, optim: Optim, compiled: bool) -> Any:
        """See ``Engine``."""
        _check(task)
        self.task = task
        groups = settle(task, optim.rules)
        whole = size(held(task, optim))
        _from_first(task)
        self.scalars = give_axes(task)
        self._twin = Twin(nn.ModuleDict({"model": task.model, "heads": task.heads}))
        if compiled:
            task.compile_blocks(within=True)
        self.root = _Root(task)
        passes = units_of(task, task.ema, self.reshard)
        shard(self.root, passes, self.mesh, DTYPES.get(self.accelerator.mixed_precision))
        register_fsdp_forward_method(self.root, "count")
        optimizer = make_optimizer(task, optim, groups, half=self.accelerator.mixed_precision == "bf16")
        self.optimizer = self.accelerator.prepare_optimizer(optimizer, device_placement=False)
        own = size(held(task, optim))
        self.told += f"; this process {own} of {whole} of weights, teacher, gradients and optimizer"
        return self.optimizer

    def forward(self, batch: Batch, step: int, before: int, totals: Mapping[str, Count] | None) -> Any:
        """See ``Engine``."""
        with self.accelerator.autocast():
            return self.root(batch, step, before, totals)[1]

    def count(self, batches: Sequence[Batch], step: int) -> Any:
        """See ``Engine``."""
        with self.accelerator.autocast():
            return self.root.count(batches, step, self.accelerator.device)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """See ``Engine``. Until the last one each process keeps the gradients of all weights."""
        self.root.set_requires_gradient_sync(last)
        yield

    def clip(self, most: float | None) -> Tensor:
        """See ``Engine``."""
        self.accelerator.unscale_gradients()
        return clip(list(self.task.parameters()), most)

    def check(self) -> None:
        """See ``Engine``."""
        if whole := [name for name, p in self.task.named_parameters() if not isinstance(p, DTensor)]:
            raise RuntimeError(
                f"{len(whole)} parameters are still gathered after the backward pass ({', '.join(whole[:3])}): what a "
                "step changes in them would be lost"
            )

    @contextmanager
    def whole(self, first_only: bool = False) -> Iterator[None]:
        """See ``Engine``."""

        def made(parameter: Tensor) -> Tensor | None:
            full = _full(parameter.detach(), scalar=id(parameter) in scalars)
            if first_only:
                return full.cpu() if rank() == 0 else None
            return full

        scalars = {id(p) for name, p in self.task.named_parameters(remove_duplicate=False) if name in self.scalars}

        model, heads = self.task.model, self.task.heads
        with self._twin.filled(made) as twin:
            try:
                self.task.model, self.task.heads = twin.get_submodule("model"), twin.get_submodule("heads")
                yield
            finally:
                self.task.model, self.task.heads = model, heads

    def state(self) -> State:
        """See ``Engine``."""
        return self._state(lambda value, scalar: _full(value, scalar) if scalar else value)

    def full_state(self) -> State | None:
        """See ``Engine``; tensors are in main memory."""

        def made(value: Tensor, scalar: bool) -> Tensor | None:
            full = _full(value, scalar)
            return full.cpu() if rank() == 0 else None

        state = self._state(made)
        return state if rank() == 0 else None

    def _state(self, made: Callable[[Tensor, bool], Tensor | None]) -> State:
        """With ``made(value, whether of a scalar)`` for each tensor; of what several names share, once."""
        kept: dict[int, Any] = {}

        def one(name: str, value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) not in kept:
                kept[id(value)] = made(value.detach(), name in self.scalars)
            return kept[id(value)]

        task = {name: one(name, value) for name, value in self.task.state_dict(keep_vars=True).items()}
        optimizer = filled(self.optimizer)
        names = _names(optimizer)
        moments = {
            number: {key: value if key == "step" else one(names[number], value) for key, value in of.items()}
            for number, of in optimizer["state"].items()
        }
        return State(task=task, optimizer=optimizer | {"state": moments})

    def load_state(self, state: State) -> None:
        """See ``Engine``."""
        places = self.task.state_dict()
        task = {name: _shard_of(value, places.get(name)) for name, value in state.task.items()}
        self.task.load_state_dict(task, strict=True)
        names = _names(state.optimizer)
        moments = {
            number: {
                key: value if key == "step" else _shard_of(value, places[names[number]]) for key, value in of.items()
            }
            for number, of in state.optimizer["state"].items()
        }
        self.optimizer.load_state_dict(dict(state.optimizer) | {"state": moments})


def _full(value: Tensor, scalar: bool) -> Tensor:
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.reshape(()) if scalar else full


class _Root(nn.Module):
    """The task as a module whose output holds a tensor, the loss, by which the backward pass is known to begin."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(
        self, batch: Batch, step: int, before: int, totals: Mapping[str, Count] | None
    ) -> tuple[Tensor, TaskOutput]:
        """(the loss, all of it)."""
        output = self.task(batch, step, before, totals)
        return output.loss, replace(
            output, logs=_copied(output.logs), means=_copied(output.means), carry=_copied(output.carry)
        )

    def count(self, batches: Sequence[Batch], step: int, device: torch.device) -> Any:
        """``Task.count``, with gathered weights as it may pass batches through the model."""
        return self.task.count(batches, step, device)


def _copied(value: Any) -> Any:
    """With tensors of their own: what shows a parameter would lose its memory when the step ends."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    return tuple(map(_copied, value)) if isinstance(value, tuple) else value


def _names(optimizer: Mapping[str, Any]) -> dict[int, str]:
    """The parameters' names by their numbers in an optimizer's state."""
    return {
        number: name
        for group in optimizer["param_groups"]
        for number, name in zip(group["params"], group["param_names"], strict=True)
    }


def _shard_of(value: Any, place: Any) -> Any:
    """The share of this process of a whole tensor, laid out as ``place`` is; what is not sharded stays as it is."""
    if not isinstance(place, DTensor) or not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    full = value.detach().reshape(1) if value.ndim == 0 else value.detach()
    return distribute_tensor(full.to(place.device), place.device_mesh, place.placements, src_data_rank=None)


@torch.no_grad()
def _from_first(task: nn.Module) -> None:
    """Every process begins with the first one's weights, as under ddp; they lie in memory as shards are cut."""
    for parameter in task.parameters():
        parameter.data = parameter.detach().contiguous()
    for tensor in (*task.parameters(), *task.buffers()):
        whole = tensor.detach().contiguous()
        dist.broadcast(whole, src=0)
        tensor.copy_(whole)


def _check(task: nn.Module) -> None:
    """UserError for weights of several types, which cannot travel together."""
    kinds: dict[torch.dtype, str] = {}
    for name, parameter in task.named_parameters():
        kinds.setdefault(parameter.dtype, name)
    if len(kinds) > 1:
        told = ", ".join(f"{name} {str(kind).removeprefix('torch.')}" for kind, name in kinds.items())
        raise UserError(
            f"shards need weights of one type, and this model has several ({told}); take run.engine = 'ddp'"
        )
