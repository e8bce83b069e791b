"""Files of others: what stands around the weights, what is damaged, and a pickle that would run a program."""

import argparse
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmkit.convert.locate import find_weights
from mmkit.convert.read_file import read_checkpoint, write_checkpoint
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
    save_file(STATE, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {}}')
    assert read_checkpoint(tmp_path).config == {"num_attention_heads": 3}
    assert read_checkpoint(tmp_path / "open_clip_model.safetensors").config == {"model_cfg": {}}
    (tmp_path / "config.json").unlink()
    assert read_checkpoint(tmp_path).config == {"model_cfg": {}}


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
    torch.save({"generator": STATE, "step": torch.tensor(3)}, tmp_path / "v.pth")  # a step alone is no model
    with pytest.raises(UserError, match=r"holds no weights, but a mapping of generator \(dict\), step \(Tensor\)"):
        read_checkpoint(tmp_path / "v.pth")


def test_the_weights_in_a_folder_of_other_files(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"is in it; put model\.safetensors there$"):
        find_weights(tmp_path)
    (tmp_path / "theirs.pth").touch()
    assert find_weights(tmp_path) == tmp_path / "theirs.pth"
    (tmp_path / "pytorch_model.bin.index.json").touch()
    assert find_weights(tmp_path) == tmp_path / "pytorch_model.bin.index.json"
    (tmp_path / "pytorch_model.bin").touch()
    assert find_weights(tmp_path) == tmp_path / "pytorch_model.bin"


def test_no_message_tells_how_to_run_the_code_of_a_file(tmp_path):
    """As PyTorch's own does, of the form in which it wrote files before 0.1.12."""
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            file.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match=r"x\.tar: damaged, or not a file that torch\.save wrote \(RuntimeError\)$"):
        read_checkpoint(tmp_path / "x.tar")


@pytest.mark.parametrize("wrapper", [("model",), ("model", "state_dict"), ("ema", "model")])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_written_files_are_read(tmp_path, name, wrapper):
    tied = STATE | {"c": STATE["b"]}
    write_checkpoint(tmp_path / "new" / name, tied, wrapper)
    found = read_checkpoint(tmp_path / "new" / name)
    assert same(found.state, tied)
    assert found.wrapper == (wrapper if name.endswith("pth") else ())


PREFIXES = ["_orig_mod.", "module._orig_mod.", "net.", "model.", "module.model._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", ["model", "state_dict", "module", "params", "net", "model_ema", "params_ema", "ema"])
def test_wrappers_of_training_programs_are_taken_off_and_said(tmp_path, prefix, key, caplog):
    content = {key: {f"{prefix}{name}": value for name, value in STATE.items()}, "epoch": 7, "best": np.float64(0.5)}
    torch.save(content | {"optimizer": {"state": {0: {"step": np.int64(3)}}}}, tmp_path / "x.pth")
    with caplog.at_level("INFO"):
        found = read_checkpoint(tmp_path / "x.pth")
    assert same(found.state, STATE)
    assert (found.wrapper, found.prefix, found.beside["best"]) == ((key,), prefix, 0.5)
    assert f"begins with '{prefix}'" in caplog.text


