"""A run that saves in the background: the same checkpoints, errors at the next step, the same step on every process."""

import argparse
import json
import threading
import time
from functools import partial

import pytest
import torch

from mmkit.cli.main import execute
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.hub.folder import load
from mmkit.train import checkpoint, loop, resuming
from mmkit.train.background import Background
from mmkit.train.engines.base import State
from mmkit.train.loop import train
from mmkit.train.saving import Saving
from tests.train.fakes import Count, tiny
from tests.train.test_checkpoint import Tied, meta
from tests.train.test_loop import Sick, events, without_predictor


def test_work_beside_is_waited_for_and_its_error_raised_once():
    go, done, work = threading.Event(), [], Background()
    work.join()
    work.start(lambda: (go.wait(10), done.append(1)))
    assert (done, work.failed) == ([], False)
    go.set()
    work.join()
    assert (done, work.failed) == ([1], False)
    work.start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        work.join()
    assert not work.failed
    work.join()


def test_what_is_staged_is_apart_from_what_trains_on(tmp_path):
    """Weights, buffers, the optimizer's tensors, rates and lists, extra state: as they were at the step."""
    task = Tied()
    task.extra = {"seen": [1]}
    task.get_extra_state = lambda: task.extra
    optimizer = torch.optim.AdamW([task.a.weight], lr=0.5)

    def step():
        task.a.weight.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    step()
    state = State(task=task.state_dict(), optimizer=optimizer.state_dict())
    before = checkpoint.write(tmp_path / "a", meta(), checkpoint.stage(state, {"scale": 2.0}))
    staged = checkpoint.stage(state, {"scale": 2.0}, copied=True)
    step()
    state.optimizer["param_groups"][0]["lr"] = 7.0
    task.extra["seen"].append(2)
    after = checkpoint.write(tmp_path / "b", meta(), staged)
    assert (before / "task.safetensors").read_bytes() == (after / "task.safetensors").read_bytes()
    one, other = checkpoint.load_state(before), checkpoint.load_state(after)
    assert one["rest"] == other["rest"] == {"_extra_state": {"seen": [1]}}
    assert one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    for name, value in one["optimizer"]["state"][0].items():
        assert torch.equal(value, other["optimizer"]["state"][0][name]), name
    weights = staged.weights()
    assert torch.equal(weights["b.weight"], weights["a.weight"])
    assert weights["b.weight"].data_ptr() != weights["a.weight"].data_ptr()


@pytest.fixture
def late(monkeypatch):
    """Checkpoints are written only after two more steps have begun, or training waits for them."""
    write, join, step = checkpoint.write, Saving.join, loop.Trainer.take_step
    begun, waited = [0], threading.Event()

    def wait(*args):
        first = begun[0] if threading.current_thread() is not threading.main_thread() else -2
        while begun[0] < first + 2 and not waited.is_set():
            time.sleep(0.001)
        return write(*args)

    def take_step(self, batches):
        begun[0] += 1
        return step(self, batches)

    def waiting(self):
        waited.set()
        join(self)
        waited.clear()

    monkeypatch.setattr(checkpoint, "write", wait)
    monkeypatch.setattr(loop.Trainer, "take_step", take_step)
    monkeypatch.setattr(Saving, "join", waiting)


def test_a_checkpoint_of_the_background_is_that_of_its_step(tmp_path, late):
    """Bit for bit that of a run that waits, though weights, metrics and random states have gone on."""
    run = dict(steps=7, save_every_steps=3, keep_checkpoints=9)
    kept = {}
    for name, background in (("beside", True), ("waiting", False)):
        train(tiny(run=run | dict(save_in_background=background)), tmp_path / name, save_model=hub.save)
        kept[name] = resuming.checkpoints(tmp_path / name / "checkpoints")
    assert [path.name[-1] for path in kept["beside"]] == ["3", "6", "7"]
    for one, other in zip(kept["beside"], kept["waiting"], strict=True):
        assert (one / "task.safetensors").read_bytes() == (other / "task.safetensors").read_bytes()
        said = [json.loads((path / "meta.json").read_text()) for path in (one, other)]
        for facts in said:
            del facts["seconds"], facts["experiment"]
            facts["metrics"] = {name: v for name, v in facts["metrics"].items() if name[:4] in ("loss", "lr", "grad")}
        assert said[0] == said[1]
        assert said[0]["metrics"]["loss"] > 0
        assert torch.equal(*(checkpoint.load_state(path)["random"][0]["torch"] for path in (one, other)))


