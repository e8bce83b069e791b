"""Whether there is room for what a run will keep, from the sizes of its tensors; asked before anything is touched."""

import os
import subprocess
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from mmkit.config import Rule, Run, mmkit_rules
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.train import resuming, room, saving
from mmkit.train.build import make_task
from mmkit.train.loop import train
from mmkit.train.optim import make_optimizer
from mmkit.train.room import Sizes, check_room, shown, sizes_of
from tests.train.fakes import change, tiny
from tests.train.test_background import Count
from tests.train.test_loop import without_predictor

Disk = namedtuple("Disk", ("total", "used", "free"))
SIZES = Sizes(checkpoint=1000, model=100)


def of(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.fixture
def free(monkeypatch):
    """Sets how much is left on every disk."""
    left = [0]
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Disk(10**6, 0, left[0]))
    return left


def test_the_sizes_are_those_of_the_files(tmp_path, monkeypatch):
    found, check = [], room.check_room
    monkeypatch.setattr("mmkit.train.saving.check_room", lambda out, run, s: (found.append(s), check(out, run, s)))
    train(tiny(run=dict(steps=3)), tmp_path, save_model=hub.save)
    (sizes,) = found
    for said, real in ((sizes.checkpoint, of(tmp_path / "checkpoints")),
                       (sizes.model, (tmp_path / "model.safetensors").stat().st_size)):  # fmt: skip
        assert real <= said <= 1.4 * real  # names take a share of so small a model


def test_what_is_trained_counts_three_times_and_its_teacher_once():
    """To the byte, but for names: by a task that has no memory."""
    exp = tiny(optim=dict(rules=(Rule(pattern=r"^model\.image\.", freeze=True), *mmkit_rules())))
    with torch.device("meta"):
        task = make_task(exp, SimpleNamespace(vocab_size=60, pad_id=0), 5)
    groups = make_optimizer(task, exp.optim).param_groups
    own = {name: p.numel() * 4 for name, p in task.named_parameters()}
    teacher = sum(size for name, size in own.items() if name.startswith("ema."))
    student = sum(own.values()) - teacher
    frozen = sum(size for name, size in own.items() if name.startswith("model.image."))
    buffers = sum(b.numel() * b.element_size() for b in task.buffers())
    sizes = sizes_of(task, groups)
    plain = student + teacher + 2 * (student - frozen) + buffers
    names = room.BESIDE * (len(task.state_dict()) + 4 * len(own))
    assert plain < sizes.checkpoint < plain + names
    assert student <= sizes.model < student + names
    assert min(frozen, teacher, student - frozen) > 0
    single = [group | {"muon": True} for group in groups]
    assert student - frozen <= sizes.checkpoint - sizes_of(task, single).checkpoint < student - frozen + names
    assert sizes_of(task, [], exports=False).model == 0


@pytest.mark.parametrize(("changes", "sizes", "needed"), [
    ({}, SIZES, 3200), (dict(keep_checkpoints=1), SIZES, 2200), (dict(best="a.b"), SIZES, 3400),
    ({}, Sizes(checkpoint=1000, model=0), 3000), (dict(best="a.b"), Sizes(checkpoint=1000, model=0), 3000),
])  # fmt: skip
def test_a_fresh_run_needs_one_more_than_it_keeps(tmp_path, free, changes, sizes, needed):
    run = Run(steps=9, **changes)
    free[0] = needed
    check_room(tmp_path, run, sizes)
    free[0] = needed - 1
    with pytest.raises(UserError, match=rf"its disk has {shown(needed - 1)} left, and this run needs {shown(needed)} "):
        check_room(tmp_path, run, sizes)


@pytest.mark.parametrize(("there", "needed"), [
    ({"checkpoints/step-00000001/task": 1000}, 2200),
    ({"checkpoints/step-00000001/task": 1000, "checkpoints/step-00000002/a/b": 1000, "model.safetensors": 100}, 1100),
    ({"checkpoints/step-00000001/task": 2500, "model.safetensors": 100}, 1100),
    ({"checkpoints/step-00000001/task": 1000, "metrics.jsonl": 500}, 2200),
])  # fmt: skip
def test_what_a_run_has_written_already_is_not_asked_for_again(tmp_path, free, there, needed):
    for name, size in there.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    free[0] = needed
    check_room(tmp_path, Run(steps=9), SIZES)
    free[0] = needed - 1
    with pytest.raises(UserError, match="Make room"):
        check_room(tmp_path, Run(steps=9), SIZES)


def test_the_best_model_that_is_there_counts(tmp_path, free):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.safetensors").write_bytes(bytes(100))
    free[0] = 3300
    check_room(tmp_path, Run(steps=9, best="a.b"), SIZES)
    free[0] = 3299
    with pytest.raises(UserError, match=r"3 checkpoints of 1000 bytes and 4 times the model, 100 bytes"):
        check_room(tmp_path, Run(steps=9, best="a.b"), SIZES)


def test_a_disk_that_tells_no_size_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Disk(0, 0, 0))
    check_room(tmp_path, Run(steps=9), SIZES)


def test_a_full_disk_stops_a_run_before_it_begins_and_a_resume_before_its_first_step(tmp_path, free):
    """Nothing is left of the one, and nothing changed of the other."""
    out, exp = tmp_path / "run", tiny(run=dict(steps=4), evals={"count": partial(Count)})
    with pytest.raises(UserError, match=r"run: its disk has 0 bytes left, .*keep fewer than run.keep_checkpoints = 2"):
        train(exp, out, build_parts=without_predictor)
    assert not out.exists()
    free[0] = 10**9
    train(change(exp, run=dict(stop_after_steps=2)), out, build_parts=without_predictor)
    free[0] = 1000
    before = sorted((path, path.stat().st_mtime_ns) for path in (out / "checkpoints").rglob("*"))
    with pytest.raises(UserError, match=r"its disk has 1000 bytes left, and this run needs \d\.\d MiB more"):
        train(exp, out, resume=True, build_parts=without_predictor)
    assert sorted((path, path.stat().st_mtime_ns) for path in (out / "checkpoints").rglob("*")) == before
    free[0] = 10**9
    assert train(exp, out, resume=True, build_parts=without_predictor)["step"] == 4


def test_bytes_for_people():
    assert [shown(n) for n in (0, 1023, 1024, 2**20, 3 * 2**29, 5 * 2**40)] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "1.0 MiB", "1.5 GiB", "5120.0 GiB"
    ]  # fmt: skip


@pytest.fixture
def small(tmp_path):
    """A disk of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only the administrator mounts a disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("background", [True, False])
def test_a_disk_that_fills_up_keeps_what_was_whole(small, monkeypatch, background):
    exp = tiny(run=dict(steps=9, save_every_steps=2, save_in_background=background))
    with pytest.raises(UserError, match=r"its disk has \d\.\d MiB left, and this run needs \d\.\d MiB more"):
        train(exp, small / "run")
    assert list(small.iterdir()) == []
    monkeypatch.setattr(saving, "check_room", lambda *args: None)
    (small / "filling").write_bytes(bytes(500_000))
    with pytest.raises(
        UserError, match=r"step-00000004: cannot be written \(.*; \d.* left on its disk.*go on with --resume"
    ):
        train(exp, small / "run")
    assert [path.name for path in (small / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
    assert resuming.latest(small / "run" / "checkpoints").name == "step-00000002"
    assert train(exp, small / "run", resume=True)["step"] == 9
