"""Asks an experiment what it needs, without data, downloads or training; and what would help where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil

from mmkit.config import Experiment, validate
from mmkit.config.override import arguments_of, parameters_of
from mmkit.data.images.size import height_width
from mmkit.data.sources.hugging_face import HuggingFace
from mmkit.data.texts.tokenizers import load_tokenizer, reuse
from mmkit.errors import UserError
from mmkit.task import Task
from mmkit.train.inherit import inherited
from mmkit.train.needs.decoding import pictures_a_second
from mmkit.train.needs.devices import find
from mmkit.train.needs.forecast import Forecast, Machine, settings_of
from mmkit.train.needs.invented import BOXES
from mmkit.train.needs.memory import ENGINES, Sizes, sizes_of
from mmkit.train.needs.samples import sampler_of
from mmkit.train.needs.trial import FEW, Passed, Trial, Words, make_shapes
from mmkit.train.precision import has_bf16

BERT = 30_522
"""The words of most English BERTs, for a tokenizer from the hub that is not asked."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the user says. memory_gib, tflops: in place of the table's. records, vocabulary: as if it had so many."""

    device: str = "h100"
    world: int = 1
    node: int = 8
    memory_gib: float | None = None
    tflops: float | None = None
    records: int | None = None
    vocabulary: int | None = None


def forecasts(exp: Experiment, question: Question) -> Iterator[Forecast]:
    """That of each stage, in order. UserError for what a run would refuse too, as far as it can be known."""
    exp = validate(inherited(exp, Path("nowhere")), world=question.world)
    tokenizer = None
    for stage in exp.stages():
        tokenizer = stage.tokenizer or tokenizer
        yield make_forecast(replace(stage, tokenizer=tokenizer), question)


