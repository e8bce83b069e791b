"""Runs that build on one another: each starts from model and tokenizer of the one before (``Experiment.first``).

Every stage is a run of its own, in its own folder, with its own checkpoints. A resumed whole goes on where it stopped.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from mmkit.config import Experiment
from mmkit.data.tokenizer import saved
from mmkit.nn.gather import rank
from mmkit.train.folder import read_numbers
from mmkit.train.loop import SaveModel, train
from mmkit.train.ranks import on_first

logger = logging.getLogger("mmkit.train")


def train_stages(
    experiment: Experiment, out: str | Path, resume: bool = False, *, save_model: SaveModel
) -> dict[str, float]:
    """All stages in the folder ``out``; the last metrics of each, by dotted name behind the name of its folder.

    The arguments are those of ``train``. A stage that stops early, as by ``run.stop_after_steps``, ends the whole.
    """
    out = Path(out)
    experiment.validate()
    numbers: dict[str, float] = {}
    before: Path | None = None
    stages = experiment.stages()
    for stage in stages:
        name = stage.folder if len(stages) > 1 else ""
        folder = out / name
        if before is not None:
            tokenizer = partial(saved, path=str(before / "tokenizer"))
            stage = replace(stage, first=None, init={**stage.init, "model": str(before)}, tokenizer=tokenizer)
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


def _short(stage: Experiment, numbers: dict[str, float]) -> dict[str, float]:
    """The numbers; where a stage has one evaluation only, also without its name ("vqa.accuracy" as "accuracy")."""
    if len(stage.evals) != 1:
        return numbers
    (name,) = stage.evals
    found = {key.removeprefix(f"{name}."): value for key, value in numbers.items() if key.startswith(f"{name}.")}
    return found | numbers
