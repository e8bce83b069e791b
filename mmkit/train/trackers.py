"""Where a run's numbers go beside its own log: TensorBoard's files, Weights & Biases, Trackio.

All stay on this machine unless the user's own settings say otherwise (``WANDB_MODE=online``; Trackio is local without a
Space). A run that goes on is the same run there, by the id in ``trackers/ids.json``. A tracker that fails is said once
and left out from then on: it never ends a run. Called by the first process alone. Accelerate's own trackers are not
used: they keep no id, and the two of them end a run that they fail in.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mmkit.files import read_json, write_json

logger = logging.getLogger("mmkit.train")

FOLDER, IDS = "trackers", "ids.json"


class Tracker(Protocol):
    """One of them, in use."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, of an optimizer step."""

    def flush(self) -> None:
        """Write what is buffered."""

    def close(self) -> None:
        """The run is over."""


class TensorBoard:
    """Event files in the run's ``tensorboard``, purged of what a killed process wrote after ``start_step``."""

    def __init__(self, folder: Path, name: str, run_id: str, start_step: int, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See ``Tracker``."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """See ``Tracker``."""
        self._writer.flush()

    def close(self) -> None:
        """See ``Tracker``."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, written below ``trackers``; ``wandb sync`` sends it."""

    def __init__(self, folder: Path, name: str, run_id: str, start_step: int, config: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mmkit"), name=name, id=run_id, resume="allow", config=dict(config),
            dir=str(folder / FOLDER), mode=os.environ.get("WANDB_MODE", "offline"),
        )  # fmt: skip

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See ``Tracker``."""
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """It writes by itself."""

    def close(self) -> None:
        """See ``Tracker``."""
        self._run.finish()


class Trackio:
    """A run of Trackio, in its own local database, which ``trackio show`` opens."""

    def __init__(self, folder: Path, name: str, run_id: str, start_step: int, config: Mapping[str, Any]) -> None:
        trackio = importlib.import_module("trackio")
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "mmkit"), name=f"{name}-{run_id}", resume="allow",
            config=dict(config),
        )  # fmt: skip

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See ``Tracker``."""
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """It writes by itself."""

    def close(self) -> None:
        """See ``Tracker``."""
        self._run.finish()


MAKERS: Mapping[str, Callable[..., Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


class Trackers:
    """Those of one run. names: of ``MAKERS``. config: what was run, JSON-able."""

    def __init__(
        self, folder: Path, names: Sequence[str], *, name: str = "run", start_step: int = 0,
        config: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._made: dict[str, Tracker] = {}
        run_id = _run_id(folder) if set(names) - {"tensorboard"} else ""
        for one in dict.fromkeys(names):
            try:
                self._made[one] = MAKERS[one](folder, name, run_id, start_step, config or {})
            except Exception as error:  # noqa: BLE001  # whatever another library finds wrong
                if isinstance(error, ModuleNotFoundError) and error.name == one:
                    logger.warning(
                        "run.trackers: %s is not installed: pip install %s; the run goes on without it", one,
                        "'mmkit[trackers]'" if one != "tensorboard" else one,
                    )  # fmt: skip
                else:
                    self._told(one, error)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, to all of them."""
        self._each(lambda tracker: tracker.log(values, step))

    def flush(self) -> None:
        """Write what is buffered."""
        self._each(lambda tracker: tracker.flush())

    def close(self) -> None:
        """The run is over, or stops for now."""
        self._each(lambda tracker: tracker.close())
        self._made.clear()

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._made.items()):
            try:
                work(tracker)
            except Exception as error:  # noqa: BLE001  # whatever another library finds wrong
                del self._made[name]
                self._told(name, error)

    @staticmethod
    def _told(name: str, error: Exception) -> None:
        logger.warning(
            "run.trackers: %s failed and is left out from here on (%s: %s); metrics.jsonl has all numbers", name,
            type(error).__name__, str(error)[:300],
        )  # fmt: skip


def _run_id(folder: Path) -> str:
    """The same for a run and for all that go on with it."""
    path = folder / FOLDER / IDS
    if path.is_file():
        return str(read_json(path)["id"])
    found = secrets.token_hex(4)
    write_json(path, {"id": found})
    return found
