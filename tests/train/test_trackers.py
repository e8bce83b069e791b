"""Where numbers go beside the log: one run however often it is resumed, and never a reason for a run to end."""

import json
import logging
import sys

import pytest

from mmkit.train import trackers
from mmkit.train.loop import train
from mmkit.train.runlog import RunLog
from mmkit.train.trackers import Trackers
from tests.train.fakes import tiny


class Fake:
    """A module of wandb's or trackio's kind, that keeps what it was given. fails: the method that raises."""

    def __init__(self, fails=""):
        self.inits, self.logged, self.ended, self.fails = [], [], 0, fails

    def init(self, **given):
        self._may_fail("init")
        self.inits.append(given)
        return self

    def log(self, values, step):
        self._may_fail("log")
        self.logged.append((step, values))

    def finish(self):
        self.ended += 1

    def _may_fail(self, name):
        if self.fails == name:
            raise RuntimeError("no room")


@pytest.fixture
def fake(monkeypatch):
    def made(name, **given):
        module = Fake(**given)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    for name in ("WANDB_MODE", "WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mmkit"), "propagate", True)
    caplog.set_level(logging.INFO, logger="mmkit.train")
    return lambda: [record.getMessage() for record in caplog.records]


def test_wandb_is_offline_and_one_run_over_resumes(tmp_path, fake):
    wandb = fake("wandb")
    for step in (3, 7):
        found = Trackers(tmp_path, ("wandb",), name="mine", config={"a": 1}, start_step=step)
        found.log({"train/loss": 0.5}, step + 1)
        found.flush()
        found.close()
    first, second = wandb.inits
    assert first == second
    run_id = json.loads((tmp_path / "trackers" / "ids.json").read_text())["id"]
    assert first == {
        "project": "mmkit", "name": "mine", "id": run_id, "resume": "allow", "config": {"a": 1}, "mode": "offline",
        "dir": str(tmp_path / "trackers"),
    }  # fmt: skip
    assert wandb.logged == [(4, {"train/loss": 0.5}), (8, {"train/loss": 0.5})]
    assert wandb.ended == 2
    Trackers(tmp_path / "other", ("wandb",))
    assert wandb.inits[-1]["id"] != run_id


def test_the_users_own_settings_of_wandb_hold(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "thesis")
    wandb = fake("wandb")
    Trackers(tmp_path, ("wandb",))
    assert (wandb.inits[0]["mode"], wandb.inits[0]["project"]) == ("online", "thesis")


def test_trackio_goes_on_by_name(tmp_path, fake):
    trackio = fake("trackio")
    for _ in range(2):
        Trackers(tmp_path, ("trackio",), name="mine").close()
    assert trackio.inits[0] == trackio.inits[1]
    assert trackio.inits[0]["resume"] == "allow"
    assert trackio.inits[0]["name"].startswith("mine-")
    assert trackio.ended == 2


@pytest.mark.parametrize(("fails", "logged"), [("init", 0), ("log", 0), ("", 2)])
def test_one_that_fails_is_said_once_and_the_others_go_on(tmp_path, fake, said, fails, logged):
    wandb, trackio = fake("wandb", fails=fails), fake("trackio")
    log = RunLog(tmp_path, writes=True, trackers=lambda: Trackers(tmp_path, ("wandb", "trackio")))
    for step in (1, 2):
        log.event("train", step, {"loss": 0.5, "name": "x"})
        log.event("plan", step, {"records": 4})
    log.close()
    assert len(wandb.logged) == logged
    assert trackio.logged == [(1, {"train/loss": 0.5}), (2, {"train/loss": 0.5})]
    told = [line for line in said() if "run.trackers" in line]
    assert told == (["run.trackers: wandb failed and is left out from here on (RuntimeError: no room); metrics.jsonl "
                     "has all numbers"] if fails else [])  # fmt: skip


def test_one_that_is_not_installed_is_said(tmp_path, monkeypatch, said):
    monkeypatch.setitem(sys.modules, "wandb", None)
    found = Trackers(tmp_path, ("wandb", "tensorboard"))
    found.log({"train/loss": 0.5}, 1)
    found.close()
    assert "run.trackers: wandb is not installed: pip install 'mmkit[trackers]'; the run goes on without it" in said()
    assert list((tmp_path / "tensorboard").iterdir())


def test_tensorboard_alone_needs_no_id(tmp_path):
    Trackers(tmp_path, ("tensorboard", "tensorboard")).close()
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_run_and_its_resume_are_one_run_there(tmp_path, fake):
    wandb = fake("wandb")
    exp = tiny(run=dict(steps=4, trackers=("wandb",), stop_after_steps=2))
    train(exp, tmp_path / "run")
    train(tiny(run=dict(steps=4, trackers=("wandb",))), tmp_path / "run", resume=True)
    assert len({given["id"] for given in wandb.inits}) == 1
    assert [step for step, values in wandb.logged if "train/loss" in values] == [2, 4]
    assert wandb.inits[0]["config"]["args"]["name"] == "tiny"
    assert wandb.ended == 2


def test_every_name_of_the_config_has_its_tracker():
    from typing import get_args

    from mmkit.config.experiment import TrackerName

    assert set(get_args(TrackerName)) == set(trackers.MAKERS)
