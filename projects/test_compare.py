"""The table of two starts: trained once, read again afterwards."""

import sys
from pathlib import Path

import pytest

from projects import compare

FOUND = {
    "scratch": [{"accuracy": 0.5, "chance": 0.4}, {"accuracy": 0.6, "chance": 0.4}],
    "runs/x": [{"accuracy": 0.9, "chance": 0.4}, {"accuracy": 0.7, "chance": 0.4}],
}


def test_the_table_has_a_column_for_each_seed():
    lines = compare.table(FOUND, [0, 5]).splitlines()
    assert lines[0] == "| start | seed 0 | seed 5 | mean | chance |"
    assert lines[2] == "| scratch | 0.500 | 0.600 | 0.550 | 0.400 |"
    assert lines[3] == "| runs/x | 0.900 | 0.700 | 0.800 | 0.400 |"
    assert {line.count("|") for line in lines} == {6}


def test_chance_is_left_open_where_it_is_not_known():
    assert compare.table({"scratch": [{"accuracy": 0.25}]}, [0]).endswith("| scratch | 0.250 | 0.250 |  |")


def test_every_start_and_seed_is_trained_with_the_same_arguments(monkeypatch, tmp_path, capsys):
    specs = []

    def run(spec, changes, folder):
        specs.append((spec, folder.name))
        return {"accuracy": 0.5, "chance": 0.5}

    monkeypatch.setattr(compare, "run", run)
    monkeypatch.chdir(tmp_path)
    arguments = ["compare", "c.py", "--start", "runs/x", "--seeds", "0", "5", "--args", "steps=3", "--out", "table"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        compare.main()
    assert "--start runs/x: no model.safetensors there" in capsys.readouterr().err
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/model.safetensors").touch()
    compare.main()
    assert specs == [
        (f"c.py:openmoji(start={start!r}, seed={seed}, steps=3)", f"{name}-{seed}")
        for seed in (0, 5)
        for start, name in (("scratch", "scratch"), ("runs/x", "pretrained"))
    ]
    assert "| runs/x | 0.500 | 0.500 | 0.500 | 0.500 |" in capsys.readouterr().out
    assert Path("table/compare.json").is_file()


@pytest.mark.parametrize("config", ["nlvr2", "visual_entailment"])
def test_a_run_that_is_done_is_not_trained_again(config, tmp_path):
    spec = f"projects/{config}/config.py:openmoji(start='scratch', steps=1, size=36, kinds=40)"
    small = ["data.global_batch=2", "data.train.n=8", "evals.test.source.n=4", "run.trackers=[]",
             "tokenizer.vocab_size=120", "run.precision=no"]  # fmt: skip
    first = compare.run(spec, small, tmp_path / "run")
    written = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert compare.run(spec, small, tmp_path / "run")["accuracy"] == first["accuracy"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == written
