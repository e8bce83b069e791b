"""What reports say beside losses: use of the card, age of queues, the slow process."""

import json
import time

import pytest
import torch

from mmkit.config import load_experiment
from mmkit.ranks import alone, world_size
from mmkit.train import gauges
from mmkit.train.gauges import by_rank, flops_a_sample, mfu, queue_ages, with_arithmetic
from mmkit.train.loop import train
from mmkit.train.needs.trial import Words, in_numbers, make_shapes, passed
from mmkit.train.throughput import Meter
from tests.train.fakes import tiny
from tests.train.test_plan import PLAN

H100 = "NVIDIA H100 80GB HBM3"


def test_mfu_is_the_share_of_all_cards():
    assert mfu(100.0, 5e9, 1e12, 2) == {"mfu": 0.25}
    assert mfu(100.0, None, 1e12, 2) == mfu(100.0, 5e9, None, 2) == {}


def test_arithmetic_is_known_of_known_cards_alone(monkeypatch):
    monkeypatch.setattr(gauges, "flops_a_sample", lambda exp, vocab, size: float(vocab * size))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: H100)
    half = gauges.replace(PLAN, precision="bf16")
    found = with_arithmetic(half, tiny(), 60, torch.device("cuda", 0))
    assert (found.flops_a_sample, found.peak) == (240.0, 989.5e12)
    assert "0.0 GFLOP a sample; mfu is the share of 989.5 TFLOP/s" in found.lines()
    assert with_arithmetic(half, tiny(), 60, torch.device("cpu")) is half
    assert with_arithmetic(PLAN, tiny(), 60, torch.device("cuda", 0)) is PLAN  # in float32 there is no one peak
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another")
    assert with_arithmetic(half, tiny(), 60, torch.device("cuda", 0)) is half


def test_the_arithmetic_of_a_sample_is_that_of_a_step():
    exp = tiny()
    before = torch.get_rng_state()
    task = make_shapes(exp, Words(vocab_size=60))
    assert flops_a_sample(exp, 60, 4) == passed(task, exp, 4, gpu=True, precision="bf16").flops / 4
    assert torch.equal(torch.get_rng_state(), before)


def test_the_arithmetic_of_a_step_that_depends_on_values():
    """A detector matches boxes: what its step multiplies is counted in numbers, and lies on a straight line."""
    exp = load_experiment("projects/detection/config.py:openmoji(size=24, kinds=3)")
    two, four = in_numbers(exp, None, (2, 4), gpu=True, precision="bf16")
    assert 0 < two.flops < four.flops
    assert flops_a_sample(exp, 0, 4) == four.flops / 4
    assert flops_a_sample(exp, 0, 8) == (3 * four.flops - 2 * two.flops) / 8


def test_what_is_computed_twice_counts_once():
    exp = tiny(run=dict(chunks=2))
    once = gauges._passed_once(gauges.replace(exp, model=gauges.partial(exp.model, checkpointing=True)))
    assert once.run.chunks == 1
    assert once.model.keywords["checkpointing"] is False


def test_what_cannot_be_counted_ends_no_run(monkeypatch):
    def fails(*_):
        raise RuntimeError("a head of one's own")

    monkeypatch.setattr("mmkit.train.needs.trial.make_shapes", fails)
    assert flops_a_sample(tiny(), 60, 4) is None


def test_alone_a_process_sees_no_other(monkeypatch):
    class Dist:
        is_available = is_initialized = staticmethod(lambda: True)
        get_world_size = staticmethod(lambda: 3)

    monkeypatch.setitem(__import__("sys").modules, "torch.distributed", Dist)
    assert world_size() == 3
    with alone():
        assert world_size() == 1
    assert world_size() == 3


def test_the_age_of_queues():
    task = make_shapes(tiny(), Words(vocab_size=60))
    queue = task.heads["itc"].queue
    assert queue_ages(dict(task.heads.items()), 8) == {"itc.queue_steps": 0}
    queue.pushed = 8
    assert queue_ages(dict(task.heads.items()), 8) == {"itc.queue_steps": 1}
    queue.pushed = 100  # 13 fit
    assert queue_ages(dict(task.heads.items()), 4) == {"itc.queue_steps": 13 / 4}


def test_the_slow_process_is_named(monkeypatch):
    assert by_rank({"step_seconds": 1.0}) == {}
    each = [{"step_seconds": 1.0, "data_seconds": 0.5}, {"step_seconds": 3.0, "data_seconds": 0.1}]
    monkeypatch.setattr(gauges, "gather_objects", lambda own: each)
    assert by_rank(each[0]) == {
        "step_seconds_min": 1.0, "step_seconds_max": 3.0, "step_seconds_max_rank": 1,
        "data_seconds_min": 0.1, "data_seconds_max": 0.5, "data_seconds_max_rank": 0,
    }  # fmt: skip


def test_seconds_of_a_step(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = Meter()

    def batches():
        for _ in range(2):
            now[0] += 1.0
            yield None

    for _ in meter.timed(batches()):
        now[0] += 3.0
        meter.count(4)
    assert meter.a_step() == {"step_seconds": 4.0, "data_seconds": 1.0}
    assert meter.read()["samples_per_second"] == 1.0
    assert meter.a_step() == {"step_seconds": 0.0, "data_seconds": 0.0}


def test_a_run_logs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mmkit.train.loop.with_arithmetic",
        lambda plan, *_: gauges.replace(plan, flops_a_sample=1e6, peak=1e12),
    )
    saving = dict(save_every_steps=2, save_in_background=False)
    train(tiny(run=dict(steps=4, **saving)), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if line["event"] == "train"]
    assert [line["itc.queue_steps"] for line in told] == [13 / 8, 13 / 8]
    assert "save_seconds" not in told[0]
    assert told[1]["save_seconds"] > 0
    for line in told:
        assert line["mfu"] == pytest.approx(line["samples_per_second"] * 1e6 / 1e12)
        assert 0 <= line["data_seconds"] <= line["step_seconds"]
        assert "step_seconds_max" not in line
    assert lines[0]["flops_a_sample"] == 1e6
