"""Runs that build on one another: each starts from model and tokenizer of the one before (``Experiment.first``).

Every stage is a run of its own, in its own folder, with its own checkpoints. A resumed whole goes on where it stopped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mmkit.config import Experiment, dump
from mmkit.data.tokenizer import saved
from mmkit.errors import UserError
from mmkit.nn.gather import rank, world_size
from mmkit.train.build import assemble, build
from mmkit.train.folder import make_folder, read_numbers
from mmkit.train.loop import SaveModel, check_evaluators, train
from mmkit.train.ranks import on_first
from mmkit.train.setup import start_processes

logger = logging.getLogger("mmkit.train")


def train_stages(
    experiment: Experiment, out: str | Path, resume: bool = False, *, save_model: SaveModel
) -> dict[str, float]:
    """All stages in the folder ``out``; the last metrics of each, by dotted name behind the name of its folder.

    The arguments are those of ``train``. A stage that stops early, as by ``run.stop_after_steps``, ends the whole.
    What would stop a later stage before its first step is said before the first stage.
    """
    out = Path(out)
    experiment.validate()
    numbers: dict[str, float] = {}
    before: Path | None = None
    stages = experiment.stages()
    if len(stages) > 1 and not resume:
        start_processes(stages[0].run)
        rehearse(stages, out / ".rehearsal", save_model)
    for stage in stages:
        name = stage.folder if len(stages) > 1 else ""
        folder = out / name
        if before is not None:
            stage = following(stage, before)
        done = on_first(partial(read_numbers, folder)) if resume else None
        if done is None:
            found = train(stage, folder, resume, save_model=save_model)
            done = on_first(partial(read_numbers, folder))
        else:
            found = done
            if rank() == 0:
                logger.info("%s: done already, in %s", stage.name, folder)
        numbers |= {f"{name}.{key}".lstrip("."): value for key, value in _short(stage, found).items()}
        if done is None:
            break
        before = folder
    return numbers


def following(stage: Experiment, before: Path) -> Experiment:
    """The stage, with model and tokenizer of the one in the folder ``before``."""
    tokenizer = partial(saved, path=str(before / "tokenizer"))
    return replace(stage, first=None, init={**stage.init, "model": str(before)}, tokenizer=tokenizer)


def rehearse(stages: Sequence[Experiment], folder: Path, save_model: SaveModel) -> None:
    """Build every stage from the one before it, untrained, in ``folder``, which is gone afterwards.

    To be called by all processes. UserError for what does not fit, with the name of the stage.
    """
    on_first(partial(shutil.rmtree, folder, ignore_errors=True))
    try:
        for number, stage in enumerate(stages):
            here = folder / str(number)
            on_first(partial(make_folder, here))
            batch = stage.data.batch_plan(world_size())
            try:
                if number == 0:
                    parts = assemble(stage, here, batch)
                else:
                    parts = build(following(stage, folder / str(number - 1)), here, batch)
                predictor = parts.predictor()
                check_evaluators({name: make() for name, make in stage.evals.items()}, predictor)
            except UserError as error:
                raise UserError(f"{stage.name}: {error}") from error
            on_first(partial(save_model, here, predictor, dump(stage)))
    finally:
        on_first(partial(shutil.rmtree, folder, ignore_errors=True))


def _short(stage: Experiment, numbers: dict[str, float]) -> dict[str, float]:
    """The numbers; where a stage has one evaluation only, also without its name ("vqa.accuracy" as "accuracy")."""
    if len(stage.evals) != 1:
        return numbers
    (name,) = stage.evals
    found = {key.removeprefix(f"{name}."): value for key, value in numbers.items() if key.startswith(f"{name}.")}
    return found | numbers
