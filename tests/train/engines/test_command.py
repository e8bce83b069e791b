"""A run with shards through the command: it trains, evaluates, saves, goes on, and its folder loads."""

import json

import pytest

import mmkit
from mmkit.train.loop import train
from tests.train.engines.evaluator import Similar, small
from tests.train.fakes import weights
from tests.train.test_processes import launch

CONFIG = """
from mmkit.config import Experiment
from tests.train.engines.evaluator import small

def run() -> Experiment:
    return small()
"""


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line["event"] == kind}


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_with_shards_train_evaluate_save_and_go_on(tmp_path):
    config, out = tmp_path / "config.py", tmp_path / "run"
    config.write_text(CONFIG)
    command = ("scripts/pretrain.py", f"{config}:run", "--out", out, "--set", "run.engine=fsdp")
    for more in (["run.stop_after_steps=2"], ["--resume"]):
        done = launch(*command, *more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "fsdp: each of 2 processes holds its share" in done.stdout + done.stderr
    train(small(), tmp_path / "alone")
    for step, found in events(tmp_path / "alone", "train").items():
        for name in ("loss", "losses.itc", "losses.itm", "losses.mlm", "itc.temperature", "grad_norm"):
            assert events(out, "train")[step][name] == pytest.approx(found[name], rel=1e-5), (step, name)
    for step, found in events(tmp_path / "alone", "eval").items():
        for name in ("similar.own", "similar.match"):
            assert events(out, "eval")[step][name] == pytest.approx(found[name], rel=1e-4, abs=1e-5), (step, name)
    own, expected = weights(out), weights(tmp_path / "alone")
    assert {name: value.shape for name, value in own.items()} == {n: value.shape for n, value in expected.items()}
    assert own["model.temperature.value"].shape == ()
    loaded = Similar()(mmkit.load(out))
    last = events(out, "eval")[4]
    assert loaded == {name: pytest.approx(last[f"similar.{name}"], rel=1e-6) for name in ("own", "match")}
    assert (out / "best").is_dir()
