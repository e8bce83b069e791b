"""What a report says beside losses and rates: how well the card is used, how old the queues are, which process is slow.

Nothing here waits for the device; to be read at reports alone, by all processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from mmkit.config import Experiment
from mmkit.config.override import parameters_of
from mmkit.nn.queue import FeatureQueue
from mmkit.ranks import alone, gather_objects, on_first
from mmkit.train.needs.devices import peak_of
from mmkit.train.plan import Plan
from mmkit.train.throughput import Meter

logger = logging.getLogger("mmkit.train")


def read_pace(meter: Meter, task: Any, plan: Plan, saved: float) -> dict[str, float]:
    """All of it since the last report; by all processes. saved: seconds of the last save, 0 before the first."""
    seconds = meter.a_step()
    found = meter.read() | seconds | by_rank(seconds) | queue_ages(task.heads, plan.batch.global_batch)
    found |= {"save_seconds": saved} if saved else {}
    return found | mfu(found["samples_per_second"], plan.flops_a_sample, plan.peak, plan.batch.world)


def with_arithmetic(plan: Plan, exp: Experiment, vocab_size: int, device: torch.device) -> Plan:
    """The plan with the arithmetic of a sample and the peak of the card, where that card is known; by all processes."""
    most = peak_of(torch.cuda.get_device_name(device), plan.precision) if device.type == "cuda" else None
    if most is None:
        return plan
    return replace(plan, flops_a_sample=flops_a_sample(exp, vocab_size, plan.batch.rank_batch), peak=most)


def flops_a_sample(given: Experiment, vocab_size: int, size: int) -> float | None:
    """Of a training step's products, forward and back; None where that cannot be known.

    Found on shapes alone, or, where the step depends on values, as a detector's, in numbers with a few samples on the
    CPU. What is computed a second time, by chunks or checkpoints, counts once: it makes no model better. To be called
    by all processes; the first one counts, without the others.
    """
    from mmkit.train.needs.trial import Trial, Words, make_shapes

    def count() -> float | None:
        try:
            exp = _passed_once(given)
            with alone():
                words = Words(vocab_size=vocab_size) if vocab_size else None
                trial = Trial(exp, words, make_shapes(exp, words), gpu=True, precision="bf16")
                return trial.step(size).flops / size
        except Exception as error:  # noqa: BLE001  # a number for the log ends no run
            logger.info("the arithmetic of a step is not known, so the log has no mfu (%s)", str(error)[:300])
            return None

    return on_first(count)


def _passed_once(exp: Experiment) -> Experiment:
    once = replace(exp, run=replace(exp.run, chunks=1))
    if exp.model is None or "checkpointing" not in parameters_of(exp.model):
        return once
    return replace(once, model=partial(exp.model, checkpointing=False))


def mfu(samples_per_second: float, flops: float | None, at_most: float | None, world: int) -> dict[str, float]:
    """{"mfu": the share of the cards' peak that the products of the model's steps made up}, where it is known."""
    if flops is None or at_most is None:
        return {}
    return {"mfu": samples_per_second * flops / (at_most * world)}


def queue_ages(heads: Mapping[str, Any], global_batch: int) -> dict[str, float]:
    """By head with a queue: how many steps ago its oldest entry was pushed."""
    queues = {
        name: part for name, head in heads.items() for part in head.modules() if isinstance(part, FeatureQueue)
    }  # fmt: skip
    return {f"{name}.queue_steps": len(queue) / global_batch for name, queue in queues.items() if queue.size}


def by_rank(own: Mapping[str, float]) -> dict[str, float]:
    """Of each number the least and the most over the processes, and which has the most; nothing for a process alone."""
    each = gather_objects(dict(own))
    if len(each) == 1:
        return {}
    found: dict[str, float] = {}
    for name in own:
        values = [of[name] for of in each]
        most = max(values)
        found |= {f"{name}_min": min(values), f"{name}_max": most, f"{name}_max_rank": values.index(most)}
    return found
