"""What a run is about to do, in numbers, printed before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from mmkit.allocator import advice, allocator
from mmkit.config import Experiment, Optim
from mmkit.config.experiment import BatchPlan
from mmkit.data.order import RULE
from mmkit.data.texts.coverage import Coverage
from mmkit.heads.base import Head
from mmkit.train.precision import ProductChoice


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Durations in optimizer steps; ``parameters``: part -> (trainable, all).

    minutes: of a run by the clock, whose ``steps`` are 0 before it began. warmup: as the config gives it.
    Where micro-batches are accumulated, ``within``: the heads that compare samples, which see those of one micro-batch;
    ``counted``: the heads whose counts only a pass of their own tells. texts: how the vocabulary fits the captions.
    engine: who holds which weights, "" where every process holds all.
    sets: of several with weights, (name, records, share of the samples). order: in which the records are taken.
    allocator: a line about it, "" where there is nothing to say. flops_a_sample: of products, forward and back; peak:
    operations a second of the card; None where one of them is not known.
    """

    name: str
    records: int
    steps: int
    steps_per_epoch: int
    warmup_steps: int
    start_step: int
    batch: BatchPlan
    device: str
    precision: str
    product: ProductChoice
    threads: int
    parameters: dict[str, tuple[int, int]]
    loaded: dict[str, str]
    minutes: float | None = None
    warmup: str = ""
    within: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    texts: Coverage | None = None
    engine: str = ""
    sets: tuple[tuple[str, int, float], ...] = ()
    order: str = RULE
    allocator: str = ""
    flops_a_sample: float | None = None
    peak: float | None = None

    def lines(self) -> list[str]:
        """For people."""
        batch = self.batch
        trainable = sum(own for own, _ in self.parameters.values())
        parts = ", ".join(f"{name} {count(own)}" for name, (own, _) in self.parameters.items() if own)
        frozen = ", ".join(f"{name} {count(n - own)}" for name, (own, n) in self.parameters.items() if n > own)
        parts_of: dict[str, list[str]] = {}
        for part, origin in self.loaded.items():
            parts_of.setdefault(origin if origin == "at random" else f"from {origin}", []).append(part)
        loaded = "; ".join(f"{', '.join(of)} {origin}" for origin, of in parts_of.items())
        return [
            f"{self.name}: {self.records:,} records, {self._length()}"
            + (f"; resumes after step {self.start_step:,}" if self.start_step else ""),
            f"batch: {batch.rank_batch} a forward x {batch.accumulation_steps} accumulated x {batch.world} processes "
            f"= {batch.global_batch} a step"
            + (f"; {self.steps * batch.global_batch:,} samples in all" if self.minutes is None else ""),
            *self._records(),
            *self._accumulation(),
            *([] if self.texts is None else [self.texts.line()]),
            f"parameters: {count(trainable)} trainable ({parts})" + (f"; without gradient: {frozen}" if frozen else ""),
            f"initialised: {loaded or 'every part at random'}",
            *([self.engine] if self.engine else []),
            f"on {self.device}, precision {self.precision}, float32 product {self.product.name!r} "
            f"({self.product.reason}), {self.threads} threads",
            *([self.allocator] if self.allocator else []),
            *self._arithmetic(),
        ]

    def _arithmetic(self) -> list[str]:
        if self.flops_a_sample is None or self.peak is None:
            return []
        return [f"{self.flops_a_sample / 1e9:.1f} GFLOP a sample; mfu is the share of {self.peak / 1e12:.4g} TFLOP/s"]

    def _length(self) -> str:
        if self.minutes is None:
            epochs = self.steps / self.steps_per_epoch
            return (
                f"{self.steps:,} steps = {epochs:.2f} epochs of {self.steps_per_epoch:,}, warm-up {self.warmup_steps:,}"
            )
        return (
            f"by the clock: steps for {self.minutes:g} minutes, evaluations and saving not counted; the learning rate "
            f"runs over the time, warm-up {self.warmup}; an epoch has {self.steps_per_epoch:,} steps, what is given "
            "in steps or epochs stays so"
        )

    def _records(self) -> list[str]:
        samples = self.steps * self.batch.global_batch
        sets = [
            f"{name} {records:,} records, {share:.1%} of the samples"
            + (f" = {samples * share / records:.2f} visits each" if self.minutes is None else "")
            for name, records, share in self.sets
        ]
        order = self.order.removeprefix(f"{RULE}, ") if self.order != RULE and not sets else ""
        near = f"order: {order}: neighbours are read together; data.block=1 is the full shuffle, slower"
        return ([f"sources: {'; '.join(sets)}"] if sets else []) + ([near] if order else [])

    def _accumulation(self) -> list[str]:
        lines = []
        if self.within:
            lines.append(
                f"accumulation: {', '.join(self.within)} compare the {self.batch.rank_batch * self.batch.world} "
                f"samples of a micro-batch with each other, not the {self.batch.global_batch} of a step"
            )
        if self.counted:
            lines.append(
                f"accumulation: {', '.join(self.counted)} say only after a pass what they count, so each micro-batch "
                "passes them twice; a `counts` of their own would spare that (see mmkit.heads.base.Head)"
            )
        return lines


def make_plan(
    exp: Experiment, task: Any, *, records: int, steps_per_epoch: int, start_step: int, batch: BatchPlan,
    device: str, precision: str, product: ProductChoice, threads: int, texts: Coverage | None = None, engine: str = "",
    sets: tuple[tuple[str, int, float], ...] = (), order: str = RULE,
) -> Plan:  # fmt: skip
    """The plan of one run. A model tells what it loaded by ``origins``: part -> file or name, and the share."""
    steps = exp.run.total_steps(steps_per_epoch)
    heads = task.heads.items() if batch.accumulation_steps > 1 else ()
    return Plan(
        name=exp.name, records=records, steps=steps, steps_per_epoch=steps_per_epoch,
        warmup_steps=exp.optim.warmup(steps, steps_per_epoch), start_step=start_step, batch=batch, device=device,
        precision=precision, product=product, threads=threads, parameters=count_parameters(task),
        loaded=dict(getattr(task.model, "origins", {})), minutes=exp.run.minutes, warmup=_warmup(exp.optim),
        within=tuple(name for name, head in heads if head.needs_negatives),
        counted=tuple(name for name, head in heads if type(head).counts is Head.counts), texts=texts, engine=engine,
        sets=sets, order=order, allocator=advice(allocator()) if device.startswith("cpu") else "",
    )  # fmt: skip


def _warmup(optim: Optim) -> str:
    given = ((optim.warmup_steps, "steps"), (optim.warmup_epochs, "epochs"), (optim.warmup_frac, "of it"))
    return next((f"{value:g} {unit}" for value, unit in given if value is not None), "none")


def count_parameters(task: nn.Module) -> dict[str, tuple[int, int]]:
    """(trainable, all) parameters of each part of the model, each head, and the teacher."""
    found: dict[str, tuple[int, int]] = {}
    for name, parameter in task.named_parameters():
        first, *rest = name.split(".")
        part = ".".join([first, rest[0]]) if first in ("model", "heads") and rest else first
        own, total = found.get(part, (0, 0))
        found[part] = (own + parameter.numel() * parameter.requires_grad, total + parameter.numel())
    return found


def count(number: int) -> str:
    """1,234,567 as 1.2 M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
