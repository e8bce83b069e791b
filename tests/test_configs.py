"""Every function in configs/ makes an experiment that validates, survives JSON, and takes two steps."""

import inspect
import json
import runpy
from pathlib import Path

import pytest
from PIL import Image

from mmkit.config import Experiment, dump, load_experiment, override, rebuild
from mmkit.train.loop import train

ROOT = Path(__file__).parent.parent / "configs"
SMALL = ["data.global_batch=4", "data.workers=0", "run.steps=2", "run.save_every_steps=0", "run.tensorboard=false"]


def functions():
    for path in sorted(ROOT.rglob("*.py")):
        for name, value in runpy.run_path(str(path)).items():
            if inspect.isfunction(value) and value.__module__ == "<run_path>" and not name.startswith("_"):
                required = [p for p in inspect.signature(value).parameters.values() if p.default is p.empty]
                yield pytest.param(f"{path}:{name}", required, id=f"{path.relative_to(ROOT)}:{name}")


@pytest.mark.parametrize(("spec", "required"), list(functions()))
def test_it_is_an_experiment_that_survives_json(spec, required):
    if required:
        pytest.skip(f"needs {', '.join(p.name for p in required)}")
    experiment = load_experiment(spec).validate()
    assert isinstance(experiment, Experiment)
    again = rebuild(json.loads(json.dumps(dump(experiment))))
    assert dump(again) == dump(experiment)


@pytest.mark.parametrize("spec", [f"{ROOT}/quickstart.py:quickstart(size=36, kinds=8)"])
def test_it_takes_two_steps(spec, tmp_path):
    experiment = override(
        load_experiment(spec),
        [*SMALL, "data.train.n=40", "evals.retrieval.source.n=6", "evals.retrieval_zh.source.n=6"],
    )
    metrics = train(experiment, tmp_path / "run")
    assert metrics["step"] == 2


def test_albef_on_records_takes_two_steps(tmp_path):
    for i in range(8):
        Image.new("RGB", (40, 30), (30 * i, 0, 0)).save(tmp_path / f"{i}.png")
    lines = [json.dumps({"image": f"{i}.png", "caption": f"shade {i} of red, two words {i * 7}"}) for i in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    spec = f"{ROOT}/pretrain/albef.py:small(records='{tmp_path}/train.jsonl', res=32, vocab_size=60, epochs=1)"
    experiment = override(load_experiment(spec), ["data.global_batch=4", "data.workers=0", "run.tensorboard=false"])
    assert train(experiment, tmp_path / "run")["step"] == 2
