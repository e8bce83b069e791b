"""Files of others: what stands around the weights, what is damaged, and a pickle that would run a program."""

import argparse
import pickle

import pytest
import torch
from safetensors.torch import save_file

from mmkit.convert.read_file import find_weights, read_checkpoint, write_checkpoint
from mmkit.errors import UserError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([3])}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("wrapper", [(), ("model",), ("state_dict",), ("model", "state_dict")])
def test_wrappers_are_taken_off(tmp_path, suffix, parallel, wrapper):
    content = {f"module.{key}": value for key, value in STATE.items()} if parallel else STATE
    for name in reversed(wrapper):
        content = {name: content, "epoch": 7, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=1e-4)}
    torch.save(content, tmp_path / f"x{suffix}")
    found = read_checkpoint(tmp_path / f"x{suffix}")
    assert same(found.state, STATE)
    assert found.wrapper == wrapper
    assert found.parallel == parallel
    assert found.beside.get("epoch") == (7 if wrapper else None)


def test_safetensors_a_folder_and_its_config(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 3}')
    found = read_checkpoint(tmp_path)
    assert same(found.state, STATE)
    assert found.config == {"num_attention_heads": 3}


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", ["torch", "pickle", "old"])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path, form):
    proof, path = tmp_path / "proof", tmp_path / "x.pth"
    content = {"model": STATE, "extra": Hostile(proof)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(UserError, match=r"x\.pth: refused.*would run code.*safetensors"):
        read_checkpoint(path)
    assert not proof.exists()


def test_damage_and_absence_are_said(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"nothing of the kind")
    (tmp_path / "y.safetensors").write_bytes(b"nothing of the kind")
    for name in ("x.pth", "y.safetensors"):
        with pytest.raises(UserError, match=rf"{name}.*(damaged|refused)"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint(tmp_path / "z.pth")
    with pytest.raises(UserError, match=r"x\.pth, y\.safetensors"):
        find_weights(tmp_path)
    torch.save({"epoch": 3, "loss": [1.0]}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"epoch \(int\)"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_written_files_are_read(tmp_path, name):
    tied = STATE | {"c": STATE["b"]}
    write_checkpoint(tmp_path / "new" / name, tied, ("model",))
    found = read_checkpoint(tmp_path / "new" / name)
    assert same(found.state, tied)
    assert found.wrapper == (("model",) if name.endswith("pth") else ())
