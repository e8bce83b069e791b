"""``--resume auto``, and a launcher that starts its processes anew: the same command goes on in the same folder."""

import argparse
import logging
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from threading import Timer
from types import SimpleNamespace

import pytest
import torch

from mmkit import parent, ranks
from mmkit.cli.main import execute, main
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.train import folder, lock, loop, setup
from mmkit.train.loop import train
from mmkit.train.setup import start_processes
from mmkit.train.stages import train_stages
from tests import several
from tests.train.fakes import Count, tiny, weights
from tests.train.test_loop import events

CONFIG = """
from mmkit.config import Experiment
from tests.train.fakes import tiny

def small(steps: int = 4) -> Experiment:
    return tiny(run=dict(steps=steps))
"""


@pytest.fixture
def command(tmp_path):
    """The exit code of ``mmkit train`` with this config and further arguments."""
    config = tmp_path / "small.py"
    config.write_text(CONFIG)

    def run(*arguments, steps=4):
        return main(["train", f"{config}:small(steps={steps})", "--out", str(tmp_path / "run"), *arguments])

    return run


def step_of(out):
    return max((int(path.name.removeprefix("step-")) for path in out.glob("checkpoints/step-*")), default=None)


def test_the_same_command_starts_goes_on_and_ends(command, tmp_path, capsys):
    out = tmp_path / "run"
    line = ("--resume", "auto", "--set", "run.stop_after_steps=2")
    assert command(*line) == 0
    assert step_of(out) == 2
    line = ("--resume", "auto")
    assert command(*line) == 0
    assert step_of(out) == 4
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (out, *out.rglob("*"))}
    capsys.readouterr()
    assert command(*line) == 0
    assert f"tiny: done already, in {out}" in capsys.readouterr().err
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (out, *out.rglob("*"))}
    assert command(*line, steps=6) == 2
    assert "This run is finished" in capsys.readouterr().err


@pytest.mark.parametrize("last", [True, False])
def test_the_config_may_stand_after_the_word(tmp_path, last):
    (tmp_path / "small.py").write_text(CONFIG)
    words = ["--resume", str(tmp_path / "small.py"), "--set", "run.stop_after_steps=1"]
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", *((*out, *words) if last else (*words, *out))]) == 0
    assert step_of(tmp_path / "run") == 1


@pytest.mark.parametrize("words", [("x.py", "--resume", "y.py"), ("--resume", "y.py", "x.py"), ("--resume=", "x.py")])
def test_another_word_is_refused(words, capsys):
    with suppress(SystemExit):  # of the parser, where it sees it
        assert main(["train", *words]) == 2
    assert "the word auto, stands after it" in capsys.readouterr().err


def test_a_run_that_ended_in_its_last_evaluation_tells_it_once(tmp_path, monkeypatch):
    exp = tiny(run=dict(steps=4, eval_every_steps=2), evals={"e": partial(Count)})

    def ends(path, numbers):
        raise KeyError("killed")

    monkeypatch.setattr(loop, "write_json", ends)
    with pytest.raises(KeyError):
        train(exp, tmp_path)
    monkeypatch.undo()
    train(replace(exp, evals={"e": partial(Count, value=2.0)}), tmp_path, resume=True)
    assert [(event["step"], event["e.value"]) for event in events(tmp_path, "eval")] == [(2, 1.0), (4, 2.0)]


# ---- a launcher's restart -------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch):
    """Be a process of a launcher: of its attempt ``count``."""
    monkeypatch.setattr(parent, "_watching", [object()])

    def attempt(count, run="none"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(count))
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run)

    return attempt


