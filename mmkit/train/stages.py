"""Runs that build on one another: each starts from model and tokenizer of the one before (``Experiment.first``).

Every stage is a run of its own, in its own folder, with its own checkpoints. A resumed whole goes on where it stopped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mmkit.config import Experiment, dump, validate
from mmkit.config.moved import with_present_names
from mmkit.data.texts.tokenizers import reuse
from mmkit.errors import UserError
from mmkit.files import read_json
from mmkit.ranks import on_first, rank, world_size
from mmkit.train import resuming
from mmkit.train.build import assemble, build
from mmkit.train.checks import check_evaluators
from mmkit.train.folder import EXPERIMENT, STARTING, foreign, look, read_numbers, restarted
from mmkit.train.inherit import TOKENIZER, inherited
from mmkit.train.lock import make_folder, one_writer
from mmkit.train.loop import Build, train
from mmkit.train.saving import SaveModel
from mmkit.train.setup import start_processes

logger = logging.getLogger("mmkit.train")


def train_stages(
    experiment: Experiment, out: str | Path, resume: bool = False, *, save_model: SaveModel, allow: Sequence[str] = ()
) -> dict[str, float]:
    """All stages in the folder ``out``; the last metrics of each, by dotted name behind the name of its folder.

    The arguments are those of ``train``; allow: modules of the user's own, of which the model in ``init`` may be. A
    stage that stops early, as by ``run.stop_after_steps``, ends the whole. What would stop a later stage before its
    first step is said before the first stage.
    """
    out = Path(out)
    validate(experiment)
    experiment = inherited(experiment, out, allow)
    stages = experiment.stages()
    start_processes(stages[0].run, out)
    resume = resume or on_first(lambda: any(restarted(out / stage.subfolder) for stage in stages))
    on_first(partial(_look, out, stages, resume))
    if len(stages) == 1:
        return _stage(experiment, out, None, resume, (), save_model)[0]
    tokenizer: Mapping[str, bytes] = {}
    if not resume:
        with one_writer(out):
            tokenizer = rehearse(stages, out / STARTING, save_model)
    numbers: dict[str, float] = {}
    before: Path | None = None
    for stage in stages:
        folder = out / stage.subfolder
        found, done = _stage(stage, folder, before, resume, _apart(stage, stages), save_model, tokenizer)
        numbers |= {f"{stage.subfolder}.{key}".lstrip("."): value for key, value in found.items()}
        if not done:
            break
        before = folder
    return numbers


def _stage(
    stage: Experiment, folder: Path, before: Path | None, resume: bool, apart: Collection[str], save_model: SaveModel,
    tokenizer: Mapping[str, bytes] | None = None,
) -> tuple[dict[str, float], bool]:  # fmt: skip
    """(numbers of one stage, whether it reached its end), by training what is missing of it.

    tokenizer: the files of the first stage's, from its rehearsal.
    """
    free: tuple[str, ...] = ()
    build_parts: Build = partial(build, tokenizer=tokenizer)
    if before is not None:
        build_parts = build
        stage = following(stage, before)
        free = ("init.model", "tokenizer.path")  # the folder before, whose own settings are compared
    if (done := on_first(partial(_finished, stage, folder, free)) if resume else None) is not None:
        return _short(stage, done), True
    found = train(stage, folder, resume, save_model=save_model, apart=apart, free=free, build_parts=build_parts)
    return _short(stage, found), on_first(partial(read_numbers, folder)) is not None


def _finished(stage: Experiment, folder: Path, free: Sequence[str]) -> dict[str, float] | None:
    """The numbers of a run that is done; UserError where it was asked to be another one. For the first process."""
    if (numbers := read_numbers(folder)) is None:
        return None
    old, new = with_present_names(read_json(folder / EXPERIMENT)), dump(stage)
    resuming.check_same(
        folder, old, new, free=free,
        hint=f"This run is finished. To train on from its model, give a new --out and --set init.model={folder}",
    )  # fmt: skip
    late = [path for path, _ in resuming.changes(old, new) if path.startswith(("evals.", "report"))]
    logger.info("%s: done already, in %s", stage.name, folder)
    if late:
        logger.warning(
            "%s: changed since it ended, and without effect: %s. Measure it with `mmkit retrieval`, `mmkit zeroshot` "
            "or `mmkit vqa`", folder, ", ".join(late[:5]),
        )  # fmt: skip
    return numbers


def _look(out: Path, stages: Sequence[Experiment], resume: bool) -> None:
    """UserError where one of the folders is in use by something else. Touches nothing."""
    if len(stages) == 1:
        look(out, resume)
        return
    apart = {Path(stage.subfolder).parts[0] for stage in stages if stage.subfolder}
    if all(stage.subfolder for stage in stages) and (others := foreign(out, apart)):
        raise UserError(
            f"{out}: is not empty ({', '.join(others[:3])}), and was not made by these runs; nothing was touched. Give "
            "a new folder as --out"
        )
    for stage in stages:
        look(out / stage.subfolder, resume, _apart(stage, stages))


def _apart(stage: Experiment, stages: Sequence[Experiment]) -> set[str]:
    """The names in a stage's folder that lead to the folders of others."""
    own = Path(stage.subfolder)
    folders = [Path(other.subfolder) for other in stages if other.subfolder != stage.subfolder]
    return {folder.relative_to(own).parts[0] for folder in folders if folder.is_relative_to(own)}


def following(stage: Experiment, before: Path) -> Experiment:
    """The stage, with model and tokenizer, where it has one, of the one in the folder ``before``."""
    tokenizer = partial(reuse, path=str(before / TOKENIZER)) if (before / TOKENIZER).is_dir() else None
    return replace(stage, first=None, init={**stage.init, "model": str(before)}, tokenizer=tokenizer)


def rehearse(stages: Sequence[Experiment], folder: Path, save_model: SaveModel) -> dict[str, bytes]:
    """Build every stage from the one before it, untrained, in ``folder``, which is gone afterwards.

    To be called by all processes; the first one gets the files of the first stage's tokenizer. UserError for what does
    not fit, with the name of the stage.
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
                    tokenizer = _files(here / TOKENIZER) if rank() == 0 else {}
                else:
                    parts = build(following(stage, folder / str(number - 1)), here, batch)
                predictor = parts.predictor()
                check_evaluators({name: make() for name, make in stage.evals.items()}, predictor, stage.run.best)
            except UserError as error:
                raise UserError(f"{stage.name}: {error}") from error
            on_first(partial(save_model, here, predictor, dump(stage)))
        return tokenizer
    finally:
        on_first(partial(shutil.rmtree, folder, ignore_errors=True))


def _files(folder: Path) -> dict[str, bytes]:
    """{path in the folder: content}; nothing of a folder that is not there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _short(stage: Experiment, numbers: dict[str, float]) -> dict[str, float]:
    """The numbers; where a stage has one evaluation only, also without its name ("vqa.accuracy" as "accuracy")."""
    if len(stage.evals) != 1:
        return numbers
    (name,) = stage.evals
    found = {key.removeprefix(f"{name}."): value for key, value in numbers.items() if key.startswith(f"{name}.")}
    return found | numbers
