"""What one process holds, and what it sends, under each engine. Bytes, unless a name says otherwise.

Weights, the teacher, gradients and the optimizer's averages are float32; so is what travels, but for the gathered
weights of linear layers under half precision. The engines are those of ``run.engine``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.nn import Parameter

from mmkit.config import Rule
from mmkit.task import Task
from mmkit.train.engines.units import linear, units_of
from mmkit.train.optim import of_muon

ENGINES = ("ddp", "fsdp", "hsdp")
FLOAT, HALF = 4, 2
ADAM = 2 * FLOAT
"""A parameter's two averages; Muon keeps one."""

CONTEXT_GIB = 1.5
"""What a GPU's driver, its libraries and the buffers of NCCL take beside all tensors; not measured on many ranks."""
PROCESS_GIB = 0.5
"""Python and its libraries, where tensors lie in main memory."""
USABLE = 0.95
"""The share of the rest that tensors can fill: memory that is set free comes back in pieces."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a task. trained, frozen, teacher: parameters; muon: of the trained ones those of Muon. buffers: bytes.

    Of a sharded engine, in bytes: ``gathered``, the weights that a process holds whole from their first pass to the end
    of the step; ``passing``, those that it holds for a moment; ``entered``, those that it gathers in a step.
    """

    trained: int
    frozen: int
    teacher: int
    buffers: int
    gathered: int
    passing: int
    entered: int
    muon: int = 0

    @property
    def averages(self) -> int:
        """Bytes of the optimizer."""
        return ADAM * self.trained - FLOAT * self.muon

    @property
    def saved(self) -> int:
        """Bytes of a training state: weights, teacher, buffers, optimizer."""
        return FLOAT * (self.trained + self.frozen + self.teacher) + self.averages + self.buffers

    @property
    def model(self) -> int:
        """Bytes of the model for use."""
        return FLOAT * (self.trained + self.frozen)


def sizes_of(task: Task, half: bool, reshard: bool = False, rules: Sequence[Rule] = ()) -> Sizes:
    """half: linear layers compute in half precision. reshard: see ``mmkit.config.Run``. rules: of the optimizer."""
    teacher = set() if task.ema is None else set(task.ema.parameters())
    every = set(task.parameters())
    trained = sum(p.numel() for p in every if p.requires_grad)
    units = [unit for tower in units_of(task, task.ema, reshard) for unit in tower]
    weights: list[set[Parameter]] = []
    for unit in units:  # a unit within another comes before it, and keeps its own
        weights.append({p for module in unit.modules for p in module.parameters()}.difference(*weights))
    sizes = [
        (HALF if half and linear(unit) else FLOAT) * sum(p.numel() for p in own)
        for unit, own in zip(units, weights, strict=True)
    ]
    kept = FLOAT * sum(p.numel() for p in every.difference(*weights))  # the rest is gathered for the whole step
    kept += sum(size for unit, size in zip(units, sizes, strict=True) if not unit.again)
    again = [(size, own) for unit, size, own in zip(units, sizes, weights, strict=True) if unit.again]
    return Sizes(
        trained=trained, frozen=sum(p.numel() for p in every - teacher) - trained,
        teacher=sum(p.numel() for p in teacher), buffers=sum(b.numel() * b.element_size() for b in task.buffers()),
        gathered=kept, passing=2 * max((size for size, _ in again), default=0),  # that at work, and the next one
        entered=kept + sum(size * (1 if own <= teacher else 2) for size, own in again),
        muon=sum(p.numel() for p in of_muon(task, rules)) if rules else 0,
    )  # fmt: skip


def state_of(sizes: Sizes, engine: str, world: int, node: int) -> int:
    """Weights, teacher, gradients, optimizer and buffers on one process; node: the processes of a node."""
    parts = shards(engine, world, node)
    sharded = FLOAT * (2 * sizes.trained + sizes.frozen + sizes.teacher) + sizes.averages
    return -(-sharded // parts) + sizes.buffers


def shards(engine: str, world: int, node: int) -> int:
    """Over how many processes an engine splits the weights."""
    return {"ddp": 1, "fsdp": world, "hsdp": min(world, node)}[engine]


def needed(
    sizes: Sizes, engine: str, world: int, node: int, *, passed: int, accumulation: int, gpu: bool = True
) -> float:
    """GiB that a card, or a CPU, must have for one process. passed: bytes of a pass, see ``Passed``."""
    held = state_of(sizes, engine, world, node)
    gradients = FLOAT * sizes.trained
    if engine == "ddp":
        # they are counted in a pass of one process; those of several lie in the buckets from the start
        held -= 0 if world > 1 or accumulation > 1 else gradients
    elif shards(engine, world, node) > 1:
        held += sizes.gathered + sizes.passing + (gradients if accumulation > 1 else 0)
    gib = (held + passed) / 2**30
    return gib / USABLE + CONTEXT_GIB if gpu else gib + PROCESS_GIB


@dataclass(frozen=True)
class Sent:
    """Bytes of a step: what a process sends, and what leaves a node."""

    process: float
    node: float


def sent(sizes: Sizes, engine: str, world: int, node: int) -> Sent:
    """Of gradients and weights, in rings; what heads exchange beside (embeddings, ITM's rows) is some megabytes."""
    parts, nodes = shards(engine, world, node), -(-world // node)
    gradients, several = FLOAT * sizes.trained, nodes > 1
    if engine == "ddp":
        ring = 2 * gradients * (world - 1) / world
        return Sent(ring, ring * several)
    share = (parts - 1) / parts
    inside = (sizes.entered + gradients) * share
    if parts == world:
        return Sent(inside, inside * several)
    across = 2 * gradients * (nodes - 1) / nodes
    return Sent(inside + across / parts, across)
