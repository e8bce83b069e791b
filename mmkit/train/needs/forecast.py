"""One run before it starts, in numbers: what a process needs and sends, how long it takes, what it leaves on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mmkit.config import Experiment
from mmkit.config.experiment import BatchPlan
from mmkit.train.needs.memory import ENGINES, FLOAT, Sizes, needed, sent, state_of
from mmkit.train.needs.trial import Passed
from mmkit.train.plan import count

SHARES = (0.40, 0.55)
"""Of a device's peak: what a good run reaches, and what the best do."""
A_ROW = 40
"""Bytes of a record in the index of shards, beside its caption."""
A_CAPTION = 60
"""Bytes of a caption, where nobody counts them."""
SIMILARITIES = 6
"""So many float32 tables of a process's samples by those of all the others are there at once, where heads contrast."""
SLACK = 1
"""A checkpoint more than are kept, while one is written."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """world: processes; node: of these on one node. memory_gib: of a card, or of main memory for each process.

    flops: operations a second in ``precision``; None = not known. gpu: False for the CPU.
    """

    name: str
    world: int
    node: int
    memory_gib: float
    flops: float | None
    precision: str
    gpu: bool = True


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """See ``make_forecast``. steps: 0 where nobody knows yet, as records. remedies: what would help, where it does not
    fit. contrasts: whether a head compares the samples of all processes. slope: bytes of a sample more. shown: what is
    decoded.
    """

    name: str
    machine: Machine
    batch: BatchPlan
    sizes: Sizes
    passed: Passed
    slope: float
    engine: str
    records: int | None
    steps: int
    minutes: float | None
    a_core: float
    kept: int
    models: int
    contrasts: bool = False
    shown: str = "pictures"
    notes: tuple[str, ...] = ()
    remedies: tuple[str, ...] = field(default=())

    def memory(self, engine: str, size: int | None = None, accumulation: int | None = None) -> float:
        """GiB that a process needs with so many samples a forward; those of the run where none is given."""
        size = self.passed.size if size is None else size
        grown = self.passed.bytes + (size - self.passed.size) * self.slope
        if self.contrasts:
            grown += SIMILARITIES * FLOAT * size * size * (self.machine.world - 1)
        return needed(
            self.sizes, engine, self.machine.world, self.machine.node, passed=round(grown), gpu=self.machine.gpu,
            accumulation=accumulation or self.batch.accumulation_steps,
        )  # fmt: skip

    @property
    def fits(self) -> bool:
        """Whether a process of the run finds room."""
        return self.memory(self.engine) <= self.machine.memory_gib

    def largest(self, engine: str) -> int:
        """The most samples a forward for which there is room; 0 where there is none for one."""
        low, high = 0, 2**20
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.memory(engine, middle) <= self.machine.memory_gib else (low, middle - 1)
        return low

    @property
    def flops_a_sample(self) -> float:
        """Of products, forward and back."""
        return self.passed.flops / self.passed.size

    def rate(self, share: float) -> float | None:
        """Samples a second of all processes at a share of the peak."""
        peak = self.machine.flops
        return None if peak is None else share * peak * self.machine.world / self.flops_a_sample

    def hours(self, share: float) -> float | None:
        """Of the steps alone."""
        if self.minutes is not None:
            return self.minutes / 60
        rate = self.rate(share)
        return self.steps * self.batch.global_batch / rate / 3600 if rate and self.steps else None

    @property
    def disk(self) -> int:
        """Bytes of all that the run keeps, at the most."""
        return (self.kept + SLACK) * self.sizes.saved + (self.models + SLACK) * self.sizes.model

    def numbers(self) -> dict[str, Any]:
        """For programs; what is not known is left out."""
        m = self.machine
        found: dict[str, Any] = {
            "device": m.name, "world": m.world, "gpus_per_node": m.node, "precision": m.precision,
            "engine": self.engine, "fits": self.fits, "records": self.records, "steps": self.steps or None,
            "notes": list(self.notes), "remedies": list(self.remedies), "gflop_a_sample": self.flops_a_sample / 1e9,
            "gib.card": m.memory_gib, "gib.pass": self.passed.bytes / 2**30,
            "gib.a_sample": self.slope / 2**30, "gib.checkpoint": self.sizes.saved / 2**30,
            "gib.disk": self.disk / 2**30, "decode.a_core": self.a_core,
            "index_gib": None if self.records is None else self.records * (A_ROW + A_CAPTION) / 2**30,
        }  # fmt: skip
        found |= {f"batch.{name}": value for name, value in asdict(self.batch).items()}
        found |= {f"parameters.{name}": getattr(self.sizes, name) for name in ("trained", "frozen", "teacher")}
        for engine in ENGINES:
            found[f"gib.state.{engine}"] = state_of(self.sizes, engine, m.world, m.node) / 2**30
            found[f"gib.process.{engine}"] = self.memory(engine)
            found[f"largest_rank_batch.{engine}"] = self.largest(engine)
            travels = sent(self.sizes, engine, m.world, m.node)
            found[f"gb_a_step.process.{engine}"] = travels.process / 1e9
            found[f"gb_a_step.node.{engine}"] = travels.node / 1e9
        for share in SHARES:
            at = f"at_{share * 100:.0f}"
            rate = self.rate(share)
            found[f"samples_per_second.{at}"] = rate
            found[f"hours.{at}"] = self.hours(share)
            found[f"decode.cores_a_process.{at}"] = None if rate is None else rate / m.world / self.a_core
        return {name: value for name, value in found.items() if value is not None}

    def lines(self) -> list[str]:
        """For people."""
        m, s, b = self.machine, self.sizes, self.batch
        card = f"{m.memory_gib:.0f} GiB"
        found = [
            f"{self.name}: {m.world} x {m.name} ({card}), {m.node} on a node, precision {m.precision}, engine "
            f"{self.engine}",
            f"batch: {b.rank_batch} a forward x {b.accumulation_steps} accumulated x {b.world} processes = "
            f"{b.global_batch} a step",
            f"parameters: {count(s.trained)} trained" + (f", {count(s.frozen)} frozen" if s.frozen else "")
            + (f", {count(s.teacher)} of the teacher" if s.teacher else ""),
            "memory of a process, GiB:",
        ]  # fmt: skip
        for engine in ENGINES if m.world > 1 else ENGINES[:1]:
            state, whole = state_of(s, engine, m.world, m.node) / 2**30, self.memory(engine)
            found.append(
                f"  {engine:<5} state {state:6.2f}, in all {whole:6.2f} of {m.memory_gib:.1f}"
                + ("" if whole <= m.memory_gib else ": does not fit")
                + f"; at most {self.largest(engine)} samples a forward"
                + (" (the engine of this run)" if engine == self.engine else "")
            )
        found.append(
            f"  a step of {self.passed.size} samples keeps {self.passed.bytes / 2**30:.2f} for its backward pass, "
            f"{self.slope / 2**20:.1f} MiB each"
        )
        found += [*self._travel(), *self._time(), *self._disk()]
        return found + [f"note: {note}" for note in self.notes]

    def _travel(self) -> list[str]:
        m = self.machine
        if m.world == 1:
            return []
        parts = []
        for engine in ENGINES:
            travels = sent(self.sizes, engine, m.world, m.node)
            parts.append(
                f"{engine} {travels.process / 1e9:.2f}"
                + (f" ({travels.node / 1e9:.2f} leave a node)" if m.world > m.node else "")
            )
        return [f"sent by a process in a step, GB: {', '.join(parts)}"]

    def _time(self) -> list[str]:
        arithmetic = f"arithmetic: {self.flops_a_sample / 1e9:.1f} GFLOP a sample"
        if self.machine.flops is None:
            return [f"{arithmetic}; the peak of {self.machine.name} in {self.machine.precision} is not known"]
        found = [f"{arithmetic}; {self.machine.name} has {self.machine.flops / 1e12:.4g} TFLOP/s"]
        for share in SHARES:
            rate, hours = self.rate(share), self.hours(share)
            assert rate is not None
            step = self.batch.global_batch / rate
            cores = rate / self.machine.world / self.a_core
            found.append(
                f"  at {share:.0%} of it: {rate:,.0f} samples/s, {step:.2g} s a step"
                + ("" if hours is None else f", {_long(hours)}")
                + f"; {cores:.1f} cores a process make the {self.shown} ready"
            )
        found.append(f"  (one core here: {self.a_core:,.0f} {self.shown}/s; expectations, not measurements)")
        if self.records is not None and self.steps:
            visits = self.steps * self.batch.global_batch / self.records
            found.append(f"length: {self.steps:,} steps over {self.records:,} records, each {visits:.2f} times")
        return found

    def _disk(self) -> list[str]:
        s = self.sizes
        found = [
            f"disk: a checkpoint {s.saved / 2**30:.2f} GiB, the model {s.model / 2**30:.2f}; at most "
            f"{self.disk / 2**30:.1f} for all that is kept"
        ]
        if self.records is not None:
            found.append(
                f"an index of {self.records:,} records in shards: about "
                f"{self.records * (A_ROW + A_CAPTION) / 2**30:.2g} GiB"
            )
        return found

    def refusal(self) -> str | None:
        """Why it cannot run, and what would help; None where it fits."""
        if self.fits:
            return None
        more = "; ".join(self.remedies) or "nothing helps but a card with more memory"
        return (
            f"{self.name}: a process needs {self.memory(self.engine):.1f} GiB, and {self.machine.name} has "
            f"{self.machine.memory_gib:.1f}. What helps: {more}"
        )


def _long(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.2g} minutes"
    return f"{hours:,.1f} hours" if hours < 72 else f"{hours / 24:,.1f} days"


def settings_of(exp: Experiment) -> Mapping[str, Any]:
    """How many training states and models the run keeps, and its engine."""
    return {
        "kept": exp.run.keep_checkpoints, "models": 1 + (exp.run.best is not None),
        "engine": exp.run.engine,
    }  # fmt: skip
