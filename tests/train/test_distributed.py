"""Checkpoints that processes write together: what is in them, what harms them, and that any engine reads them."""

import copy
import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException

from mmkit.config import Rule, muon_rules
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.train import checkpoint, distributed, loop, resuming
from mmkit.train.engines.base import State, filled
from mmkit.train.folder import versions
from mmkit.train.loop import train
from tests.several import on_processes
from tests.train.fakes import change, plain
from tests.train.test_checkpoint import Tied, meta


def trained(seed=0):
    """A module with shared and 0-D tensors, extra state, and an optimizer that has taken a step."""
    torch.manual_seed(seed)
    task = Tied()
    task.scale = torch.nn.Parameter(torch.tensor(float(seed + 2)))
    task.pushed = 7 + seed
    own = [{"params": [(name, p) for name, p in task.named_parameters()], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(own, lr=0.1, fused=True)
    (task.a.weight.square().sum() * task.scale).backward()
    optimizer.step()
    return task, optimizer


class Engine:
    """Of one process, with plain tensors."""

    name = "ddp"

    def __init__(self, task, optimizer):
        self.task, self.optimizer = task, optimizer

    def state(self):
        return State(task=self.task.state_dict(), optimizer=filled(self.optimizer))

    def load_state(self, state):
        self.task.load_state_dict(dict(state.task))
        self.optimizer.load_state_dict(dict(state.optimizer))


def write(root, task, optimizer, step=3, copied=False):
    staged = distributed.stage(Engine(task, optimizer).state(), {"scale": 2.0}, copied=copied)
    return distributed.write(root, meta(step), staged, None)


def same(one, other):
    found, wanted = one.state_dict(), other.state_dict()
    assert found.keys() == wanted.keys()
    return all(torch.equal(v, wanted[n]) if isinstance(v, torch.Tensor) else v == wanted[n] for n, v in found.items())


def test_all_of_a_training_state_comes_back(tmp_path):
    task, optimizer = trained()
    path = write(tmp_path, task, optimizer)
    assert sorted(file.name for file in path.iterdir()) == [".metadata", "__0_0.distcp", "meta.json", "state.pt"]
    assert [one.name for one in tmp_path.iterdir()] == ["step-00000003"]
    other, theirs = trained(seed=5)
    assert not same(task, other)
    state = checkpoint.load_state(path)
    distributed.load_into(path, Engine(other, theirs), state)
    assert same(task, other)
    assert other.b.weight is other.a.weight
    assert (other.pushed, other.scale.shape) == (7, ())
    assert state["scaler"] == {"scale": 2.0}
    wanted = optimizer.state_dict()
    found = theirs.state_dict()
    assert found["param_groups"] == wanted["param_groups"]
    for number, of in wanted["state"].items():
        assert of.keys() == found["state"][number].keys()
        assert all(torch.equal(value, found["state"][number][key]) for key, value in of.items())
    whole = distributed.read_task(path, state["rest"])
    assert whole.keys() == task.state_dict().keys()
    assert torch.equal(whole["b.weight"], task.a.weight)
    plain = checkpoint.write(tmp_path, meta(4), checkpoint.stage(Engine(task, optimizer).state()))
    found = distributed.read_task(plain, checkpoint.load_state(plain)["rest"])
    assert found.keys() == whole.keys()


def test_moments_go_by_their_names(tmp_path):
    """Parameters of a later run may be numbered otherwise."""
    task, optimizer = trained()
    path = write(tmp_path, task, optimizer)
    state = checkpoint.load_state(path)
    names = distributed.names_of(state["optimizer"])
    assert sorted(names.values()) == ["a.weight", "scale"]
    found = distributed.read_whole(path)
    for number, p in enumerate(optimizer.param_groups[0]["params"]):
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(found[f"optimizer.{names[number]}.{key}"], optimizer.state[p][key])


def test_what_is_staged_is_apart_from_what_trains_on(tmp_path):
    task, optimizer = trained()
    before = write(tmp_path / "a", task, optimizer)
    staged = distributed.stage(Engine(task, optimizer).state(), None, copied=True)
    with torch.no_grad():
        task.a.weight += 1
        task.scale += 1
        for of in optimizer.state.values():
            for value in of.values():
                value += 1
    after = distributed.write(tmp_path / "b", meta(), staged, None)
    one, other = distributed.read_whole(before), distributed.read_whole(after)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    steps = [checkpoint.load_state(path)["optimizer"]["state"][0]["step"] for path in (before, after)]
    assert torch.equal(*steps)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "meta.json", "state.pt"])
@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_torn_share_is_noticed_though_the_rest_is_whole(tmp_path, name, harm):
    task, optimizer = trained()
    for step in (1, 2):
        write(tmp_path, task, optimizer, step)
    file = tmp_path / "step-00000002" / name
    file.unlink() if harm == "gone" else file.write_bytes(file.read_bytes()[:-1])
    assert resuming.latest(tmp_path).name == "step-00000001"
    assert [path.name for path in resuming.torn(tmp_path)] == ["step-00000002"]