def make_forecast(exp: Experiment, question: Question) -> Forecast:
    """The forecast of a run that is no chain of stages, or of one of them."""
    notes: list[str] = []
    machine = machine_of(exp, question)
    batch = exp.data.batch_plan(question.world)
    words = _words(exp, question, notes)
    records = question.records if question.records is not None else _count(exp, notes)
    per_epoch = max(1, (records or 0) // batch.global_batch)
    task = make_shapes(exp, words, per_epoch)
    trial = Trial(exp, words, task, gpu=machine.gpu, precision=machine.precision)
    found = trial.step(batch.rank_batch)
    other = trial.step(max(1, batch.rank_batch // 2) if batch.rank_batch > 1 else 2)
    if trial.valued is not None:
        notes.append(
            f"a step of {', '.join(task.heads)} depends on values: it was taken in numbers with {FEW[0]} and {FEW[1]} "
            f"samples of {BOXES} objects each, and more samples are taken for a straight line"
        )
    forecast = Forecast(
        name=exp.name, machine=machine, batch=batch, passed=found, slope=_slope(found, other), records=records,
        sizes=_sizes(exp, task, machine), minutes=exp.run.minutes, a_core=pictures_a_second(exp),
        steps=exp.run.total_steps(per_epoch) if records is not None or exp.run.steps is not None else 0,
        notes=tuple(notes), shown="pictures" if sampler_of(exp) is None else "clips",
        contrasts=any(head.compares for head in task.heads.values()), **settings_of(exp),
    )  # fmt: skip
    return forecast if forecast.fits else replace(forecast, remedies=tuple(_remedies(exp, words, forecast)))


def machine_of(exp: Experiment, question: Question) -> Machine:
    """The cards of the question, or this machine's CPU; with the precision that the run will have on them."""
    node = min(question.node, question.world)
    setting = exp.run.precision
    if question.device == "cpu":
        import torch

        half = setting == "bf16" or (setting == "auto" and has_bf16(torch.device("cpu")))
        memory = question.memory_gib or psutil.virtual_memory().total / 2**30 / node
        flops = None if question.tflops is None else question.tflops * 1e12
        return Machine(
            name="cpu", world=question.world, node=node, memory_gib=memory, flops=flops,
            precision="bf16" if half else "no", gpu=False,
        )  # fmt: skip
    if question.memory_gib is not None and question.tflops is not None:
        name, memory, tflops, best = question.device, question.memory_gib, question.tflops, "bf16"
    else:
        device = find(question.device)
        name, best = device.name, device.half
        memory, tflops = question.memory_gib or device.memory_gib, question.tflops or device.tflops
    if setting == "bf16" and best == "fp16":
        raise UserError(f'run.precision = "bf16": {name} does not have it; use "fp16", "no" or "auto"')
    precision = ("bf16" if best == "bf16" else "no") if setting == "auto" else setting
    return Machine(
        name=name, world=question.world, node=node, memory_gib=memory, precision=precision,
        flops=None if precision == "no" else tflops * 1e12,
    )  # fmt: skip


def _sizes(exp: Experiment, task: Task, machine: Machine) -> Sizes:
    return sizes_of(task, half=machine.precision != "no", reshard=exp.run.reshard, rules=exp.optim.rules)


def _slope(one: Passed, other: Passed) -> float:
    return (one.bytes - other.bytes) / (one.size - other.size)


def _words(exp: Experiment, question: Question, notes: list[str]) -> Words | None:
    """The size of the vocabulary: as said, as the config says, as a saved tokenizer says; else BERT's."""
    part = exp.tokenizer
    if part is None:
        return None
    if question.vocabulary is not None:
        return Words(vocab_size=question.vocabulary)
    given = arguments_of(part)
    if isinstance(size := given.get("vocab_size"), int):
        return Words(vocab_size=size)
    if part.func is reuse and Path(given["path"]).exists():
        return Words(vocab_size=load_tokenizer(given["path"]).vocab_size)
    notes.append(f"the tokenizer is not asked; {BERT:,} words taken for granted, as most BERTs have (--vocabulary N)")
    return Words(vocab_size=BERT)


def _count(exp: Experiment, notes: list[str]) -> int | None:
    """The records, where they are here; nothing is downloaded for a plan."""
    part = exp.data.train
    texts = [value for value in arguments_of(part).values() if isinstance(value, str)]
    if part.func is HuggingFace or any(text.startswith("hf:") for text in texts):
        notes.append("records that lie on the hub are not counted: give --records N for steps and hours")
        return None
    try:
        return len(part())
    except (UserError, OSError, ImportError) as error:
        notes.append(f"records are not counted ({error}): give --records N for steps and hours")
        return None


def _remedies(exp: Experiment, words: Words | None, forecast: Forecast) -> Iterator[str]:
    """Settings under which it fits, with their numbers, the cheapest first."""
    machine, batch = forecast.machine, forecast.batch
    share = batch.rank_batch * batch.accumulation_steps
    most = forecast.largest(forecast.engine)
    smaller = max((size for size in range(1, min(most, share) + 1) if share % size == 0), default=0)
    if smaller:
        gib = forecast.memory(forecast.engine, smaller, share // smaller)
        if gib <= machine.memory_gib:
            yield (
                f"data.rank_batch={smaller} data.accumulation_steps={share // smaller} (the same step; {gib:.1f} GiB; "
                "ITC and ITM then compare less at once)"
            )
    for engine in ENGINES if machine.world > 1 else ():
        if engine != forecast.engine and (gib := forecast.memory(engine)) <= machine.memory_gib:
            yield f"run.engine={engine} ({gib:.1f} GiB)"
    yield from _other_models(exp, words, forecast)


def _other_models(exp: Experiment, words: Words | None, forecast: Forecast) -> Iterator[str]:
    """With checkpointing, and with smaller pictures: each is a pass of its own."""
    machine = forecast.machine
    if exp.model is None:
        return
    for chunks in (4, 16) if exp.run.chunks == 1 else ():
        gib = _memory(replace(exp, run=replace(exp.run, chunks=chunks)), words, forecast)
        if chunks <= forecast.batch.rank_batch and gib <= machine.memory_gib:
            yield f"run.chunks={chunks} ({gib:.1f} GiB, and about a third more arithmetic; heads compare all samples)"
            break
    known = arguments_of(exp.model)
    if known.get("checkpointing") is False:
        gib = _memory(replace(exp, model=partial(exp.model, checkpointing=True)), words, forecast)
        if gib <= machine.memory_gib:
            yield f"model.checkpointing=true ({gib:.1f} GiB, and about a third more arithmetic)"
    if "image_size" not in parameters_of(exp.model):
        return
    largest = height_width(exp.data.image_size)
    for size in (224, 192, 160, 128):
        if size >= max(largest):
            continue
        smaller = replace(
            exp, model=partial(exp.model, image_size=size), data=replace(exp.data, image_size=size)
        )  # fmt: skip
        gib = _memory(smaller, words, forecast)
        if gib <= machine.memory_gib:
            yield f"pictures of {size} pixels, model.image_size={size} data.image_size={size} ({gib:.1f} GiB)"
            return


def _memory(exp: Experiment, words: Words | None, forecast: Forecast) -> float:
    """GiB of a process with another model, at the run's batch and engine."""
    machine = forecast.machine
    try:
        task = make_shapes(exp, words)
        trial = Trial(exp, words, task, gpu=machine.gpu, precision=machine.precision)
        found = trial.step(forecast.batch.rank_batch)
    except UserError:  # no whole number of patches, or a part of one's own that cannot be tried
        return float("inf")
    return replace(forecast, passed=found, sizes=_sizes(exp, task, machine)).memory(forecast.engine)
