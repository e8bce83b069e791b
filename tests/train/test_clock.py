"""Runs by the clock: what counts as time, the schedule over it, its end, and a resume with what remains."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mmkit.cli.main import main
from mmkit.config import validate
from mmkit.errors import UserError
from mmkit.train import clock, loop, resuming, throughput
from mmkit.train.clock import ENDLESS, Clock
from mmkit.train.loop import train
from tests.train.fakes import Count, change, partial, tiny, weights
from tests.train.test_loop import assert_same, events


class Time:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def ran(made, time, *seconds):
    """What the clock said after each step."""
    found = []
    for step in seconds:
        time.now += step
        made.tick()
        found.append(made.seconds)
    return found


def test_only_what_runs_counts():
    time = Time()
    made = Clock(1.0, time)
    made.seconds = 10.0  # of before a resume
    time.now += 100
    with made.running():
        assert ran(made, time, 1, 2) == [11, 13]
        with made.paused():
            time.now += 100
        assert ran(made, time, 4) == [17]
    time.now += 100
    with made.paused():
        time.now += 100
    made.tick()
    assert made.seconds == 17
    with made.running():
        assert ran(made, time, 40, 2.5, 0.5) == [57, 59.5, 60]
    assert made.over()


def test_one_process_reads_its_clock_at_every_step():
    time = Time()
    made = Clock(1.0, time)
    with made.running():
        assert ran(made, time, 0.1, 0.3, 0.2) == pytest.approx([0.1, 0.4, 0.6])


def test_it_is_over_with_the_last_second_and_never_without_a_limit():
    made, endless = Clock(0.5), Clock(None)
    for seconds, over in ((29.9, False), (30.0, True)):
        made.seconds = endless.seconds = seconds
        assert made.over() is over
        assert not endless.over()


@pytest.mark.parametrize(
    ("done", "seconds", "steps"), [(0, 0.0, ENDLESS), (3, 6.0, 30), (3, 7.0, 26), (30, 59.0, 31), (9, 59.9, 10)]
)
def test_the_steps_are_as_many_as_the_pace_allows_and_one_more_at_least(done, seconds, steps):
    made = Clock(1.0)
    made.seconds = seconds
    assert made.steps(done) == steps


@pytest.fixture
def ranks(monkeypatch):
    """Two clocks that agree as the processes of one run do: the first one measures, the other hears of it."""
    time, other = Time(), Time()
    first, second = Clock(1.0, time), Clock(1.0, other)
    told = []
    monkeypatch.setattr(clock, "world_size", lambda: 2)
    asked = {"first": 0}

    def tick(seconds):
        time.now += seconds
        other.now += 7 * seconds  # what it says does not matter
        monkeypatch.setattr(
            clock, "on_first", lambda work: (asked.update(first=asked["first"] + 1), told.append(work()))[1] or told[-1]
        )
        first.tick()
        monkeypatch.setattr(clock, "on_first", lambda work: told[-1])
        second.tick()
        assert first.seconds == second.seconds
        assert first.over() == second.over()
        return first.seconds

    return first, second, tick, asked


def test_processes_agree_and_rarely_ask(ranks):
    first, second, tick, asked = ranks
    with first.running(), second.running():
        said = [tick(0.1) for _ in range(599)]
        assert said == pytest.approx([0.1 * step for step in range(1, 600)])
        assert 50 <= asked["first"] <= 80  # once a second
        assert not first.over()
        tick(0.11)
        assert first.over()


def test_a_step_that_takes_no_time_by_the_clock_is_a_step(ranks):
    first, second, tick, _ = ranks
    with first.running(), second.running():
        tick(0.0)
        assert not first.over()
        assert tick(61.0) < 61.0 or first.over()


def test_processes_that_become_slow_stop_in_time(ranks):
    first, second, tick, _ = ranks
    with first.running(), second.running():
        for _ in range(100):
            tick(0.01)
        steps = 0
        while not first.over():
            tick(20.0)
            steps += 1
    assert steps <= 100 + 3


SECONDS = 5.0


def by_the_clock(tmp_path, monkeypatch, minutes, stop=None, resume=False, **changes):
    """A run in which each step takes five seconds, and all else an hour."""
    time = Time()
    monkeypatch.setattr(loop, "Clock", partial(Clock, now=time))
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=time))
    step, save, evaluate, best = loop.Trainer.take_step, loop.Saving.save, Count.__call__, loop.Saving.note_best

    def slow(hours, method):
        def run(self, *args, **options):
            time.now += hours
            return method(self, *args, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "take_step", slow(SECONDS, step))
        patch.setattr(loop.Saving, "save", slow(3600, save))
        patch.setattr(Count, "__call__", slow(3600, evaluate))
        patch.setattr(loop.Saving, "note_best", slow(3600, best))
        run = dict(steps=None, minutes=minutes, stop_after_steps=stop, save_every_steps=3, eval_every_steps=4)
        exp = change(tiny(evals={"count": partial(Count)}, **changes), run=run | dict(log_every_steps=1))
        return train(exp, tmp_path, resume)


WARM = dict(optim=dict(warmup_steps=None, warmup_frac=0.25, min_lr=1e-5))


@pytest.mark.parametrize("optim", [WARM["optim"], dict(warmup_steps=3)])
def test_with_even_steps_it_is_the_run_of_as_many_steps(tmp_path, monkeypatch, optim):
    halves = dict(rank_batch=4)
    assert by_the_clock(tmp_path / "clock", monkeypatch, 1.0, optim=optim, data=halves)["step"] == 12
    exp = change(tiny(optim=optim), run=dict(steps=12, log_every_steps=1))
    train(exp, tmp_path / "steps")
    one, other = ([e["lr"] for e in events(tmp_path / name, "train")] for name in ("clock", "steps"))
    assert len(one) == len(other) == 12
    assert one[1:] == pytest.approx(other[1:])  # before the first step nobody knows the pace
    assert one[-1] == exp.optim.min_lr
    assert [e["step"] for e in events(tmp_path / "clock", "eval")] == [4, 8, 12]
    assert {e["samples_per_second"] for e in events(tmp_path / "clock", "train")} == {8 / SECONDS}  # of steps alone


def test_a_resume_has_the_time_that_remains(tmp_path, monkeypatch):
    by_the_clock(tmp_path / "whole", monkeypatch, 1.0, **WARM)
    assert by_the_clock(tmp_path / "parts", monkeypatch, 1.0, stop=5, **WARM)["step"] == 5
    meta = resuming.load_meta(resuming.latest(tmp_path / "parts" / "checkpoints"))
    assert meta.seconds == 25
    assert not (tmp_path / "parts" / "numbers.json").exists()
    assert by_the_clock(tmp_path / "parts", monkeypatch, 1.0, resume=True, **WARM)["step"] == 12
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    lrs = [[(e["step"], e["lr"]) for e in events(tmp_path / name, "train")] for name in ("whole", "parts")]
    assert lrs[0] == lrs[1]
    assert (tmp_path / "parts" / "numbers.json").exists()


def test_a_resume_with_another_time_is_another_run(tmp_path, monkeypatch):
    by_the_clock(tmp_path, monkeypatch, 1.0, stop=5, **WARM)
    with pytest.raises(UserError, match=r"run\.minutes: 1\.0 -> 2\.0"):
        by_the_clock(tmp_path, monkeypatch, 2.0, resume=True, **WARM)


def test_its_last_step_is_logged_and_a_time_that_is_over_takes_no_step(tmp_path, monkeypatch):
    exp = change(tiny(**WARM), run=dict(steps=None, minutes=0.5, log_every_steps=4))
    time = Time()
    monkeypatch.setattr(loop, "Clock", partial(Clock, now=time))
    step = loop.Trainer.take_step
    monkeypatch.setattr(
        loop.Trainer, "take_step", lambda self, b: (setattr(time, "now", time.now + 5), step(self, b))[1]
    )
    numbers = train(exp, tmp_path)
    assert numbers["step"] == 6
    assert [e["step"] for e in events(tmp_path, "train")] == [4, 6]
    (tmp_path / "numbers.json").unlink()
    assert train(exp, tmp_path, resume=True)["step"] == 6


def test_the_plan_says_what_it_does(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    by_the_clock(tmp_path, monkeypatch, 1.0, **WARM)
    assert "by the clock: steps for 1 minutes, evaluations and saving not counted" in caplog.text
    assert "the learning rate runs over the time, warm-up 0.25 of it; an epoch has 5 steps" in caplog.text
    plan = events(tmp_path, "plan")[0]
    assert (plan["minutes"], plan["steps"], plan["warmup"]) == (1.0, 0, "0.25 of it")


def test_a_warm_up_that_did_not_fit_is_said(tmp_path, monkeypatch, caplog):
    by_the_clock(tmp_path, monkeypatch, 1.0, optim=dict(warmup_steps=12))
    assert "the warm-up of 12 steps did not end before the time did: give optim.warmup_frac" in caplog.text
    caplog.clear()
    by_the_clock(tmp_path / "b", monkeypatch, 1.0, optim=dict(warmup_steps=11))
    assert "warm-up of" not in caplog.text


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (dict(minutes=1.0), r"exactly one of steps, epochs, minutes; got \['steps', 'minutes'\].*run.minutes=null"),
        (dict(minutes=1.0, steps=None, epochs=1.0), "exactly one of"),
        (dict(minutes=0.0, steps=None), r"run\.minutes = 0\.0: must be positive"),
        (dict(minutes=-1.0, steps=None), "must be positive"),
        (dict(minutes=float("nan"), steps=None), "must be positive"),
    ],
)
def test_bad_minutes_are_told_before_anything(run, words):
    with pytest.raises(UserError, match=words):
        validate(replace(tiny(), run=replace(tiny().run, **run)))


def test_a_real_clock(tmp_path):
    file = tmp_path / "c.py"
    file.write_text(
        "from mmkit.config import Experiment\nfrom tests.train.fakes import tiny\n\n\n"
        "def c() -> Experiment:\n    return tiny()\n"
    )
    command = ["train", str(file), "--out", str(tmp_path / "run"), "--set", "run.steps=null", "run.minutes=0.03"]
    assert main(command) == 0
    meta = resuming.load_meta(resuming.latest(tmp_path / "run" / "checkpoints"))
    assert 1.8 <= meta.seconds < 8
    assert meta.step > 2
