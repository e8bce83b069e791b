"""Whose a folder is: nothing of the user's is touched, one run writes at a time, an abandoned one is begun again."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from mmkit.errors import UserError
from mmkit.files import write_json
from mmkit.hub import folder as hub
from mmkit.train import folder, lock, loop
from mmkit.train.folder import look
from mmkit.train.loop import train
from mmkit.train.stages import train_stages
from tests.train.fakes import Squares, change, tiny, weights
from tests.train.test_stages import two_stages

ROOT = Path(__file__).parents[2]
THEIRS = (
    "checkpoints/my_gan_epoch200.pth", "checkpoints/step-00000001/notes.txt", "tokenizer/mine.json",
    "tensorboard/events", "metrics.jsonl", "model.safetensors", "best.json", "numbers.json", "experiment.json",
    "command.txt", "thesis.txt", ".hidden", "best/model.safetensors",
)  # fmt: skip


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"precious {name}")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def abandoned(out):
    """A run that stopped before its first checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "take_step", lambda self, batches: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            train(tiny(), out)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_of_something_else_is_refused_and_kept(tmp_path, name, resume):
    put(tmp_path, name)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"is not empty \(.+\), and no unfinished run of mmkit .*; nothing was touched"):
        train(tiny(run=dict(steps=3)), tmp_path, resume)
    assert contents(tmp_path) == before


def test_a_saved_model_is_kept_even_as_the_one_to_start_from(tmp_path):
    train(tiny(run=dict(steps=3)), tmp_path / "run", save_model=hub.save)
    model = tmp_path / "model"
    hub.save(model, hub.load(tmp_path / "run"), json.loads((tmp_path / "run" / "experiment.json").read_text()))
    before = contents(model)
    with pytest.raises(UserError, match="is not empty"):
        train(tiny(init={"model": str(model)}), model)
    assert contents(model) == before


def test_a_run_without_its_checkpoints_keeps_its_model(tmp_path):
    import shutil

    train(tiny(run=dict(steps=3)), tmp_path, save_model=hub.save)
    shutil.rmtree(tmp_path / "checkpoints")
    before = contents(tmp_path)
    for resume in (False, True):
        with pytest.raises(UserError, match="is not empty"):
            train(tiny(run=dict(steps=3)), tmp_path, resume)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("steps", [3, 12])
def test_a_run_is_not_begun_again(tmp_path, steps):
    train(tiny(run=dict(stop_after_steps=3, steps=steps)), tmp_path)
    before = contents(tmp_path)
    state = "a finished run" if steps == 3 else "a run already"
    with pytest.raises(UserError, match=rf"holds {state} \(step-00000003\); add --resume .* or give another --out"):
        train(tiny(), tmp_path)
    assert contents(tmp_path) == before


def test_only_a_torn_checkpoint_is_refused_by_name(tmp_path):
    train(tiny(run=dict(steps=3)), tmp_path)
    (tmp_path / "checkpoints" / "step-00000003" / "state.pt").unlink()
    before = contents(tmp_path)
    for resume in (False, True):
        with pytest.raises(UserError, match="of its checkpoints step-00000003 not all files are there and whole"):
            train(tiny(run=dict(steps=3)), tmp_path, resume)
    assert contents(tmp_path) == before


def test_an_abandoned_run_is_begun_again(tmp_path):
    abandoned(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("left behind\n")
    put(tmp_path / "run", "tensorboard/events.out.tfevents.1.host")
    (tmp_path / "run" / "checkpoints" / ".part-00000005").mkdir()
    (tmp_path / "run" / "checkpoints" / ".part-00000005" / "state.pt").touch()
    train(tiny(run=dict(steps=3)), tmp_path / "run")
    train(tiny(run=dict(steps=3)), tmp_path / "new")
    one, other = weights(tmp_path / "run"), weights(tmp_path / "new")
    assert all(one[name].equal(other[name]) for name in one)
    assert not (tmp_path / "run" / "tensorboard" / "events.out.tfevents.1.host").exists()
    assert "left behind" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert len((tmp_path / "run" / "command.txt").read_text().splitlines()) == 2
    assert not (tmp_path / "run" / "checkpoints" / ".part-00000005").exists()


@pytest.mark.parametrize(
    "name",
    ["thesis.txt", "tokenizer/mine.json", "tensorboard/events", "checkpoints/my_gan.pth", "tensorboard/deep/x", ".x",
     "checkpoints/.mine/deep/x", "tokenizer.json"],
)  # fmt: skip
def test_what_lies_in_an_abandoned_run_is_kept(tmp_path, name):
    abandoned(tmp_path)
    put(tmp_path, name)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"is not empty \({name}\)"):
        train(tiny(), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("link", [True, False])
def test_an_empty_folder_and_a_link_in_an_abandoned_run_are_kept(tmp_path, link):
    abandoned(tmp_path / "run")
    (tmp_path / "there").mkdir()
    place = tmp_path / "run" / "pictures"
    place.symlink_to(tmp_path / "there") if link else place.mkdir()
    with pytest.raises(UserError, match=r"is not empty \(pictures\)"):
        train(tiny(), tmp_path / "run")
    assert place.is_dir()


def test_an_abandoned_run_stays_until_the_new_one_is_sure_to_start(tmp_path):
    abandoned(tmp_path)
    before = contents(tmp_path)
    for wrong in (
        dict(data=dict(train=partial(Squares, 3))), dict(heads={}), dict(init={"model": str(tmp_path / "none")}),
    ):  # fmt: skip
        with pytest.raises(UserError):
            train(tiny(**wrong), tmp_path)
        assert contents(tmp_path) == before


def test_what_came_to_be_there_meanwhile_is_kept(tmp_path):
    abandoned(tmp_path)
    put(tmp_path, "thesis.txt")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"thesis\.txt came to be there meanwhile"):
        folder.start(tmp_path, {}, {}, fresh=True, apart=())
    assert contents(tmp_path) == before