@pytest.mark.parametrize("run", ["none", "ab12"])
def test_a_restart_goes_on_by_itself(command, tmp_path, launched, monkeypatch, run):
    monkeypatch.setattr(parent, "_chain", [parent.psutil.Process()])
    launched(0, run)
    assert command("--set", "run.stop_after_steps=2") == 0
    launched(1, run)
    assert command() == 0
    assert step_of(tmp_path / "run") == 4
    whole = tmp_path / "whole"
    train(tiny(run=dict(steps=4)), whole)
    one, other = weights(tmp_path / "run"), weights(whole)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_another_launchers_restart_does_not_go_on_with_a_run_that_was_there(command, tmp_path, launched, capsys):
    """It was refused by the first attempt, and nobody asked for it since."""
    launched(0, "theirs")
    assert command("--set", "run.stop_after_steps=2") == 0
    launched(0, "mine")
    assert command() == 2
    launched(1, "mine")
    capsys.readouterr()
    assert command() == 2
    assert "holds a run already (step-00000002); add --resume" in capsys.readouterr().err
    assert command("--resume", "auto") == 0
    assert step_of(tmp_path / "run") == 4


def meet(rank, port, attempt, told):
    """One of two processes of a launcher whose notes are kept at ``port``."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT=str(attempt),
        TORCHELASTIC_RUN_ID="none", OMP_NUM_THREADS="1",
    )  # fmt: skip
    time.sleep(4.0 * (rank == 0) * attempt)  # the other one is there first, and must not read an address of before
    setup.join_processes(True)
    told.put(sorted(ranks.gather_objects(rank)))
    os._exit(0)


def test_processes_that_start_anew_do_not_read_the_notes_of_those_before():
    context = several.mp.get_context(several.METHOD)
    store = torch.distributed.TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
    for attempt in (0, 1):
        told = context.SimpleQueue()
        both = [context.Process(target=meet, args=(rank, store.port, attempt, told)) for rank in (0, 1)]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0]
        assert [told.get(), told.get()] == [[0, 1], [0, 1]]


def test_a_restart_before_the_first_checkpoint_starts(command, tmp_path, launched):
    launched(1, "mine")
    assert command() == 0
    assert step_of(tmp_path / "run") == 4


def test_a_restart_goes_on_with_the_stage_that_it_was_in(tmp_path, launched, monkeypatch):
    first = tiny(run=dict(steps=3))
    second = replace(
        tiny(run=dict(steps=4)), name="second", first=first, subfolder="second", model=None, tokenizer=None
    )
    launched(0, "r")
    take_step = loop.Trainer.take_step
    failing = lambda self, batches: (take_step(self, batches), fail(self.exp.name, self.step))[0]  # noqa: E731
    monkeypatch.setattr(loop.Trainer, "take_step", failing)
    with pytest.raises(KeyError):
        train_stages(second, tmp_path / "both", save_model=hub.save)
    done = (tmp_path / "both" / "numbers.json").stat().st_mtime_ns
    monkeypatch.setattr(loop.Trainer, "take_step", take_step)
    launched(1, "r")
    assert train_stages(second, tmp_path / "both", save_model=hub.save)["second.step"] == 4
    assert (tmp_path / "both" / "numbers.json").stat().st_mtime_ns == done


def fail(name, step):
    if name == "second" and step == 1:
        raise KeyError("a mistake")


def test_a_launcher_is_told_from_others(monkeypatch):
    monkeypatch.setattr(parent, "_chain", [])
    monkeypatch.setattr(parent, "_launcher", list)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert parent.launcher_name() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert parent.launcher_name() is None
    one, other = parent.psutil.Process(), parent.psutil.Process(os.getppid())
    monkeypatch.setattr(parent, "_chain", [other, one])
    name = parent.launcher_name()
    assert name.startswith(f"process {one.pid} on ")
    monkeypatch.setattr(parent, "_chain", [one, other])
    assert parent.launcher_name() != name
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "4242")
    assert parent.launcher_name() == "run 4242"


def test_a_run_without_a_launcher_leaves_no_mark(tmp_path):
    train(tiny(run=dict(steps=3, stop_after_steps=1)), tmp_path)
    assert not (tmp_path / folder.LAUNCHER).exists()
    assert "TORCH_FR_BUFFER_SIZE" not in os.environ
    assert parent.restarts() == 0


# ---- the lock of a process that has ended, or will soon -------------------------------------------------------------


def test_what_starts_anew_waits_for_the_end_of_the_one_before(tmp_path, launched, monkeypatch, caplog):
    caplog.set_level("INFO", "mmkit.train")
    monkeypatch.setattr(lock, "PATIENCE", 5.0)
    monkeypatch.setattr(logging.getLogger("mmkit"), "propagate", True)
    before = lock._take(tmp_path)
    Timer(0.3, lambda: lock._release(tmp_path / lock.LOCK, before)).start()
    launched(1)
    with lock.one_writer(tmp_path):
        assert (tmp_path / lock.LOCK).is_file()
    assert (
        f"another run writes there (process {os.getpid()} on {socket.gethostname()}); wait for its end" in caplog.text
    )


def test_nobody_waits_longer_or_who_is_started_by_hand(tmp_path, launched, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    before = lock._take(tmp_path)
    for count, slurm, waits in ((0, "0", False), (1, "0", True), (0, "2", True), (0, "", False)):
        launched(count)
        monkeypatch.setenv("SLURM_RESTART_COUNT", slurm)
        began = time.monotonic()
        with pytest.raises(UserError, match="wait for its end, or give another --out"), lock.one_writer(tmp_path):
            pass
        assert (time.monotonic() - began >= 0.3) == waits
    lock._release(tmp_path / lock.LOCK, before)


# ---- told to stop before the first step -----------------------------------------------------------------------------


def test_a_run_that_is_told_to_stop_while_it_starts_leaves_nothing(tmp_path, capsys):
    def slow(captions, folder):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    exp = tiny(tokenizer=partial(slow))
    before = signal.getsignal(signal.SIGTERM)
    code = execute(argparse.Namespace(json=None, run=lambda args: train(exp, tmp_path / "run")))
    assert code == 143
    assert "mmkit: stopped by SIGTERM" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert signal.getsignal(signal.SIGTERM) == before == signal.SIG_DFL


@pytest.mark.parametrize("world", ["1", "2"])
def test_one_of_several_ends_at_once_where_nothing_can_be_lost(monkeypatch, world):
    monkeypatch.setenv("WORLD_SIZE", world)
    with parent.stopped_when_told():
        assert (signal.getsignal(signal.SIGTERM) == signal.SIG_DFL) == (world == "2")


def test_a_forked_child_ends_as_any_other():
    with parent.stopped_when_told():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM


# ---- what NCCL has to tell ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [True, False])
def test_the_flight_recorder_writes_into_the_runs_folder(tmp_path, monkeypatch, new):
    names = {True: ("TORCH_FR_BUFFER_SIZE", "TORCH_FR_DUMP_ON_TIMEOUT", "TORCH_FR_DUMP_TEMP_FILE"), False: (
        "TORCH_NCCL_TRACE_BUFFER_SIZE", "TORCH_NCCL_DUMP_ON_TIMEOUT", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"
    )}  # fmt: skip
    monkeypatch.setattr(setup, "os", SimpleNamespace(environ={}))
    monkeypatch.setattr(setup.torch, "distributed", SimpleNamespace(**({"set_timeout": 1} if new else {})))
    setup.record_flight(tmp_path)
    assert setup.os.environ == dict(zip(names[new], ("2000", "1", f"{tmp_path}/flight-recorder/rank_"), strict=True))
    setup.os.environ = {names[not new][0]: "7", names[new][1]: "0"}
    setup.record_flight(tmp_path)
    assert setup.os.environ[names[new][1]] == "0"
    assert names[new][0] not in setup.os.environ
    assert len(setup.os.environ) == 3


def test_what_it_wrote_before_the_first_checkpoint_does_not_keep_a_run_from_its_folder(tmp_path):
    for name in ("flight-recorder", "flight-recorder/rank_12"):
        assert folder.OWN.fullmatch(name)
    assert not folder.OWN.fullmatch("flight-recorder/mine.txt")


# ---- what a launcher's file may not ask -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ACCELERATE_USE_FSDP", "true", "--set run.engine=fsdp"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "run.compile=true"),
    ],
)
def test_what_is_a_setting_of_the_run_is_refused_in_the_launchers_file(name, value, says, monkeypatch, tmp_path):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        start_processes(tiny().run, tmp_path)