def test_a_share_of_the_right_length_that_is_damaged_is_named(tmp_path):
    task, optimizer = trained()
    path = write(tmp_path, task, optimizer)
    file = path / "__0_0.distcp"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(UserError, match=r"step-00000003: damaged \(.*resume from another checkpoint"):
        distributed.load_into(path, Engine(task, optimizer), checkpoint.load_state(path))


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("content", [pickle.dumps(Harm()), b"", b"no pickle", pickle.dumps(torch.Size([1]))])
def test_what_tells_of_the_shares_runs_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    task, optimizer = trained()
    path = write(tmp_path, task, optimizer)
    (path / ".metadata").write_bytes(content)
    with pytest.raises(UserError, match=r"\.metadata: damaged"):
        distributed.shapes_in(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(("change", "words"), [
    (lambda task: setattr(task, "scale", torch.nn.Parameter(torch.zeros(2))), r"task\.scale \(\) -> \(2,\)"),
    (lambda task: task.register_buffer("more", torch.zeros(1)), r"task\.more absent -> \(1,\)"),
    (lambda task: delattr(task, "empty"), r"task\.empty \(0, 4\) -> absent"),
])  # fmt: skip
def test_another_experiment_is_refused_by_name(tmp_path, change, words):
    task, optimizer = trained()
    path = write(tmp_path, task, optimizer)
    other, theirs = trained(seed=1)
    change(other)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(UserError, match=f"does not fit this experiment: {words}"):
        distributed.load_into(path, Engine(other, theirs), checkpoint.load_state(path))
    assert torch.equal(other.a.weight, before["a.weight"])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("No space left: unexpected")])
@pytest.mark.parametrize("where", ["dcp.save", "torch.save", "finish", "replace_folder"])
def test_a_write_that_breaks_leaves_what_was_there_and_no_part(tmp_path, monkeypatch, error, where):
    task, optimizer = trained()
    write(tmp_path, task, optimizer, 1)

    def full(*args, **kwargs):
        if where == "dcp.save":
            (tmp_path / ".part-00000002" / "__0_0.distcp").touch()
            raise CheckpointException("write", {1: (error, None)})
        raise error

    monkeypatch.setattr(f"mmkit.train.distributed.{where}", full)
    with pytest.raises(UserError, match=r"step-00000002: cannot be written \(.*No space left.*go on with --resume"):
        write(tmp_path, task, optimizer, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_folder_that_machines_do_not_share_is_refused(tmp_path, monkeypatch):
    task, optimizer = trained()
    save = distributed._save

    def elsewhere(part, *args):
        save(part, *args)
        (part / "__0_0.distcp").unlink()

    monkeypatch.setattr(distributed, "_save", elsewhere)
    with pytest.raises(UserError, match=r"__0_0\.distcp is not there: all machines must see the same folder"):
        write(tmp_path, task, optimizer)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_has_its_name_after_all_of_it_has_reached_the_disk(tmp_path, monkeypatch):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("the names of open files are told by Linux alone")
    seen, real = [], os.fsync

    def fsync(handle):
        there = sorted(path.name for path in tmp_path.iterdir())
        seen.append((os.path.basename(os.readlink(f"/proc/self/fd/{handle}")), there))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path, *trained())
    before = {name for name, there in seen if there == [".part-00000003"]}
    assert before >= {".metadata", "__0_0.distcp", "state.pt", "meta.json", ".part-00000003"}
    assert seen[-1] == (tmp_path.name, ["step-00000003"])
    assert seen[-2][0] == ".part-00000003"


