"""What a run keeps: training states to go on from, the model for use, and the best model by ``run.best``."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmkit.config import Run
from mmkit.errors import UserError
from mmkit.files import read_json, replace_folder, write_json
from mmkit.ranks import on_first, rank, world_size
from mmkit.train import checkpoint, folder, resuming
from mmkit.train.engines.base import Engine
from mmkit.train.resuming import Meta
from mmkit.train.rng import seed_all, set_random_state

logger = logging.getLogger("mmkit.train")

SaveModel = Callable[[Path, Any, Mapping[str, Any]], None]


@dataclass(kw_only=True)
class Saving:
    """All that writes the run's state and model. experiment: as dumped. best: (value, step) so far."""

    out: Path
    run: Run
    experiment: Mapping[str, Any]
    engine: Engine
    scaler: Any
    predictor: Callable[[], Any]
    save_model: SaveModel | None
    saved: int = -1
    best: tuple[float, int] | None = None

    def save(self, meta: Meta) -> None:
        """Write the training state and the model; by all processes together."""
        root = self.out / "checkpoints"
        scaler = self.scaler.state_dict() if self.scaler else None
        checkpoint.save(root, meta, self.engine.full_state(), scaler)
        self.saved = meta.step

        def tidy() -> None:
            resuming.rotate(root, self.run.keep_checkpoints)
            if self.save_model is not None:
                self.save_model(self.out, self.predictor(), self.experiment)

        with self.engine.whole(first_only=True):
            on_first(tidy)

    def restore(self, source: Path) -> Meta:
        """Become what ``save`` wrote, on this process."""
        meta, state = resuming.load_meta(source), checkpoint.load_state(source)
        checkpoint.load_into(source, self.engine, state)
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        if len(state["random"]) == world_size():
            set_random_state(state["random"][rank()])
        else:
            seed_all(self.run.seed + 1000 * meta.step + rank())
            logger.warning(
                "resumes on %d processes what %d began: the samples stay the same, dropout does not", world_size(),
                meta.world,
            )  # fmt: skip
        self.saved = meta.step
        on_first(self._mend)
        self.best = on_first(partial(folder.read_best, self.out, self.run.best, self.run.best_is))
        return meta

    def _mend(self) -> None:
        """A process that was killed while it replaced the best model left the one before under a hidden name."""
        for gone in self.out.glob(".best.*.gone"):
            if not (self.out / "best").exists():
                gone.rename(self.out / "best")
            shutil.rmtree(gone, ignore_errors=True)

    def note_best(self, step: int, found: Mapping[str, float]) -> None:
        """Keep the model where the evaluation of this step is the best so far; of equal ones the first stays.

        UserError where there is no such metric. A value that is not a number is never the best.
        """
        name = self.run.best
        if name is None:
            return
        if name not in found:
            raise UserError(f"run.best = {name!r}: the evaluations gave {', '.join(found)}")
        value = on_first(lambda: found[name])
        if math.isnan(value):
            if rank() == 0:
                logger.warning("step %d: %s is not a number, and so not the best", step, name)
            return
        sign = 1 if self.run.best_is == "highest" else -1
        if self.best is None or sign * value > sign * self.best[0]:
            self.best = (value, step)
            with self.engine.whole(first_only=True):
                on_first(self._keep_best)

    def _keep_best(self) -> None:
        """The model in the folder ``best``, which is whole at any time, and what it is the best by beside it."""
        assert self.best is not None
        facts = {"metric": self.run.best, "is": self.run.best_is, "value": self.best[0], "step": self.best[1]}
        if self.save_model is not None:
            part = self.out / ".best.part"
            shutil.rmtree(part, ignore_errors=True)
            write_json(part / folder.BEST, facts)
            write_json(part / "data.json", read_json(self.out / "data.json"))
            self.save_model(part, self.predictor(), self.experiment)
            replace_folder(part, self.out / "best")
        write_json(self.out / folder.BEST, facts)
