"""A run that is told to stop saves, and tells it by its exit code; a killed launcher leaves no process."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import psutil
import pytest

from mmkit.cli.main import execute
from mmkit.errors import Stopped
from mmkit.train import loop, resuming, setup
from mmkit.train.loop import train
from tests.test_parent import gone
from tests.train.fakes import Count, tiny
from tests.train.test_loop import events
from tests.train.test_processes import ROOT

SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


def told(number):
    os.kill(os.getpid(), number)


class Interrupted(Count):
    """An evaluator, or a report, in which the signal comes; what follows it is never reached."""

    def __call__(self, predictor, out=None):
        told(NUMBER[0])
        raise AssertionError("it went on")


NUMBER = [signal.SIGTERM]


def run(tmp_path, exp, resume=False):
    """The exit code of the command, and the step that was saved."""
    file, out = tmp_path / "numbers.json", tmp_path / "run"
    code = execute(argparse.Namespace(json=file, run=lambda args: train(exp, out, resume)))
    assert file.exists() == (code == 0)
    assert (out / "numbers.json").exists() == (code == 0)
    return code, resuming.load_meta(resuming.latest(out / "checkpoints")).step


@SIGNALS
def test_in_a_step(tmp_path, number, code, monkeypatch, capsys):
    step = loop.Trainer.take_step
    monkeypatch.setattr(loop.Trainer, "take_step", lambda self, b: (self.step == 2 and told(number), step(self, b))[1])
    assert run(tmp_path, tiny(run=dict(steps=6))) == (code, 3)
    assert f"stopped by {number.name}" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(tmp_path, tiny(run=dict(steps=6)), resume=True) == (0, 6)


@SIGNALS
@pytest.mark.parametrize("every", [2, 0])
def test_in_an_evaluation(tmp_path, number, code, every, monkeypatch):
    monkeypatch.setitem(globals(), "NUMBER", [number])
    exp = tiny(run=dict(steps=6, eval_every_steps=every), evals={"e": partial(Interrupted)})
    assert run(tmp_path, exp) == (code, every or 6)
    after = replace(exp, evals={"e": partial(Count)})
    assert run(tmp_path, after, resume=True) == (0, 6)
    assert [e["step"] for e in events(tmp_path / "run", "eval")] == ([2, 4, 6] if every else [6])


@SIGNALS
def test_in_a_report(tmp_path, number, code, monkeypatch):
    monkeypatch.setitem(globals(), "NUMBER", [number])
    assert run(tmp_path, tiny(run=dict(steps=3), report=partial(Interrupted))) == (code, 3)


@SIGNALS
def test_in_the_last_step(tmp_path, number, code, monkeypatch):
    step = loop.Trainer.take_step
    monkeypatch.setattr(loop.Trainer, "take_step", lambda self, b: (self.step == 2 and told(number), step(self, b))[1])
    exp = tiny(run=dict(steps=3), evals={"e": partial(Count)})
    assert run(tmp_path, exp) == (code, 3)
    assert events(tmp_path / "run", "eval") == []


def test_a_second_interrupt_does_not_wait(tmp_path, monkeypatch):
    def twice(self, batches):
        told(signal.SIGINT)
        told(signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(loop.Trainer, "take_step", twice)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(tiny(run=dict(steps=6)), tmp_path)
    assert not isinstance(stopped.value, Stopped)


@pytest.mark.parametrize(("asked", "number"), [([0, 15], 15), ([0, 0], 0)])
def test_a_signal_that_came_before_an_evaluation_of_several_stops_it_before_it_begins(monkeypatch, asked, number):
    monkeypatch.setattr(setup, "gather_objects", lambda own: asked)
    monkeypatch.setattr(setup, "world_size", lambda: 2)
    reached = []
    with suppress(Stopped), setup.StopSignal().at_once(None):
        reached.append("evaluation")
    assert reached == ([] if number else ["evaluation"])


def test_a_step_that_ends_early_by_its_settings_is_no_interrupt(tmp_path):
    file = tmp_path / "n.json"
    exp = tiny(run=dict(steps=6, stop_after_steps=3))
    assert execute(argparse.Namespace(json=file, run=lambda args: train(exp, tmp_path / "run"))) == 0
    assert file.exists()


# ---- two processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def launched(tmp_path):
    """Start two processes with the slow run; the launcher, and all below it once they are at work."""
    environment = dict(
        os.environ, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT),
        TORCH_ELASTIC_SHUTDOWN_TIMEOUT="8",
    )  # fmt: skip
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "--num_processes", "2",
                "-m", "tests.train.slow_run", tmp_path / "run", tmp_path / "n.json"]  # fmt: skip
    started = []

    def start(where):
        process = subprocess.Popen(
            [*launcher, where], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        end = time.time() + 240
        while not (tmp_path / "run.begun").exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.time() < end
            time.sleep(0.05)
        return process, psutil.Process(process.pid).children(recursive=True)

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_processes_stop_in_an_evaluation_and_save(tmp_path, launched):
    process, below = launched("evaluation")
    process.terminate()
    text, _ = process.communicate(timeout=180)
    assert process.returncode != 0
    assert "stopped after step 3, and saved" in text
    assert text.count("stopped by SIGTERM") == 2
    assert not (tmp_path / "n.json").exists()
    assert resuming.load_meta(resuming.latest(tmp_path / "run" / "checkpoints")).step == 3
    assert gone(below, 1)


def test_ten_seconds_after_the_launcher_was_killed_no_process_lives(tmp_path, launched):
    process, below = launched("steps")
    assert len(below) >= 4  # two ranks with a loading worker each
    process.kill()
    assert gone(below, 10)
    kept = resuming.latest(tmp_path / "run" / "checkpoints")
    assert kept is None or resuming.load_meta(kept).step >= 2


def ranks_of(below):
    """The processes of the run among those below the launcher, by their rank."""
    found = {}
    for process in below:
        with suppress(psutil.Error):
            environment = process.environ()
            if "RANK" in environment and "RANK" not in process.parent().environ():
                found[int(environment["RANK"])] = process
    return found


def named_by_the_other(text, says):
    (line,) = [line for line in text.splitlines() if line.startswith("mmkit: error: ")]
    assert re.match(r"mmkit: error: \[process 0\] after step \d+ \(run.step_timeout_minutes = 0.05\): ", line)
    assert f": process 1 {says} " in line
    assert "Traceback" not in text.partition("mmkit: error")[0]


@pytest.mark.long
@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_nothing_saved_is_lost(tmp_path, launched):
    process, below = launched("steps")
    ranks = ranks_of(below)
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1].pid, signal.SIGSTOP)
    text, _ = process.communicate(timeout=180)
    assert process.returncode != 0
    named_by_the_other(text, "did not answer in time")
    assert gone(below, 5)
    assert resuming.load_meta(resuming.latest(tmp_path / "run" / "checkpoints")).step >= 2


@pytest.mark.long
@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_nothing_saved_is_lost(tmp_path, launched):
    process, below = launched("steps")
    os.kill(ranks_of(below)[1].pid, signal.SIGKILL)
    text, _ = process.communicate(timeout=180)
    assert process.returncode != 0
    named_by_the_other(text, "has gone")
    assert gone(below, 5)
    assert resuming.load_meta(resuming.latest(tmp_path / "run" / "checkpoints")).step >= 2


@pytest.mark.long
@pytest.mark.slow
def test_evaluations_and_saves_may_take_longer_than_a_step(tmp_path, launched):
    process, _ = launched("waiting")
    text, _ = process.communicate(timeout=180)
    assert process.returncode == 0, text
    assert (tmp_path / "n.json").exists()