def test_numbers_beside_tensors_are_no_weights_but_a_temperature_is(tmp_path):
    content = {"visual.proj": torch.ones(2), "logit_scale": np.float32(2.5), "step": 9, "lr": 0.1, "optimizer": {}}
    torch.save(content, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth")
    assert set(found.state) == {"visual.proj", "logit_scale"}
    assert found.state["logit_scale"].item() == 2.5
    assert set(found.beside) == {"step", "lr", "optimizer"}
    torch.save({"module.visual.proj": torch.ones(2), "module.logit_scale": 2.5, "module.step": 9.0}, tmp_path / "y.pth")
    assert set(read_checkpoint(tmp_path / "y.pth").state) == {"visual.proj", "logit_scale"}


def test_compiled_parts_within_names_and_models_of_our_own(tmp_path):
    torch.save({"visual._orig_mod.proj": torch.ones(2), "text.a": torch.ones(1)}, tmp_path / "x.pth")
    assert set(read_checkpoint(tmp_path / "x.pth").state) == {"visual.proj", "text.a"}
    torch.save({"model.image.cls": torch.ones(2), "model.text.a": torch.ones(1)}, tmp_path / "y.pth")
    assert set(read_checkpoint(tmp_path / "y.pth").state) == {"model.image.cls", "model.text.a"}


def test_what_only_some_names_begin_with_belongs_to_them(tmp_path):
    for name in ("module.a", "model.a", "net.a", "state_dict.a", "visual.a"):
        torch.save({name: torch.ones(2), "head.b": torch.ones(1)}, tmp_path / "x.pth")
        found = read_checkpoint(tmp_path / "x.pth")
        assert (set(found.state), found.prefix, found.parallel) == ({name, "head.b"}, "", False)


def test_of_several_weights_which_are_taken(tmp_path, caplog):
    other = {name: value + 1 for name, value in STATE.items()}
    torch.save({"model_ema": other, "model": STATE, "epoch": 1}, tmp_path / "x.pth")
    assert same(read_checkpoint(tmp_path / "x.pth").state, STATE)
    assert "under model, model_ema: those under model are taken; --weights model_ema" in caplog.text
    assert same(read_checkpoint(tmp_path / "x.pth", "model_ema").state, other)
    torch.save({"model_ema": {"state_dict": other, "decay": 0.9}, "model": STATE}, tmp_path / "deep.pth")
    found = read_checkpoint(tmp_path / "deep.pth", "model_ema")
    assert same(found.state, other)
    assert (found.wrapper, found.others) == (("model_ema", "state_dict"), ("model",))
    assert (found.beside.keys(), found.beside["decay"]) == ({"model", "decay"}, 0.9)
    with pytest.raises(UserError, match="--weights ema: there are no such weights; it holds model, model_ema"):
        read_checkpoint(tmp_path / "x.pth", "ema")
    save_file(STATE, tmp_path / "y.safetensors")
    with pytest.raises(UserError, match="--weights ema: there are no weights of that name"):
        read_checkpoint(tmp_path / "y.safetensors", "ema")


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_several_files(tmp_path, kind):
    names, parts = sorted(STATE), {}
    for i, name in enumerate(names):
        parts[name] = f"part-{min(i, 1)}{kind[-12:]}"
    for file in set(parts.values()):
        held = {name: STATE[name] for name in names if parts[name] == file}
        save_file(held, tmp_path / file) if kind.endswith("s") else torch.save(held, tmp_path / file)
    index = tmp_path / f"{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}), encoding="utf-8-sig")
    assert same(read_checkpoint(tmp_path).state, STATE)
    index.write_text(json.dumps({"weight_map": parts | {"z.w": parts[names[0]]}}))
    with pytest.raises(UserError, match=r"its files lack z\.w"):
        read_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": parts | {"z.w": "none.bin"}}))
    with pytest.raises(UserError, match=r"names none\.bin, which is not beside it"):
        read_checkpoint(tmp_path)
    for wrong in ({}, {"weight_map": ["a"]}, {"weight_map": {"a": 3}}):
        index.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"index\.json: has no weight_map"):
            read_checkpoint(tmp_path)


def test_an_index_names_no_file_outside_of_its_folder(tmp_path):
    theirs, other = tmp_path / "theirs", tmp_path / "x.safetensors"
    theirs.mkdir()
    save_file(STATE, other)
    (theirs / "link.safetensors").symlink_to(other)
    for name in ("../x.safetensors", str(other), "link.safetensors"):
        (theirs / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(STATE, name)}))
        with pytest.raises(UserError, match="leads out of its folder"):
            read_checkpoint(theirs)
