"""A process that is killed at any phase of a save: what has a name is whole, and the run goes on bit for bit."""

import os
import shutil
from functools import partial

import pytest
import torch
import torch.multiprocessing as mp

from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.train import checkpoint, distributed, resuming, saving
from mmkit.train.loop import train
from tests.several import METHOD
from tests.train.fakes import change, tiny, weights
from tests.train.test_checkpoint import Tied, meta
from tests.train.test_distributed import trained
from tests.train.test_distributed import write as write_shares


def run():
    return tiny(run=dict(steps=6, save_every_steps=2))


def dies(phase, out):
    """The run until the phase of its second save."""
    torch.set_num_threads(1)
    calls = []

    def then(real, *args, before=True, **kwargs):
        calls.append(1)
        found = real(*args, **kwargs) if not before or len(calls) < 2 else None
        if len(calls) == 2:
            os._exit(9)
        return found

    def half(part, meta, staged):
        if meta.step == 4:
            part.mkdir(parents=True)
            (part / "task.safetensors").write_bytes(b"half")
            os._exit(9)
        fill(part, meta, staged)

    fill = checkpoint._fill
    if phase == "staging":
        checkpoint.stage = partial(then, checkpoint.stage)
    if phase == "writing":
        checkpoint._fill = half
    if phase == "before the rename":
        checkpoint.replace_folder = partial(then, checkpoint.replace_folder)
    if phase == "after the rename":
        resuming.rotate = partial(then, resuming.rotate)
    if phase == "before the mark of the model":
        saving.write_json = partial(then, saving.write_json)
    train(run(), out, save_model=hub.save)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    train(run(), out, save_model=hub.save)
    return out


@pytest.mark.parametrize(("phase", "kept"), [
    ("staging", 2), ("writing", 2), ("before the rename", 2), ("after the rename", 4),
    ("before the mark of the model", 4),
])  # fmt: skip
def test_a_run_that_was_killed_while_it_saved_goes_on_bit_for_bit(tmp_path, whole, phase, kept):
    out = tmp_path / "run"
    process = mp.get_context(METHOD).Process(target=dies, args=(phase, out))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert resuming.latest(out / "checkpoints").name == f"step-0000000{kept}"
    assert resuming.torn(out / "checkpoints") == []
    shutil.copytree(out, tmp_path / "stopped")
    assert train(change(run(), run=dict(stop_after_steps=kept)), tmp_path / "stopped", resume=True,
                 save_model=hub.save)["step"] == kept  # fmt: skip
    model, state = hub.load(tmp_path / "stopped").model.state_dict(), weights(tmp_path / "stopped")
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in model.items())
    train(run(), out, resume=True, save_model=hub.save)
    one, other = weights(out), weights(whole)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        ".model.json", "step-00000004", "step-00000006"
    ]  # fmt: skip


def test_where_no_folder_can_be_made_both_kinds_say_so(tmp_path):
    root = tmp_path / "checkpoints"
    root.write_text("a file")
    task, optimizer = trained()
    state = distributed.State(task=Tied().state_dict(), optimizer={})
    for write in (lambda: checkpoint.write(root, meta(), checkpoint.stage(state)),
                  lambda: write_shares(root, task, optimizer)):  # fmt: skip
        with pytest.raises(UserError, match=r"step-00000003: cannot be written \(.*go on with --resume"):
            write()
    assert root.read_text() == "a file"