def test_what_a_process_left_that_was_killed_while_it_wrote_goes(tmp_path):
    """In any phase; what has a name is whole."""
    task, optimizer = trained()
    kept = write(tmp_path, task, optimizer, 1)
    for number, names in ((2, []), (3, ["__0_0.distcp"]), (4, ["__0_0.distcp", ".metadata", "meta.json"])):
        (tmp_path / f".part-0000000{number}").mkdir()
        for name in names:
            (tmp_path / f".part-0000000{number}" / name).write_text("half")
    assert resuming.latest(tmp_path) == kept
    write(tmp_path, task, optimizer, 3)
    resuming.rotate(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
    assert json.loads((tmp_path / "step-00000003" / "meta.json").read_text())["files"].keys() == {
        ".metadata", "__0_0.distcp", "state.pt"
    }  # fmt: skip


# ---- several processes ----------------------------------------------------------------------------------------------


def run(steps, **changes):
    """Without dropout, so that it does not matter on which process a sample is."""
    exp = change(plain(6), data=dict(global_batch=12), optim=dict(rules=(muon_rules()[1], Rule(pattern=""))))
    return change(exp, run=dict(stop_after_steps=steps, save_every_steps=1, log_every_steps=1, **changes))


def training(rank, world, folder):
    """The environment that a launcher gives, for a run on these processes."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    return folder.parent


def on_two(rank, world, folder):
    """Begun by two; then a save of which one process's share does not fit on the disk."""
    out = training(rank, world, folder)
    train(run(2, engine="fsdp"), out / "chain", save_model=hub.save)
    train(run(2, engine="fsdp", save_in_background=False), out / "waiting", save_model=hub.save)
    writer, step = distributed.dcp.FileSystemWriter.write_data, loop.Trainer.take_step

    def full(self, *args, **kwargs):
        if rank == 1 and ".part-00000002" in str(self.path):
            raise OSError(28, "No space left on device")
        return writer(self, *args, **kwargs)

    def take_step(self, batches):
        if self.saving._background._thread is not None:
            self.saving._background._thread.join()  # so that it has failed before the next step
        step(self, batches)

    distributed.dcp.FileSystemWriter.write_data, loop.Trainer.take_step = full, take_step
    try:
        train(run(6, engine="fsdp"), out / "full")
    except UserError as error:
        (out / f"full-{rank}.txt").write_text(str(error))


def on_three(rank, world, folder):
    """From one file of one process, to shares of three."""
    out = training(rank, world, folder)
    train(run(4, engine="fsdp"), out / "chain", resume=True, save_model=hub.save)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A run on 2 processes under fsdp, on 1, on 3 under fsdp, on 1."""
    out = tmp_path_factory.mktemp("chain")
    for world, work, steps in ((2, on_two, 3), (3, on_three, 6)):
        place = out / str(world)
        place.mkdir()
        on_processes(world, work, place)
        newest = resuming.latest(out / "chain" / "checkpoints")
        shutil.copytree(newest, out / {2: "second", 3: "third"}[world])
        if world == 2:
            shutil.copytree(out / "chain", out / "beside")
        train(run(steps), out / "chain", resume=True, save_model=hub.save)
    return out


def test_any_engine_on_any_number_of_processes_goes_on(chain, tmp_path):
    """Weights, teacher, queue and both averages as one process has them that was never stopped."""
    train(run(6), tmp_path)
    found = {}
    for name, root in (("chain", chain / "chain"), ("alone", tmp_path)):
        path = resuming.latest(root / "checkpoints")
        assert path.name == "step-00000006"
        state = checkpoint.load_state(path)
        found[name] = distributed.read_task(path, state["rest"]), state["optimizer"]["state"]
    for one, other in zip(*found.values(), strict=True):
        assert one.keys() == other.keys()
    for name, value in found["alone"][0].items():
        torch.testing.assert_close(found["chain"][0][name], value, rtol=1e-3, atol=1e-4, msg=name)
    for number, of in found["alone"][1].items():
        assert found["chain"][1][number]["step"] == of["step"] == 6
        torch.testing.assert_close(found["chain"][1][number]["exp_avg"], of["exp_avg"], rtol=1e-2, atol=1e-4)


def test_shares_are_of_all_processes_and_the_checkpoint_tells_of_them(chain):
    for path, world in ((chain / "second", 2), (chain / "third", 3)):
        facts = json.loads((path / "meta.json").read_text())
        assert (facts["engine"], facts["world"], facts["mesh"]) == ("fsdp", world, {"shard": world})
        assert facts["versions"] == versions()
        assert facts["files"].keys() == {".metadata", "state.pt", *(f"__{rank}_0.distcp" for rank in range(world))}
        assert len(checkpoint.load_state(path)["random"]) == world


def test_the_model_for_use_is_that_of_the_checkpoint(chain):
    """Written in the background from a copy, and by processes that wait."""
    for name, kept in (("beside", "second"), ("waiting", "waiting/checkpoints/step-00000002")):
        task = distributed.read_task(chain / kept, {})
        model = load_file(chain / name / "model.safetensors")
        assert model.keys() <= task.keys()
        assert all(torch.equal(value, task[key]) for key, value in model.items())
        assert any(value.ndim == 0 for value in model.values())  # the temperature, as one process has it


def test_a_share_that_does_not_fit_stops_all_and_loses_nothing(chain):
    said = [(chain / f"full-{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "step-00000002: cannot be written (No space left on device" in said[0]
    assert [path.name for path in (chain / "full" / "checkpoints").iterdir() if path.name[0] != "."] == [
        "step-00000001"
    ]  # fmt: skip
    assert not list((chain / "full" / "checkpoints").glob(".part*"))


def test_a_checkpoint_of_the_background_is_that_of_processes_that_wait(chain):
    one = distributed.read_whole(chain / "second")
    other = distributed.read_whole(chain / "waiting" / "checkpoints" / "step-00000002")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
