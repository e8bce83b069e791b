"""The runs of GLIP on built-in scenes: they survive JSON, and measure boxed and unboxed kinds apart."""

import json

import pytest

from mmkit.config import dump, load_experiment, rebuild, validate
from mmkit.data.openmoji.scenes import Scenes

CONFIG = "projects/grounding/glip_config.py"


@pytest.mark.parametrize("name", ["glip", "phrases"])
def test_it_is_an_experiment_that_survives_json(name):
    made = dump(validate(load_experiment(f"{CONFIG}:{name}")))
    assert dump(rebuild(json.loads(json.dumps(made)))) == made


def test_kinds_that_are_never_boxed_are_measured_apart():
    experiment = load_experiment(f"{CONFIG}:glip(size=36, kinds=10)")
    parts = experiment.data.train.keywords["parts"]
    assert [part().pool for part in parts] == ["boxed", "all"]
    groups = experiment.evals["detection"].keywords["groups"]
    others = Scenes(kinds=10, size=36, plain=True, people=0.0, pool="unboxed", n=20)
    assert set(groups["unboxed"]) == {box["name"] for record in others for box in record.targets["boxes"]}
    assert experiment.data.targets.keywords["unknown"] == groups["unboxed"]
    assert len(groups["boxed"]) == 8
    assert {*groups["boxed"], *groups["unboxed"]} == set(experiment.heads["ground"].keywords["classes"])
    assert experiment.evals["detection"].keywords["source"]().pool == "all"