def test_the_best_that_stands_beside_the_best_model_counts(tmp_path):
    """A process may be killed between the model and the file in the run's folder."""
    facts = {"metric": "m", "is": "lowest", "value": 0.9, "step": 2}
    write_json(tmp_path / "best.json", facts)
    assert folder.read_best(tmp_path, "m", "lowest") == (0.9, 2)
    write_json(tmp_path / "best" / "best.json", facts | {"value": 0.1, "step": 4})
    assert folder.read_best(tmp_path, "m", "lowest") == (0.1, 4)
    assert folder.read_best(tmp_path, "m", "highest") is None
    assert folder.read_best(tmp_path, "other", "lowest") is None


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="fewer than one step"):
        train(tiny(data=dict(global_batch=64)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="fewer than one step"):
        train(tiny(data=dict(global_batch=64)), tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_empty_folder_and_what_a_desktop_puts_there_are_no_obstacle(tmp_path):
    put(tmp_path, ".DS_Store")
    assert look(tmp_path, resume=False) is None
    assert train(tiny(run=dict(steps=3)), tmp_path)["step"] == 3
    assert (tmp_path / ".DS_Store").read_text() == "precious .DS_Store"


# ---- several stages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thesis.txt", "before/thesis.txt", "before/model.safetensors"])
def test_stages_keep_what_lies_there(tmp_path, name):
    put(tmp_path, name)
    before = contents(tmp_path)
    for exp in (two_stages(), change(two_stages(), subfolder="after")):
        with pytest.raises(UserError, match="is not empty"):
            train_stages(exp, tmp_path, save_model=hub.save)
        assert contents(tmp_path) == before


def test_stages_keep_what_lies_in_the_last_one(tmp_path):
    put(tmp_path, "after/thesis.txt")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"after: is not empty \(thesis\.txt\)"):
        train_stages(change(two_stages(), subfolder="after"), tmp_path, save_model=hub.save)
    assert contents(tmp_path) == before


# ---- one writer -----------------------------------------------------------------------------------------------------

HOLD = (
    "import os, sys, time; from pathlib import Path; from mmkit.train.lock import one_writer\n"
    "with one_writer(Path(sys.argv[1])):\n"
    "    child = os.fork() if len(sys.argv) > 2 else 1\n"
    "    print('held', os.getpid() if child == 0 else '', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.mark.parametrize("child", [False, pytest.param(True, marks=pytest.mark.skipif(os.name == "nt", reason="fork"))])
def test_a_second_writer_is_refused_and_the_lock_dies_with_its_process(tmp_path, child):
    out = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(out), *(["child"] if child else [])]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    left = None
    try:
        lines = [process.stdout.readline() for _ in range(2 if child else 1)]
        left = next((int(line.split()[1]) for line in lines if len(line.split()) > 1), None)
        with pytest.raises(UserError, match=rf"another run writes there \(process {process.pid} on "):
            train(tiny(run=dict(steps=3)), out)
        process.kill()
        process.wait()
        assert train(tiny(run=dict(steps=3)), out)["step"] == 3  # though a child lives
        assert not (out / lock.LOCK).exists()
    finally:
        process.kill()
        if left is not None:
            os.kill(left, 9)


def test_two_runs_of_one_process_are_refused_too(tmp_path):
    with lock.one_writer(tmp_path), pytest.raises(UserError, match="another run writes there"):
        train(tiny(), tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def none(handle):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock, "_lock", none)
    assert train(tiny(run=dict(steps=3)), tmp_path)["step"] == 3
    assert f"{tmp_path}: no locks here (No locks available): see to it that no other run" in caplog.text


def test_a_lock_file_that_was_removed_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    real, calls = lock._lock, []

    def late(handle):
        calls.append(handle)
        real(handle)
        if len(calls) == 1:
            (tmp_path / lock.LOCK).unlink()  # the one who had it left

    monkeypatch.setattr(lock, "_lock", late)
    with lock.one_writer(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / lock.LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / lock.LOCK).exists()
