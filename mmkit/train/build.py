"""From an experiment to the things that a run works with: source, tokenizer, model, heads, task, loader."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from mmkit.config import Experiment
from mmkit.config.checks import check_words, refuse_words
from mmkit.config.experiment import BatchPlan
from mmkit.config.override import parameters_of
from mmkit.data.at_once import several_at_once
from mmkit.data.images.transforms import Blank, BlankTrain, TrainTransform
from mmkit.data.lengths import of_one_length
from mmkit.data.loader import PairDataset, StepSampler, asks, make_loader
from mmkit.data.order import RULE, Mixed, order_of
from mmkit.data.records import Source, captions_of
from mmkit.data.targets import Given, make_targets
from mmkit.data.texts.coverage import Coverage, coverage
from mmkit.data.texts.protocol import Tokenizer
from mmkit.data.texts.tokenizers import load_tokenizer
from mmkit.errors import UserError
from mmkit.files import write_bytes
from mmkit.ranks import asking_the_largest, on_first, rank
from mmkit.task import Task
from mmkit.train.checks import check_classes, check_length
from mmkit.train.init import find_sources, initialise
from mmkit.train.resuming import latest
from mmkit.types import Batch, ModelSpec

log = logging.getLogger(__name__)

LOOKED_AT = 1000
"""Of so many captions the plan tells how the vocabulary fits them."""


class Loader(Protocol):
    """What gives a process its micro-batches."""

    def __call__(self, start_step: int, steps: int) -> Iterable[Batch]:
        """The micro-batches of the optimizer steps ``start_step`` up to ``steps``, in order."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop works with. ``predictor()`` makes what evaluators take, over the task's own model and heads.

    texts: how the vocabulary fits the captions, where that is known. order: see ``Order.told``. digest: of the data,
    "" where the source has none. sets: of several with weights, (name, records, share of the samples).
    """

    task: nn.Module
    records: int
    steps_per_epoch: int
    loader: Loader
    predictor: Callable[[], Any]
    vocab_size: int
    transform: Any
    texts: Coverage | None = None
    order: str = RULE
    digest: str = ""
    sets: tuple[tuple[str, int, float], ...] = ()


def build(exp: Experiment, out: Path, batch: BatchPlan, tokenizer: Mapping[str, bytes] | None = None) -> Parts:
    """Build everything, with what ``init`` gives; to be called by all processes.

    tokenizer: the files of the run's own, where it was made before. UserError where a part refuses its arguments, or
    what the run starts from is missing or does not fit.
    """
    resumes = latest(out / "checkpoints") is not None  # then nothing of ``init`` is read, and the files may be gone
    if not resumes:
        find_sources(exp.init)
    parts = assemble(exp, out, batch, tokenizer)
    task: Any = parts.task
    vars(task.model)["origins"] = (
        {"every part": "the checkpoint"} if resumes else initialise(task, exp.init, parts.transform)
    )
    check_length(dict(task.heads.items()), exp.run.total_steps(parts.steps_per_epoch), batch.global_batch)
    return parts


def assemble(exp: Experiment, out: Path, batch: BatchPlan, made: Mapping[str, bytes] | None = None) -> Parts:
    """Build everything at random; to be called by all processes. UserError where a part refuses its arguments.

    made: the files of the tokenizer, as of ``build``.
    """
    source = exp.data.train()
    records = len(source)
    steps_per_epoch = records // batch.global_batch
    if steps_per_epoch < 1:
        raise UserError(
            f"data: the source has {records} records, fewer than one step of {batch.global_batch}; "
            "lower data.global_batch or data.rank_batch"
        )
    tokenizer = make_tokenizer(exp, source, out / "tokenizer", made)
    texts = _look_at_texts(source, tokenizer, exp) if rank() == 0 and tokenizer is not None else None
    task = make_task(exp, tokenizer, steps_per_epoch)
    heads = dict(task.heads.items())
    dataset, eval_transform = make_dataset(exp, source, tokenizer, getattr(task.model, "spec", None))
    check_classes(heads, dataset.targets, source)

    order = order_of(source, seed=exp.run.seed, block=exp.data.block, window=exp.data.window)

    def loader(start_step: int, steps: int) -> Iterable[Batch]:
        sampler = StepSampler(
            order, rank_batch=batch.rank_batch, accumulation=batch.accumulation_steps, rank=rank(),
            world=batch.world, seed=exp.run.seed, start_step=start_step, steps=steps,
        )  # fmt: skip
        pinned = next(task.parameters()).is_cuda
        batches = make_loader(dataset, sampler, workers=exp.data.workers, pinned=pinned)
        if batch.world == 1 and not exp.data.workers and not pinned:
            return several_at_once(batches)  # several processes would wait for one another
        if batch.world == 1 or tokenizer is None:
            return batches
        largest = asking_the_largest(timedelta(minutes=exp.run.timeout_minutes))
        return of_one_length(batches, largest, tokenizer.pad_id, pinned)

    def predictor() -> Any:
        from mmkit.inference.predictor import Predictor

        return Predictor(
            task.model, dict(task.heads.items()), tokenizer, eval_transform, exp.data.max_tokens,
            precision=exp.run.eval_precision,
        )  # fmt: skip

    return Parts(
        task=task, records=records, steps_per_epoch=steps_per_epoch, loader=loader, predictor=predictor,
        vocab_size=0 if tokenizer is None else tokenizer.vocab_size, transform=eval_transform, texts=texts,
        order=order.told(), digest=getattr(source, "digest", ""), sets=order.sets() if isinstance(order, Mixed) else (),
    )  # fmt: skip


def make_dataset(
    exp: Experiment, source: Source, tokenizer: Tokenizer | None, spec: ModelSpec | None = None
) -> tuple[PairDataset, Any]:
    """What gives the training samples of a config, and its transform for evaluation.

    spec: of the model, whose image tower may say how it reads pictures; what the config says goes before that.
    """
    transform = _reading(exp.data.transform or partial(TrainTransform), spec)(size=exp.data.image_size)
    eval_transform = (
        _reading(exp.data.eval_transform, spec)(size=exp.data.image_size) if exp.data.eval_transform
        else transform.for_eval()
    )  # fmt: skip
    if spec is not None and spec.resample and exp.data.eval_transform is None and hasattr(eval_transform, "resample"):
        eval_transform = replace(eval_transform, resample=spec.resample)
    if exp.data.blank_images:
        transform, eval_transform = BlankTrain(transform), Blank(eval_transform)
    dataset = PairDataset(
        source=source, transform=transform, tokenizer=tokenizer, max_tokens=exp.data.max_tokens,
        masking=exp.data.masking() if exp.data.masking else None, seed=exp.run.seed,
        targets=make_targets(exp.data.targets, Given(tokenizer=tokenizer, transform=transform, source=source)),
    )  # fmt: skip
    return dataset, eval_transform


def _reading(make: partial[Any], spec: ModelSpec | None) -> partial[Any]:
    """A transform that reads as the tower does, in what it takes and is not told: mean, std, resample."""
    if spec is None or spec.normalise is None:
        return make
    said = {"mean": tuple(spec.normalise.mean), "std": tuple(spec.normalise.std), "resample": spec.resample}
    takes = parameters_of(make).keys() - make.keywords.keys()
    return partial(make, **{name: value for name, value in said.items() if name in takes})


def _look_at_texts(source: Any, tokenizer: Any, exp: Experiment) -> Coverage | None:
    """How the vocabulary fits the first captions, if they are to be had without pictures; says what does not flip."""
    if not callable(getattr(source, "captions", None)):
        return None
    flip = exp.data.transform is None or exp.data.transform.keywords.get("flip", 1.0)
    if flip and asks(source[0]):
        log.info("pictures with questions are not mirrored: their answers would stay as they are")
    return coverage(tokenizer, islice(source.captions(), LOOKED_AT), exp.data.max_tokens)


def make_tokenizer(exp: Experiment, source: Any, folder: Path, made: Mapping[str, bytes] | None = None) -> Any:
    """Made once by the first process, and read from the run's folder by all; a resumed run finds it there.

    made: its files, where it was made before. None for a run without words.
    """
    if exp.tokenizer is None:
        if exp.first is not None:
            raise UserError("this run takes the tokenizer of its `first` run: train both together, by train_stages")
        refuse_words(exp)
        return None
    make_one = exp.tokenizer

    def make() -> None:
        if not folder.is_dir():
            part = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            for name, content in (made or {}).items():
                write_bytes(part / name, content)
            if not made:
                make_one(captions=lambda: captions_of(source), folder=part)
            part.rename(folder)

    on_first(make)
    return load_tokenizer(folder)


def make_task(exp: Experiment, tokenizer: Any, steps_per_epoch: int) -> Task:
    """Model, heads and teacher with the seed of the run; the same on every process."""
    if exp.model is None:
        raise UserError("this run takes the model of init['model'] or of its `first` run: train it by train_stages")
    torch.manual_seed(exp.run.seed)
    given = {} if tokenizer is None else {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    known = parameters_of(exp.model)
    model = exp.model(**{name: value for name, value in given.items() if name in known})
    check_words(exp, model.spec)
    heads = {name: head(model.spec) for name, head in exp.heads.items()}
    momentum, alpha = (
        (None, 0.0) if exp.teacher is None else (exp.teacher.momentum, exp.teacher.alpha_ramp(steps_per_epoch))
    )
    return Task(
        model, heads, weights=exp.weights, momentum=momentum, alpha=alpha, seed=exp.run.seed, chunks=exp.run.chunks,
        change=None if exp.data.mixing is None else exp.data.mixing().for_heads(heads),
    )  # fmt: skip


def next_batch(batches: Iterator[Batch]) -> Batch:
    """The next micro-batch; what stopped a loading worker is told as if there were none."""
    try:
        return next(batches)
    except StopIteration:
        raise RuntimeError("the loader ended before the run: it gave fewer micro-batches than it promised") from None
    except UserError as error:
        raise UserError(_plain(str(error))) from None


def _plain(message: str) -> str:
    """A message from a loading worker without the stack trace that torch puts before it."""
    return message.rsplit("UserError: ", 1)[-1].strip() if message.startswith("Caught ") else message
