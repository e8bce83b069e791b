"""What a run is: an ``Experiment`` of frozen dataclasses, how it is checked, changed, written down and read again.

These names are for config files and scripts; each is defined in a module of this package.
"""

from mmkit.config.as_json import dump
from mmkit.config.checks import validate
from mmkit.config.experiment import (
    Data,
    Experiment,
    Optim,
    Ramp,
    Rule,
    Run,
    Teacher,
    mmkit_rules,
    muon_rules,
    official_rules,
)
from mmkit.config.layers import layer_decay
from mmkit.config.runs import load_experiment, override, rebuild

__all__ = [
    "Data", "Experiment", "Optim", "Ramp", "Rule", "Run", "Teacher", "dump", "layer_decay", "load_experiment",
    "mmkit_rules", "muon_rules", "official_rules", "override", "rebuild", "validate",
]  # fmt: skip
