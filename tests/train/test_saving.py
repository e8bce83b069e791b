"""What a run keeps and takes up again, by stand-ins: random states of each process, the scaler, the best model."""

import threading
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mmkit.config import Run
from mmkit.errors import UserError
from mmkit.files import read_json, write_json, write_text
from mmkit.train import saving
from mmkit.train.checkpoint import Staged
from mmkit.train.resuming import Meta
from mmkit.train.saving import Saving


class Scaler:
    loaded = None

    def state_dict(self):
        return {"scale": 4.0}

    def load_state_dict(self, state):
        self.loaded = state


def made(out, **changes):
    run = Run(steps=9, seed=40, best="e.value")
    engine = SimpleNamespace(name="ddp", full_state=lambda: None, whole=lambda first_only: nullcontext())
    parts = dict(engine=engine, scaler=Scaler(), predictor=lambda: "model", save_model=None, run=run)
    return Saving(out=out, experiment={}, **parts | changes)


META = Meta(step=7, world=2, product="highest", precision="fp16", threads=1, records=5, experiment={})


@pytest.mark.parametrize(("states", "seeds", "taken"), [(["a", "b"], [], ["b"]), (["a"], [40 + 7000 + 1], [])])
def test_each_process_takes_up_its_own_random_state_or_has_one_of_its_own(tmp_path, monkeypatch, states, seeds, taken):
    found = {"seeds": [], "taken": [], "loaded": []}
    state = {"rest": {}, "optimizer": {"step": 7}, "scaler": {"scale": 8.0}, "random": states}
    monkeypatch.setattr(saving.resuming, "load_meta", lambda source: META)
    monkeypatch.setattr(saving.checkpoint, "load_state", lambda source: state)
    monkeypatch.setattr(
        saving.checkpoint, "load_into", lambda source, engine, state: found["loaded"].append(state["optimizer"])
    )
    monkeypatch.setattr(saving, "world_size", lambda: 2)
    monkeypatch.setattr(saving, "rank", lambda: 1)
    monkeypatch.setattr(saving, "seed_all", found["seeds"].append)
    monkeypatch.setattr(saving, "set_random_state", found["taken"].append)
    one = made(tmp_path)
    assert one.restore(tmp_path) is META
    assert found == {"seeds": seeds, "taken": taken, "loaded": [{"step": 7}]}
    assert one.scaler.loaded == {"scale": 8.0}
    assert one.saved == 7


