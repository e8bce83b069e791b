"""Experiments from files and to files: called from a config, changed by paths, written as JSON and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmkit.config.allowed import EXPERIMENT
from mmkit.config.as_json import rebuild as _rebuild
from mmkit.config.experiment import Experiment
from mmkit.config.load import load_function
from mmkit.config.override import override as _override
from mmkit.errors import UserError


def load_experiment(spec: str) -> Experiment:
    """``FILE.py[:function[(name=value, ...)]]`` -> its Experiment.

    UserError lists what exists where the file, the function or an argument does not. Without a function, the file's
    only one, or the one with the file's name, is taken. Runs the file's code.
    """
    experiment = load_function(spec, "Experiment")()
    if not isinstance(experiment, Experiment):
        raise UserError(f"{spec}: returned {type(experiment).__name__}, not an Experiment")
    return experiment


def override(experiment: Experiment, changes: Sequence[str]) -> Experiment:
    """A copy with ``path=value`` changes applied in order; UserError on an unknown path or a wrong type."""
    for change in changes:
        experiment = _override(experiment, change)
    return experiment


def rebuild(data: Mapping[str, Any], allow: str | Sequence[str] = ()) -> Experiment:
    """From ``dump``'s values: of listed parts (``mmkit/config/allowed.py``) and of the modules in ``allow``."""
    experiment = _rebuild(data, EXPERIMENT, allow)
    if not isinstance(experiment, Experiment):
        raise UserError(f"config: holds a {type(experiment).__name__}, not an Experiment")
    return experiment
