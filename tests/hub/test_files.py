"""The files of a model's folder: which folder is mmkit's, how its JSON is read, and that nothing leads out of it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from mmkit.errors import UserError
from mmkit.hub.files import has_words, is_ours, needed, read_json, shapes_in


def test_a_folder_of_mmkit_has_all_of_three(tmp_path):
    assert not is_ours(tmp_path)
    keys = ("format", "experiment", "model")
    for left in (*keys, None):
        (tmp_path / "config.json").write_text(json.dumps({key: 1 for key in keys if key != left} | {"more": 2}))
        assert is_ours(tmp_path) == (left is None)


def test_json_has_present_names_and_is_strict(tmp_path):
    part = {"target": "mmkit.models.sizes:albef", "args": {"x": [{"reference": "mmkit.data.masking:Masking"}]}}
    (tmp_path / "a.json").write_text(json.dumps({"model": part, "heads": [part]}))
    now = {
        "target": "mmkit.models.sizes.albef:albef", "args": {"x": [{"reference": "mmkit.data.texts.masking:Masking"}]}
    }  # fmt: skip
    assert read_json(tmp_path / "a.json") == {"model": now, "heads": [now]}
    for damaged in ("[1]", '{"a": NaN}', "{"):
        (tmp_path / "a.json").write_text(damaged)
        with pytest.raises(UserError, match=r"a\.json: .*(copy it again|expected a JSON object)"):
            read_json(tmp_path / "a.json")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.json").symlink_to(tmp_path / "a.json")
    with pytest.raises(UserError, match="leads out of its folder"):
        read_json(tmp_path / "folder" / "a.json")


def test_what_a_model_needs_is_there_and_leads_nowhere_else(tmp_path):
    folder = tmp_path / "model"
    (folder / "tokenizer" / "deep").mkdir(parents=True)
    (folder / "config.json").touch()
    assert needed(folder, "tokenizer") == folder / "tokenizer"
    assert needed(folder, "config.json") == folder / "config.json"
    (folder / "model.safetensors").mkdir()
    for name in ("preprocessing.json", "model.safetensors"):
        with pytest.raises(UserError, match=rf"{name}: missing; copy the whole folder"):
            needed(folder, name)
    (tmp_path / "other").mkdir()
    for place in ("tokenizer/deep/link", "tokenizer/deep", "tokenizer"):
        at = folder / place
        if at.is_dir():
            at.rmdir()
        at.symlink_to(tmp_path / "other")
        with pytest.raises(UserError, match="leads out of its folder"):
            needed(folder, "tokenizer")
        at.unlink()
    (folder / "tokenizer").touch()
    with pytest.raises(UserError, match="tokenizer: missing"):
        needed(folder, "tokenizer")


def test_shapes_of_weights_or_what_is_wrong_with_them(tmp_path):
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.float32)}, tmp_path / "w.safetensors")
    assert shapes_in(tmp_path / "w.safetensors") == {"a": (2, 3), "b": ()}
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    for name in ("x.safetensors", "none.safetensors"):
        with pytest.raises(UserError, match=rf"{name}: damaged or not a safetensors file"):
            shapes_in(tmp_path / name)


def test_a_model_without_a_vocabulary_has_no_words():
    assert has_words({"resolved": {"vocab_size": 9}})
    assert not has_words({"resolved": {}})
    for of_0_1_0 in ({}, {"resolved": None}):
        assert has_words(of_0_1_0)
