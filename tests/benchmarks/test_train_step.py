"""The benchmark of a step: ours beside the official one, its numbers in a file, a trace, peaks of processes apart."""

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.parity.compare import OUTPUT, assert_close

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import train_step

    sizes = {"image_width": 16, "image_heads": 2, "text_width": 16, "text_heads": 2, "embed_dim": 8}
    tiny = train_step.Setting(sizes, image_size=32, batch=4, queue=8, tokens=9, fewest=6, vocab=1200)
    monkeypatch.setitem(train_step.SETTINGS, "cpu-small", tiny)
    precision = torch.get_float32_matmul_precision()
    yield train_step
    torch.set_float32_matmul_precision(precision)


def run(bench, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["train_step.py", *map(str, options)])
    bench.main()


def test_ours_is_measured_beside_the_official_step(bench, monkeypatch, tmp_path, capsys):
    run(bench, monkeypatch, "--steps", 1, "--warmup", 0, "--json", tmp_path / "step.json")
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["official"] == found["seconds"]["official"]["step"] > 0
    assert found["ratios"].keys() == {"float32", "bf16", "official-bf16"}
    assert found["ratios"]["bf16"] == pytest.approx(found["official"] / found["seconds"]["bf16"]["step"])
    assert found["ratios_to_official_bf16"]["bf16"] == pytest.approx(
        found["seconds"]["official-bf16"]["step"] / found["seconds"]["bf16"]["step"]
    )
    assert f"{found['ratios']['bf16']:.2f} x the speed of official, " in capsys.readouterr().out


def test_a_ratio_is_the_median_over_steps_taken_side_by_side(bench):
    whole = {"official": [4.0, 6.0, 90.0], "bf16": [2.0, 2.0, 10.0]}
    assert bench.Measured({}, whole, 0).ratios("official") == {"bf16": 3.0}


def test_the_official_step_and_ours_take_the_same_workload(bench):
    setting = bench.SETTINGS["cpu-small"]
    theirs, ours = (bench.make_step(setting, "cpu", name, compiled=False) for name in ("official", "float32"))
    count = lambda module: sum(p.numel() for p in module.parameters() if p.requires_grad)  # noqa: E731
    assert count(theirs.model) == count(ours.task)
    batch = bench.random_batch(setting)
    theirs.model.choose = lambda weights: [1, 2, 3, 0]
    for step in (theirs, ours):
        for p in step.task.parameters() if step is ours else step.model.parameters():
            p.data.zero_()
        (step.task if step is ours else step.model).eval()
    ours.task.model.temperature.value.data.fill_(0.5)
    theirs.model.temp.data.fill_(0.5)
    # nothing is known: ln 2 for the pairs, ln V for the words, and the contrast over the same number of candidates
    assert_close(theirs.forward(batch), ours.forward(batch), OUTPUT, "loss")


class OneProduct:
    """In the place of a step, whose trace would be long."""

    device = "cpu"

    def __init__(self, *_):
        self.clock = type("Clock", (), {"looking": True})()

    def __call__(self, batch):
        torch.mm(batch.pixels.flatten(1), batch.pixels.flatten(1).T)


def test_the_trace_opens(bench, monkeypatch, tmp_path, capsys):
    file = tmp_path / "step.trace.json"
    monkeypatch.setattr(bench, "make_step", OneProduct)
    run(bench, monkeypatch, "--variants", "bf16", "--profile", file)
    events = json.loads(file.read_text())["traceEvents"]
    assert [event.get("name") for event in events].count("aten::mm") == 3
    assert "Self CPU time total" in capsys.readouterr().out


def test_each_variant_has_a_process_of_its_own_for_its_peak(bench, monkeypatch, tmp_path, capsys):
    commands = []

    def process(command, **options):
        commands.append(command)
        peak = 2.0 if "official" in command else 1.5
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"peak_gib": peak}))

    monkeypatch.setattr(bench.subprocess, "run", process)
    file = tmp_path / "peaks.json"
    run(bench, monkeypatch, "--memory", "--variants", "official", "float32", "--threads", 1, "--json", file)
    assert [command[command.index("--variants") + 1] for command in commands] == ["official", "float32"]
    assert all(command[command.index("--threads") + 1] == "1" and "--alone" in command for command in commands)
    found = json.loads(file.read_text())
    assert found["peak_gib"] == {"official": 2.0, "float32": 1.5}
    assert found["peak_shares"] == {"float32": 0.75}
    assert "0.75 of the official" in capsys.readouterr().out


def test_a_process_alone_tells_its_own_peak(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "peak_memory", lambda device: 1.25)
    taken = []
    monkeypatch.setattr(bench, "make_step", lambda *_: taken.append)
    run(bench, monkeypatch, "--variants", "bf16", "--alone", "--json", tmp_path / "peak.json")
    assert json.loads((tmp_path / "peak.json").read_text())["peak_gib"] == 1.25
    assert len(taken) == 4