def test_after_a_save_the_oldest_go_and_the_model_is_there(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(saving.checkpoint, "stage", lambda *args, copied: Staged({"a": 1}, {}, {"copied": copied}))
    monkeypatch.setattr(saving.checkpoint, "write", lambda root, meta, staged: found.append(staged.state))
    monkeypatch.setattr(saving.resuming, "rotate", lambda root, keep: found.append((root, keep)))
    one = made(tmp_path, save_model=lambda folder, model, experiment, weights: found.append((folder, model, weights)))
    one.save(META)
    assert found == [{"copied": False}, (tmp_path / "checkpoints", 2), (tmp_path, "model", None)]
    one.save(META, wait=False)
    one.join()
    assert found[3:] == [{"copied": True}, (tmp_path / "checkpoints", 2), (tmp_path, "model", {"a": 1})]
    assert one.saved == 7
    assert read_json(tmp_path / "checkpoints" / ".model.json") == {"step": 7}


def test_the_scaler_is_saved(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(saving.checkpoint, "stage", lambda state, scaler, copied: found.append(scaler))
    monkeypatch.setattr(Saving, "_write", lambda *args: None)
    made(tmp_path).save(META)
    made(tmp_path, scaler=None).save(META)
    assert found == [{"scale": 4.0}, None]


@pytest.mark.parametrize("step", [None, 6, 7])
def test_the_model_of_a_process_that_was_killed_after_its_checkpoint_is_written_again(tmp_path, step):
    found = []
    if step is not None:
        write_json(tmp_path / "checkpoints" / ".model.json", {"step": step})
    one = made(tmp_path, save_model=lambda folder, model, experiment, weights: found.append((folder, model, weights)))
    one._mend(7)
    assert found == ([] if step == 7 else [(tmp_path, "model", None)])
    assert read_json(tmp_path / "checkpoints" / ".model.json") == {"step": 7}


# ---- in the background ----------------------------------------------------------------------------------------------


class Held:
    """In the place of ``Saving._write``: it waits until it is let go, and then fails where it is to."""

    def __init__(self, error=None) -> None:
        self.go, self.error, self.begun, self.done = threading.Event(), error, [], []

    def __call__(self, one, meta, *args):
        self.begun.append(meta.step)
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        self.done.append(meta.step)


@pytest.fixture
def held(monkeypatch):
    write = Held()
    monkeypatch.setattr(Saving, "_write", lambda *args: write(*args))
    monkeypatch.setattr(saving.checkpoint, "stage", lambda *args, copied: Staged({}, {}, {}))
    yield write
    write.go.set()


def ended(one):
    """Once the thread is at its end, without ``join``."""
    one._background._thread.join(10)
    return one


def test_training_goes_on_while_it_is_written_and_the_next_save_waits(tmp_path, held):
    one = made(tmp_path)
    one.save(META, wait=False)
    assert (one.saved, one.failed, held.done) == (7, False, [])
    threading.Timer(0.05, held.go.set).start()
    one.save(replace(META, step=8), wait=False)
    assert held.done[0] == 7
    one.join()
    assert (held.done, one.saved) == ([7, 8], 8)
    one.join()


def test_what_failed_is_known_without_waiting_and_raised_once(tmp_path, held):
    held.error = UserError("the disk is full")
    one = made(tmp_path)
    one.save(META, wait=False)
    assert not one.failed
    held.go.set()
    assert ended(one).failed
    with pytest.raises(UserError, match="the disk is full"):
        one.join()
    assert not one.failed
    one.join()


def test_the_next_save_raises_what_the_one_before_met(tmp_path, held):
    held.error = OSError(28, "No space left on device")
    one = made(tmp_path)
    one.save(META, wait=False)
    held.go.set()
    with pytest.raises(OSError, match="No space"):
        one.save(replace(META, step=8))
    assert held.begun == [7]


def test_an_error_of_the_run_lets_the_checkpoint_be_finished(tmp_path, held, caplog):
    one = made(tmp_path)
    with pytest.raises(KeyError, match="of the run"), one.finishing():  # noqa: PT012
        one.save(META, wait=False)
        threading.Timer(0.05, held.go.set).start()
        raise KeyError("of the run")
    assert (held.done, caplog.text) == ([7], "")
    held.error = UserError("the disk is full")
    with pytest.raises(KeyError, match="of the run"), one.finishing():  # noqa: PT012
        one.join()
        one.save(META, wait=False)
        raise KeyError("of the run")
    assert "the disk is full" in caplog.text


def test_a_second_interrupt_does_not_wait_for_the_disk(tmp_path, held):
    one = made(tmp_path)
    with pytest.raises(KeyboardInterrupt), one.finishing():  # noqa: PT012
        one.save(META, wait=False)
        raise KeyboardInterrupt
    assert held.done == []


def test_the_first_process_writes_and_all_raise(tmp_path, held, monkeypatch):
    """The second process: it writes nothing, and learns of the first one's error."""
    monkeypatch.setattr(saving, "rank", lambda: 1)
    monkeypatch.setattr(saving, "together", lambda work: (work(), told.append(1)))
    told = []
    one = made(tmp_path)
    one.save(META, wait=False)
    assert held.begun == []
    one.join()
    one.join()
    assert told == [1]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("every", [None, 0.5])
def test_a_save_is_due_by_the_first_process_s_clock(tmp_path, held, monkeypatch, rank, every):
    monkeypatch.setattr(saving, "rank", lambda: rank)
    held.go.set()
    clock = [100.0]
    one = made(tmp_path, now=lambda: clock[0], run=Run(steps=9, save_every_minutes=every))
    by_clock = every is not None and rank == 0
    for seconds, due in ((29.9, False), (30.0, by_clock), (99.0, by_clock)):
        clock[0] = 100.0 + seconds
        assert one.due() == due
    one.save(META, wait=True)
    assert not one.due()
    clock[0] += 30
    assert one.due() == by_clock


@pytest.mark.parametrize(
    ("run", "limit", "took", "says"),
    [
        ("none", None, 36.0, "36 s to write, and the launcher kills its processes 30 s after"),
        ("none", None, 30.0, ""),
        ("none", "300", 36.0, ""),
        ("none", "35", 36.0, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=102"),
        (None, None, 36.0, ""),
    ],
)
def test_a_save_that_the_launcher_would_cut_off_is_warned_about_once(
    tmp_path, monkeypatch, caplog, run, limit, took, says
):
    for name, value in (("TORCHELASTIC_RUN_ID", run), ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", limit)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(saving, "time", SimpleNamespace(monotonic=iter([0.0, took, 100.0, 100.0 + took]).__next__))
    monkeypatch.setattr(saving.checkpoint, "write", lambda root, meta, staged: None)
    monkeypatch.setattr(saving.logger.parent, "propagate", True)
    one = made(tmp_path)
    one._write(META, None, None)
    one._write(META, None, None)
    assert says in caplog.text
    told = {id(one) for one in caplog.records if "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" in one.getMessage()}
    assert len(told) == bool(says)


def test_nothing_of_a_half_written_best_model_gets_into_the_next(tmp_path):
    write_json(tmp_path / "data.json", {"records": 5})
    write_text(tmp_path / ".best.part" / "old", "of a process that was killed")
    one = made(tmp_path, save_model=lambda folder, model, experiment, weights: write_text(folder / "model", model))
    one.note_best(4, {"e.value": 0.5})
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["best.json", "data.json", "model"]
    assert [path.name for path in tmp_path.glob(".best*")] == []