def test_the_model_is_that_of_the_checkpoint(tmp_path, late):
    """The run is at step 6 when it fails; what it saved is of step 3."""
    heads = dict(tiny().heads) | {"sick": partial(Sick, at=5)}
    with pytest.raises(UserError, match="not finite"):
        train(tiny(heads=heads, run=dict(save_every_steps=3)), tmp_path, save_model=hub.save)
    (kept,) = resuming.checkpoints(tmp_path / "checkpoints")
    assert kept.name == "step-00000003"
    assert json.loads((tmp_path / "config.json").read_text())["training"]["steps"] == 3
    state = checkpoint.read_state(kept, {})
    model = load(tmp_path, allow="tests.train.test_loop").model.state_dict()
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in model.items())
    assert json.loads((tmp_path / "checkpoints" / ".model.json").read_text()) == {"step": 3}


def test_a_failed_save_stops_the_run_at_the_next_step(tmp_path, monkeypatch, capsys):
    """One message, an exit code, and nothing older lost."""
    fill, failed, steps = checkpoint._fill, threading.Event(), []
    step = loop.Trainer.take_step

    def full(part, meta, staged):
        if meta.step == 4:
            part.mkdir(parents=True)
            failed.set()
            raise OSError(28, "No space left on device")
        fill(part, meta, staged)

    def take_step(self, batches):
        if self.step == 4:
            failed.wait(10)
            self.saving._background._thread.join(10)
        steps.append(self.step)
        step(self, batches)

    monkeypatch.setattr(checkpoint, "_fill", full)
    monkeypatch.setattr(loop.Trainer, "take_step", take_step)
    exp = tiny(run=dict(steps=9, save_every_steps=2))
    assert execute(argparse.Namespace(json=None, run=lambda args: train(exp, tmp_path))) == 2
    assert steps[-1] == 4
    said = capsys.readouterr().err
    assert said.count("step-00000004: cannot be written (No space left on device; ") == 1
    assert "Traceback" not in said
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002"]
    assert not (tmp_path / ".mmkit-lock").exists()
    monkeypatch.undo()
    assert train(exp, tmp_path, resume=True)["step"] == 9


def test_a_save_that_fails_at_the_last_step_is_not_passed_over(tmp_path, monkeypatch):
    fill = checkpoint._fill

    def full(part, meta, staged):
        if meta.step == 4:
            time.sleep(0.05)
            raise OSError(28, "No space left on device")
        fill(part, meta, staged)

    monkeypatch.setattr(checkpoint, "_fill", full)
    with pytest.raises(UserError, match="step-00000004: cannot be written"):
        train(tiny(run=dict(steps=4, save_every_steps=2)), tmp_path, build_parts=without_predictor)
    assert not (tmp_path / "numbers.json").exists()


def test_a_run_saves_by_the_clock_beside_its_steps(tmp_path, monkeypatch):
    """A minute a step: due after 2.5 minutes, since whichever save came last."""
    clock, step, saved, save = [0.0], loop.Trainer.take_step, [], Saving.save

    def take_step(self, batches):
        clock[0] += 60
        step(self, batches)

    def note(self, meta, *, wait):
        saved.append(meta.step)
        save(self, meta, wait=wait)

    monkeypatch.setattr(loop.Trainer, "take_step", take_step)
    monkeypatch.setattr(Saving, "save", note)
    monkeypatch.setattr(loop, "Saving", partial(Saving, now=lambda: clock[0]))
    exp = tiny(run=dict(steps=12, save_every_minutes=2.5, save_every_steps=5), evals={"count": partial(Count)})
    train(exp, tmp_path, build_parts=without_predictor)
    assert saved == [3, 5, 8, 10, 12]
    assert [event["step"] for event in events(tmp_path, "eval")] == [12]
