import logging
import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from mmkit.evals import text_bank
from mmkit.evals.text_bank import class_bank
from mmkit.evals.zeroshot import ZeroShot
from mmkit.inference.fingerprint import fingerprint, settings
from mmkit.nn.mlp import QuickGELU
from tests.evals.parts import COLOURS, Pictures, predictor

TEMPLATES = ("a {} box", "{}")


@pytest.fixture
def counted(monkeypatch):
    """A model, and how many texts it has encoded."""
    model, seen = predictor(), []
    encode = model.model.encode_text
    model.model.encode_text = lambda ids, mask: seen.append(len(ids)) or encode(ids, mask)
    return model, seen


def test_it_is_made_once_and_read_again(counted, tmp_path):
    model, seen = counted
    first = class_bank(model, COLOURS, TEMPLATES, folder=tmp_path)
    assert sum(seen) == len(COLOURS) * len(TEMPLATES)
    second = class_bank(model, COLOURS, TEMPLATES, folder=tmp_path)
    assert sum(seen) == len(COLOURS) * len(TEMPLATES)
    assert torch.equal(first, second)
    assert torch.equal(first, class_bank(model, COLOURS, TEMPLATES))
    results = [ZeroShot(source=Pictures(9), templates=TEMPLATES, bank_folder=f)(model) for f in (None, tmp_path)]
    assert results[0] == results[1]


def test_whatever_changes_it_gives_it_another_name():
    model = predictor()
    keys = {fingerprint(model, COLOURS, TEMPLATES), fingerprint(predictor(), COLOURS, TEMPLATES)}
    assert len(keys) == 1
    keys |= {fingerprint(model, COLOURS[:-1], TEMPLATES), fingerprint(model, COLOURS, TEMPLATES[::-1])}
    model.precision = "bf16"
    keys.add(fingerprint(model, COLOURS, TEMPLATES))
    model.precision = "float32"
    with torch.no_grad():
        model.model.text_proj.weight[0, 0] += 1
    keys.add(fingerprint(model, COLOURS, TEMPLATES))
    assert len(keys) == 5


def other_activation(model):
    for place, module in model.named_modules():
        if isinstance(module, nn.GELU):
            model.get_submodule(place.rpartition(".")[0]).act = QuickGELU()


def other_eps(model):
    next(m for m in model.modules() if isinstance(m, nn.LayerNorm)).eps *= 10


def other_heads(model):
    next(m for m in model.modules() if isinstance(getattr(m, "heads", None), int)).heads = 1


@pytest.mark.parametrize("change", [other_activation, other_eps, other_heads])
def test_equal_weights_in_a_model_built_otherwise_get_another_bank(change, tmp_path):
    model, other = predictor(), predictor()
    change(other.model)
    assert all(torch.equal(a, b) for a, b in zip(model.model.parameters(), other.model.parameters(), strict=True))
    assert fingerprint(model, COLOURS, TEMPLATES) != fingerprint(other, COLOURS, TEMPLATES)
    for made in (model, other):
        assert torch.equal(class_bank(made, COLOURS, TEMPLATES, folder=tmp_path), class_bank(made, COLOURS, TEMPLATES))
    assert len(list(tmp_path.iterdir())) == 2


class Called:
    """What Python shows by its address."""

    def __call__(self):
        pass


def test_the_settings_tell_what_differs_and_nothing_of_this_process():
    model = predictor().model
    model.anything, model.kept, model.called = (lambda x: x), partial(torch.mul, other=2.0), Called()
    before = list(settings(model))
    assert not any("0x" in row for row in before)
    model.kept = partial(torch.mul, other=3.0)
    model.train()
    assert [a != b for a, b in zip(before, settings(model), strict=True)] == [True, *[False] * (len(before) - 1)]


def test_how_pictures_are_prepared_counts_too():
    """``mmkit features`` goes by the same digest."""
    model, other = predictor(), predictor()
    other.transform = replace(other.transform, mean=(0.5, 0.5, 0.5))
    assert fingerprint(model, COLOURS, TEMPLATES) != fingerprint(other, COLOURS, TEMPLATES)


def test_a_damaged_file_is_made_anew_and_an_unwritable_folder_is_only_a_warning(counted, tmp_path, caplog):
    model, seen = counted
    logging.getLogger("mmkit").propagate = True
    first = class_bank(model, COLOURS, TEMPLATES, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    assert torch.equal(class_bank(model, COLOURS, TEMPLATES, folder=tmp_path), first)
    assert sum(seen) == 2 * len(COLOURS) * len(TEMPLATES)
    assert "made anew" in caplog.text
    (tmp_path / "file").write_text("in the way")
    assert torch.equal(class_bank(model, COLOURS, TEMPLATES, folder=tmp_path / "file"), first)
    assert "cannot be kept" in caplog.text


def test_the_folder_of_the_commands(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert text_bank.cache_folder() == tmp_path / "mmkit" / "text-banks"


def test_of_the_commands_own_folder_the_last_used_stay_and_nothing_else_is_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(text_bank, "KEPT", 3)
    model, folder, elsewhere = predictor(), text_bank.cache_folder(), tmp_path / "mine"
    for place in (folder, elsewhere):
        place.mkdir(parents=True)
        for number in range(4):
            (place / f"{number:032x}.safetensors").write_bytes(b"old")
            os.utime(place / f"{number:032x}.safetensors", (number, number))
        for name in ("notes.txt", "model.safetensors", "g" * 32 + ".safetensors"):
            (place / name).write_text("mine")
            os.utime(place / name, (0, 0))
    class_bank(model, COLOURS, TEMPLATES, folder=folder)
    class_bank(model, COLOURS, TEMPLATES, folder=elsewhere)
    first = f"{fingerprint(model, COLOURS, TEMPLATES)}.safetensors"
    own = {"notes.txt", "model.safetensors", f"{'g' * 32}.safetensors"}
    assert {path.name for path in folder.iterdir()} == own | {first, f"{2:032x}.safetensors", f"{3:032x}.safetensors"}
    assert len(list(elsewhere.iterdir())) == 4 + 3 + 1
    os.utime(folder / first, (1, 1))
    class_bank(model, COLOURS, TEMPLATES, folder=folder)  # read, and so used last
    class_bank(model, COLOURS, ("{}",), folder=folder)
    assert (folder / first).exists()
    assert not (folder / f"{2:032x}.safetensors").exists()
