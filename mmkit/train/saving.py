"""What a run keeps: training states to go on from, the model for use, and the best model by ``run.best``."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mmkit.config import Run
from mmkit.errors import UserError
from mmkit.files import read_json, replace_folder, write_json
from mmkit.parent import launcher_patience
from mmkit.ranks import on_first, rank, together, world_size
from mmkit.train import checkpoint, distributed, folder, resuming
from mmkit.train.background import Background
from mmkit.train.checkpoint import Staged
from mmkit.train.engines.base import Engine
from mmkit.train.resuming import SHARDS, Meta
from mmkit.train.rng import seed_all, set_random_state
from mmkit.train.room import check_room, sizes_of

logger = logging.getLogger("mmkit.train")


Weights = Mapping[str, Tensor]
"""Name in ``Task`` -> tensor, on the CPU, none sharing memory."""


class SaveModel(Protocol):
    """What writes a model for use. weights: where they are not those that the predictor has now; None = those."""

    def __call__(
        self, folder: Path, predictor: Any, experiment: Mapping[str, Any], *, weights: Weights | None = None
    ) -> None:
        """Write it."""


MODEL_STEP = Path("checkpoints", ".model.json")
"""Of which step the model in the run's folder is."""


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
    now: Callable[[], float] = time.monotonic
    seconds: float = 0.0
    _warned: bool = False
    _since: float = field(init=False)
    _running: bool = False
    _group: Any = None
    _background: Background = field(default_factory=Background)

    def __post_init__(self) -> None:
        self._since = self.now()

    # ---- the training state -----------------------------------------------------------------------------------

    def due(self) -> bool:
        """Whether ``run.save_every_minutes`` have gone by on the first process's clock since the last save."""
        every = self.run.save_every_minutes
        return every is not None and rank() == 0 and self.now() - self._since >= 60 * every

    @property
    def failed(self) -> bool:
        """Whether what this process writes in the background has failed; ``join`` says why. Waits for nothing."""
        return self._background.failed

    def check_room(self, task: Any, optimizer: Any) -> None:
        """UserError where the disk has no room for what the run will keep; by all processes."""
        sizes = sizes_of(task, optimizer.param_groups, exports=self.save_model is not None)
        on_first(partial(check_room, self.out, self.run, sizes))

    def save(self, meta: Meta, *, wait: bool = True) -> None:
        """Write the training state and the model; by all processes together.

        wait: until it is done; else only until the state is copied, and ``join`` raises what goes wrong then.
        """
        self.join()
        self._since = self.now()
        scaler = self.scaler.state_dict() if self.scaler else None
        meta = replace(meta, engine=self._engine_name(), mesh=mesh_of(self.engine), versions=folder.versions())
        self.saved = meta.step
        self._running = not wait
        if self.engine.name != "ddp":
            self._save_shards(meta, scaler, wait)
            return
        staged = checkpoint.stage(self.engine.full_state(), scaler, copied=not wait)
        if wait:
            on_first(lambda: self._write(meta, staged, None))
        elif rank() == 0:
            self._background.start(lambda: self._write(meta, staged, staged.weights()))

    def _engine_name(self) -> str:
        """As the setting has it: one process has nothing to shard, whatever that says."""
        return "ddp" if self.engine.name == "ddp" else self.run.engine

    def _write(self, meta: Meta, staged: Staged, weights: Weights | None) -> None:
        """The checkpoint, then the model of the same step; on the first process."""
        begun = time.monotonic()
        checkpoint.write(self.out / "checkpoints", meta, staged)
        self._after(meta.step, weights, begun)

    def _save_shards(self, meta: Meta, scaler: dict[str, Any] | None, wait: bool) -> None:
        """By all processes, each its share; in the background each in a thread of its own."""
        if self._group is None:
            self._group = distributed.own_group(self.run.timeout_minutes)
        begun, group, root = time.monotonic(), self._group, self.out / "checkpoints"
        staged = distributed.stage(self.engine.state(), scaler, copied=not wait)
        weights = None if wait else self._whole_weights()

        def write() -> None:
            distributed.write(root, meta, staged, group)
            if rank() == 0 and not wait:
                self._after(meta.step, weights, begun)

        if wait:
            write()
            with self.engine.whole(first_only=True):
                on_first(lambda: self._after(meta.step, None, begun))
        else:
            self._background.start(write)

    def _whole_weights(self) -> Weights:
        """A copy of those of the model and the heads, on the first process; empty where no model is written."""
        if self.save_model is None:
            return {}
        with self.engine.whole(first_only=True):
            parts = self.predictor() if rank() == 0 else None
            modules = (
                {} if parts is None else {"model": parts.model} | {f"heads.{n}": h for n, h in parts.heads.items()}
            )
            return {
                f"{place}.{name}": checkpoint.on_cpu(value)
                for place, module in modules.items()
                for name, value in module.state_dict().items() if isinstance(value, Tensor)
            }  # fmt: skip

    def _after(self, step: int, weights: Weights | None, begun: float) -> None:
        """When a checkpoint is whole, on the first process: older ones go, and the model is written."""
        resuming.rotate(self.out / "checkpoints", self.run.keep_checkpoints)
        self._export(step, weights)
        self.seconds = time.monotonic() - begun
        patience = launcher_patience()
        if patience is not None and self.seconds > patience and not self._warned:
            self._warned = True
            logger.warning(
                "a checkpoint took %.0f s to write, and the launcher kills its processes %g s after it tells them to "
                "stop: set TORCH_ELASTIC_SHUTDOWN_TIMEOUT=%d, so that a run that is told to stop can save",
                self.seconds, patience, round(2 * self.seconds) + 30,
            )  # fmt: skip

    def _export(self, step: int, weights: Weights | None = None) -> None:
        """The model for use in the run's folder, and of which step it is."""
        if self.save_model is not None:
            self.save_model(self.out, self.predictor(), self.experiment, weights=weights)
            write_json(self.out / MODEL_STEP, {"step": step})

    def join(self) -> None:
        """Wait for what is written in the background; what went wrong there is raised by all processes."""
        if self._running:
            self._running = False
            together(self._background.join)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """At an error inside, what is written in the background is finished first, but for a second Ctrl-C."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException:
            try:
                self._background.join()
            except Exception as error:  # noqa: BLE001  # the error that is raised came first
                logger.warning("%s", error)
            raise

    def restore(self, source: Path) -> Meta:
        """Become what ``save`` wrote, on this process."""
        meta, state = resuming.load_meta(source), checkpoint.load_state(source)
        (distributed if SHARDS in meta.files else checkpoint).load_into(source, self.engine, state)
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
        if meta.engine != (now := self._engine_name()) and rank() == 0:
            logger.info("resumes under %s what %s wrote: sums differ in their last digits", now, meta.engine)
        self.saved = meta.step
        with self.engine.whole(first_only=True):
            on_first(partial(self._mend, meta.step))
        self.best = on_first(partial(folder.read_best, self.out, self.run.best, self.run.best_is))
        return meta

    def _mend(self, step: int) -> None:
        """What a process left undone that was killed after the checkpoint of this step, or while it replaced the best.

        The model in the run's folder may be that of the checkpoint before; the best one stands under a hidden name.
        """
        for gone in self.out.glob(".best.*.gone"):
            if not (self.out / "best").exists():
                gone.rename(self.out / "best")
            shutil.rmtree(gone, ignore_errors=True)
        done = self.out / MODEL_STEP
        if not done.is_file() or read_json(done, "remove it")["step"] != step:
            self._export(step)

    def note_best(self, step: int, found: Mapping[str, float]) -> None:
        """Keep the model where the evaluation of this step is the best so far; of equal ones the first stays.

        UserError where there is no such metric. A value that is not a number is never the best.
        """
        name = self.run.best
        if name is None:
            return
        if name not in found:
            raise UserError(
                f"run.best = {name!r}: the evaluations gave {', '.join(found)}. Go on with --resume and --set "
                f"run.best={next(iter(get_close_matches(name, found, n=1)), 'one of these')}"
            )
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
            self.save_model(part, self.predictor(), self.experiment, weights=None)
            replace_folder(part, self.out / "best")
        write_json(self.out / folder.BEST, facts)


def mesh_of(engine: Engine) -> dict[str, int]:
    """Axis -> processes; empty where nothing is sharded."""
    mesh = getattr(engine, "mesh", None)
    return {} if mesh is None else dict(zip(mesh.mesh_dim_names, mesh.shape, strict=True))
