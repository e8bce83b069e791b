import json
import os
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from mmkit import files
from mmkit.config import dump
from mmkit.config.experiment import BatchPlan
from mmkit.config.own import leaves
from mmkit.errors import UserError
from mmkit.train import checkpoint, resuming, rng
from mmkit.train.engines.base import State
from mmkit.train.precision import choose_precision, choose_product
from mmkit.train.runlog import RunLog
from mmkit.train.setup import numeric_settings
from mmkit.train.trackers import Trackers
from tests.train.fakes import tiny


class Tied(nn.Module):
    """Shared weights, a view, an empty buffer, extra state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3, bias=False)
        self.b = nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight
        self.register_buffer("row", self.a.weight.detach()[1])
        self.register_buffer("first", self.a.weight.detach()[0])
        self.register_buffer("top", self.a.weight.detach()[:2])
        self.register_buffer("turned", self.a.weight.detach().T)
        self.register_buffer("bits", self.a.weight.detach().view(torch.int32))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.pushed = 0

    def get_extra_state(self):
        return {"pushed": self.pushed}

    def set_extra_state(self, state):
        self.pushed = state["pushed"]


def meta(step=3, **changes):
    base = dict(step=step, world=1, product="highest", precision="no", threads=1, records=5, experiment={})
    return resuming.Meta(**(base | changes))


def write(root, task, step=3):
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.1)
    state = State(task=task.state_dict(), optimizer=optimizer.state_dict())
    return checkpoint.write(root, meta(step), checkpoint.stage(state))


def read(path, task):
    engine = SimpleNamespace(load_state=lambda state: task.load_state_dict(dict(state.task)))
    checkpoint.load_into(path, engine, checkpoint.load_state(path))


def test_round_trip_with_shared_tensors_and_extra_state(tmp_path):
    task = Tied()
    task.pushed = 7
    path = write(tmp_path, task)
    other = Tied()
    read(path, other)
    assert other.pushed == 7
    assert torch.equal(other.a.weight, task.a.weight)
    state = checkpoint.read_state(path, {})
    for name in ("row", "first", "top", "turned", "bits"):
        assert torch.equal(state[name], getattr(task, name)), name
        assert torch.equal(getattr(other, name), getattr(task, name)), name
    assert other.b.weight is other.a.weight
    sizes = {name: (path / name).stat().st_size for name in ("task.safetensors", "state.pt")}
    assert resuming.load_meta(path) == meta(files=sizes)
    with pytest.raises(UserError, match="does not fit"):
        read(path, nn.Linear(2, 2))


@pytest.mark.parametrize("error", [
    OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc:664] . No space left on device"),
])  # fmt: skip
@pytest.mark.parametrize("where", ["save_file", "torch.save", "to_disk", "replace_folder"])
def test_a_write_that_breaks_leaves_what_was_there_and_no_part(tmp_path, monkeypatch, error, where):
    write(tmp_path, Tied(), 1)

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(f"mmkit.train.checkpoint.{where}", full)
    with pytest.raises(UserError, match=r"step-00000002: cannot be written \(.*No space left .*go on with --resume"):
        write(tmp_path, Tied(), 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert resuming.latest(tmp_path).name == "step-00000001"


def test_a_half_written_checkpoint_of_a_killed_process_goes(tmp_path):
    write(tmp_path, Tied(), 1)
    (tmp_path / ".part-00000002").mkdir()
    (tmp_path / ".part-00000002" / "state.pt").touch()
    write(tmp_path, Tied(), 2)
    (tmp_path / ".part-00000003").mkdir()
    resuming.rotate(tmp_path, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_a_checkpoint_has_its_name_after_all_of_it_has_reached_the_disk(tmp_path, monkeypatch):
    seen, real = [], os.fsync

    def fsync(handle):
        there = sorted(p.name for p in tmp_path.iterdir())
        seen.append((os.path.basename(os.readlink(f"/proc/self/fd/{handle}")), there))
        real(handle)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("the names of open files are told by Linux alone")
    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path, Tied())
    assert {name for name, there in seen if there == [".part-00000003"]} >= {
        "task.safetensors", "state.pt", "meta.json"
    }  # fmt: skip
    assert seen[-1] == (tmp_path.name, ["step-00000003"])


def test_rotation_keeps_the_newest(tmp_path):
    for step in (5, 9, 10, 100):
        write(tmp_path, Tied(), step)
    resuming.rotate(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    (tmp_path / "step-00000100" / "state.pt").unlink()
    resuming.rotate(tmp_path, keep=1)  # a torn one counts for none
    assert resuming.latest(tmp_path).name == "step-00000010"


def test_a_removal_that_was_killed_leaves_no_checkpoint(tmp_path, monkeypatch):
    for step in (1, 2):
        write(tmp_path, Tied(), step)

    def killed(path, **kwargs):
        (path / "task.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(files.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        resuming.rotate(tmp_path, keep=1)
    monkeypatch.undo()
    assert [p.name for p in resuming.checkpoints(tmp_path)] == ["step-00000002"]
    assert resuming.torn(tmp_path) == []
    resuming.rotate(tmp_path, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("name", ["task.safetensors", "state.pt", "meta.json"])
@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_torn_checkpoint_is_not_resumed_from(tmp_path, name, harm):
    for step in (1, 2):
        write(tmp_path, Tied(), step)
    file = tmp_path / "step-00000002" / name
    file.unlink() if harm == "gone" else file.write_bytes(file.read_bytes()[:-1])
    assert resuming.latest(tmp_path).name == "step-00000001"
    assert [p.name for p in resuming.torn(tmp_path)] == ["step-00000002"]


def test_a_checkpoint_of_before_sizes_were_kept_is_whole(tmp_path):
    path = write(tmp_path, Tied())
    kept = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({k: v for k, v in kept.items() if k not in ("files", "batch")}))
    assert resuming.latest(tmp_path) == path
    (path / "state.pt").unlink()
    assert resuming.latest(tmp_path) is None


def test_what_a_checkpoint_says_of_its_experiment_has_the_present_names(tmp_path):
    path = write(tmp_path, Tied())
    kept = json.loads((path / "meta.json").read_text())
    kept["experiment"] = {"dataclass": "mmkit.config:Run", "args": {"product": "highest"}}
    (path / "meta.json").write_text(json.dumps(kept))
    now = {"dataclass": "mmkit.config.experiment:Run", "args": {"float32_matmul": "highest"}}
    assert resuming.load_meta(path).experiment == now


def test_steps_are_ordered_by_number_and_other_names_are_not_taken(tmp_path):
    for step in (99_999_999, 100_000_000):
        write(tmp_path, Tied(), step)
    shutil.copytree(tmp_path / "step-99999999", tmp_path / "step-2 (copy)")
    assert [p.name for p in resuming.checkpoints(tmp_path)] == ["step-99999999", "step-100000000"]
    assert resuming.latest(tmp_path).name == "step-100000000"


def test_writing_a_step_again_replaces_it_whole(tmp_path, monkeypatch):
    path = write(tmp_path, Tied())
    (path / "old").touch()
    assert write(tmp_path, Tied()) == path
    assert not (path / "old").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]


def test_random_state_comes_back(tmp_path):
    import random

    import numpy as np

    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()

    rng.seed_all(3)
    draw()
    torch.save(rng.random_state(), tmp_path / "state")
    first = draw()
    with rng.undisturbed():
        draw()
    second = draw()
    rng.set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == first
    assert draw() == second


def test_a_changed_experiment_is_refused_where_it_matters(tmp_path):
    old = {
        "dataclass": "x",
        "args": {"run": {"dataclass": "r", "args": {"steps": 5, "log_every_steps": 1}}, "w": {"tuple": [1]}},
    }
    new = json.loads(json.dumps(old))
    new["args"]["run"]["args"]["log_every_steps"] = 2
    resuming.check_same(tmp_path, old, new, (5, 5))
    new["args"]["run"]["args"]["steps"] = 6
    with pytest.raises(UserError, match=r"run\.steps: 5 -> 6"):
        resuming.check_same(tmp_path, old, new, (5, 5))
    resuming.check_same(tmp_path, old, new, free=("run",))
    new["args"]["w"]["tuple"] = [2, 3]
    with pytest.raises(UserError, match=r"run\.steps: 5 -> 6; w\.0: 1 -> 2; w\.1: absent -> 3\. Restore these"):
        resuming.check_same(tmp_path, old, new, (5, 5))
    with pytest.raises(UserError, match="records of the source: 5 -> 6"):
        resuming.check_same(tmp_path, old, old, (5, 6))


@pytest.mark.parametrize("path", [
    "run.seed", "run.steps", "run.precision", "run.float32_matmul", "run.compile", "optim.lr", "optim.warmup_steps",
    "optim.clip_norm", "data.image_size", "data.max_tokens", "data.train.records", "data.blank_images", "data.block",
    "teacher.momentum", "heads.itc.queue_size", "model.dropout", "tokenizer.vocab_size", "init", "weights",
])  # fmt: skip
def test_what_enters_the_numbers_is_not_free_to_change(tmp_path, path):
    old = dump(tiny(init={"model": "a"}, weights={"itc": 1.0}, optim=dict(clip_norm=1.0)))
    found = [name for name in dict(leaves(old)) if name == path or name.startswith(f"{path}.")]
    assert found, sorted(dict(leaves(old)))
    for name in found:
        assert not resuming._free(name, resuming.FREE_TO_CHANGE)


def test_a_setting_that_is_free_frees_its_own_and_no_other(tmp_path):
    old, new = {"init": {"model": 1, "modelled": 1}}, {"init": {"model": 2, "modelled": 1}}
    resuming.check_same(tmp_path, old, new, free=("init.model",))
    resuming.check_same(tmp_path, old, {"init": {"model": {"a": [1]}, "modelled": 1}}, free=("init.model",))
    for other in ({"init": {"model": 1, "modelled": 2}}, {"init": {"model": 1}}, {"init": {"model": 1, "model2": 2}}):
        with pytest.raises(UserError, match=r"init\.model(led|2): (1|absent) -> (2|absent).*\. do this$"):
            resuming.check_same(tmp_path, old, other, free=("init.model",), hint="do this")


def test_a_dumped_experiment_is_named_as_set_names_it():
    value = {"args": {"a": {"tuple": [1, {"mapping": {"b": None}}]}, "c": {"args": {"args": 2}}, "d": []}}
    assert dict(leaves(value)) == {"a.0": 1, "a.1.b": None, "c": 2}
    assert resuming.changes({"a": None}, {}) == [("a", "a: None -> absent")]
    assert resuming.changes({"a": [1, 2]}, {"a": [1]}) == [("a.1", "a.1: 2 -> absent")]


def batch(rank_batch, accumulation_steps, world):
    total = rank_batch * accumulation_steps * world
    return BatchPlan(rank_batch=rank_batch, accumulation_steps=accumulation_steps, global_batch=total, world=world)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (batch(8, 1, 1), batch(8, 1, 2), "data.global_batch=8 data.rank_batch=4 data.accumulation_steps=null"),
        (batch(8, 4, 1), batch(8, 4, 2), "data.global_batch=32 data.rank_batch=4 data.accumulation_steps=null"),
        (batch(3, 2, 1), batch(3, 1, 2), None),
        (batch(1, 6, 1), batch(1, 6, 2), "data.global_batch=6 data.rank_batch=null data.accumulation_steps=null"),
        (batch(3, 1, 1), batch(3, 1, 2), "a number of processes that divides 3, such as 1"),
        (batch(8, 1, 1), batch(4, 1, 2), None),
        (batch(8, 1, 2), batch(8, 1, 1), "data.global_batch=16 data.rank_batch=16 data.accumulation_steps=null"),
    ],
)
def test_a_step_has_the_same_samples_on_any_number_of_processes(tmp_path, before, now, words):
    kept = meta(world=before.world, batch=asdict(before))
    if words is None:
        said = resuming.check_batch(tmp_path, kept, now)
        one, other = before.rank_batch * before.world, now.rank_batch * now.world
        assert (said == "") == (one == other)
        assert one == other or f"had {one} samples on all processes together and has {other} now" in said
        return
    with pytest.raises(UserError, match=rf"a step had {before.global_batch} samples.*{words}"):
        resuming.check_batch(tmp_path, kept, now)
    if "--set" in words or "null" in words:  # what it says is right
        change = dict(part.removeprefix("data.").split("=") for part in words.split())
        numbers = {name: None if value == "null" else int(value) for name, value in change.items()}
        plan = replace(tiny().data, **numbers).batch_plan(now.world)
        assert plan.global_batch == before.global_batch
        resuming.check_batch(tmp_path, kept, plan)


def test_log_drops_what_an_abandoned_process_wrote(tmp_path):
    log = RunLog(tmp_path, writes=True)
    for step in (1, 2, 3):
        log.event("train", step, {"loss": 0.5})
    with log.path.open("a") as file:
        file.write('{"event": "tra')
    log = RunLog(tmp_path, writes=True, start_step=2)
    log.event("train", 3, {"loss": 0.25})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [(e["step"], e["loss"]) for e in lines] == [(1, 0.5), (2, 0.5), (3, 0.25)]
    RunLog(tmp_path, writes=False, start_step=0).event("train", 9, {})
    assert len(log.path.read_text().splitlines()) == 3


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    log = RunLog(tmp_path / "none", writes=True)
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written \(No such file.*go on with --resume"):
        log.event("train", 1, {"loss": 0.5})


def test_tensorboard_gets_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, writes=True, trackers=lambda: Trackers(tmp_path, ("tensorboard",)))
    log.event("train", 4, {"loss": 0.5, "name": "x"})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(4, 0.5)]


def test_cudnn_does_not_attend_in_a_run_and_all_settings_are_put_back():
    fused = torch.backends.cuda
    before = torch.get_float32_matmul_precision(), torch.get_num_threads(), fused.cudnn_sdp_enabled()
    assert before[2]
    with numeric_settings("medium", before[1] + 1):
        assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("medium", before[1] + 1)
        assert not fused.cudnn_sdp_enabled()
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads(), fused.cudnn_sdp_enabled()) == before


def test_product_choice_is_float32_and_leaves_the_setting():
    before = torch.get_float32_matmul_precision()
    choice = choose_product("auto", torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == before
    assert choice.reason
    torch.set_float32_matmul_precision(choice.name)
    try:
        x, y = torch.randn(64, 512), torch.randn(512, 64)
        error = ((x @ y).double() - x.double() @ y.double()).norm() / (x.double() @ y.double()).norm()
        assert error < 1e-5
    finally:
        torch.set_float32_matmul_precision(before)
    assert choose_product("high", torch.device("cpu")).name == "high"


def test_product_that_loses_bits_is_not_chosen(monkeypatch):
    from mmkit.train import precision

    monkeypatch.setattr(precision, "MAX_ERROR", 0.0)
    choice = choose_product("auto", torch.device("cpu"))
    assert choice.name == "highest"
    assert "not float32" in choice.reason


def test_precision_by_device(monkeypatch):
    cpu = torch.device("cpu")

    def auto(has, library, architecture="x86_64"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has, "architecture": architecture})
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library)
        return choose_precision("auto", cpu)

    assert auto(True, True) == "bf16"
    assert auto(False, True) == "no"
    assert auto(True, False) == "no"  # oneDNN may be told to leave it alone, by ONEDNN_MAX_CPU_ISA
    assert auto(True, False, "aarch64") == "bf16"
    assert choose_precision("bf16", cpu) == "bf16"
    with pytest.raises(UserError, match="fp16"):
        choose_precision("fp16", cpu)


def test_threads_leave_cores_for_workers(monkeypatch):
    from mmkit.train import setup

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert setup.threads_for(workers=3, local_processes=1) == 5
    assert setup.threads_for(workers=0, local_processes=2) == 4
    assert setup.threads_for(workers=16, local_processes=1) == 1
