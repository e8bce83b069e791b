"""A model and a tokenizer that come from ``init`` or ``first`` without being spelled again."""

import json
import shutil
import sys
from functools import partial

import pytest
from torch import nn

from mmkit.config import validate
from mmkit.config.override import arguments_of
from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.train import inherit
from mmkit.train.inherit import inherited
from mmkit.train.loop import train
from mmkit.train.stages import train_stages
from tests.train.fakes import change, tiny
from tests.train.test_stages import two_stages


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inherit") / "start"
    train(tiny(run=dict(steps=3)), folder, save_model=hub.save)
    return folder


def following(start, **changes):
    return change(tiny(**changes), model=None, tokenizer=None, init={"model": str(start)})


def test_the_model_and_the_words_of_init(start, tmp_path):
    found = inherited(following(start), tmp_path)
    assert arguments_of(found.model) == arguments_of(tiny().model)
    assert found.tokenizer.keywords == {"path": str(start / "tokenizer")}


def test_it_trains_at_another_size_and_loads_by_its_path_alone(start, tmp_path):
    exp = following(start, run=dict(steps=3), data=dict(image_size=48))
    train(exp, tmp_path / "run", save_model=hub.save)
    model = hub.load(tmp_path / "run")
    assert model.transform.size == 48
    assert (tmp_path / "run/tokenizer/sentencepiece.model").read_bytes() == (
        start / "tokenizer/sentencepiece.model"
    ).read_bytes()


def test_it_goes_on_where_the_start_is_gone(start, tmp_path):
    moved = shutil.copytree(start, tmp_path / "start")
    exp = following(moved, run=dict(steps=4))
    train_stages(change(exp, run=dict(stop_after_steps=2)), tmp_path / "run", save_model=hub.save)
    shutil.rmtree(moved)
    assert train_stages(exp, tmp_path / "run", resume=True, save_model=hub.save)["step"] == 4
    assert train_stages(exp, tmp_path / "run", resume=True, save_model=hub.save)["step"] == 4  # done already


def test_the_model_of_the_run_before(tmp_path):
    exp = two_stages()
    found = inherited(change(exp, model=None, data=dict(image_size=48)), tmp_path)
    assert arguments_of(found.model) == {**arguments_of(exp.first.model), "image_size": 48}
    train_stages(change(exp, model=None), tmp_path / "run", save_model=hub.save)
    assert "answer" in hub.load(tmp_path / "run").heads


def test_what_is_spelled_stays(start, tmp_path):
    exp = change(tiny(), init={"model": str(start)})
    assert inherited(exp, tmp_path) is exp


def test_the_words_of_a_start_are_told_by_it_or_where_it_is_gone_by_the_run(tmp_path):
    start, own = tmp_path / "start", tmp_path / "own"
    for folder in (start, own):
        folder.mkdir()
    assert inherit._reads_words(str(start), own)  # nothing is known; that it is no model is said later
    for tokenizer in (None, {"target": "x", "args": {}}):
        (own / inherit.EXPERIMENT).write_text(json.dumps({"args": {"tokenizer": tokenizer}}))
        assert inherit._reads_words(str(start), own) == (tokenizer is not None)
    (start / "config.json").touch()
    assert not inherit._reads_words(str(start), own)
    (start / "tokenizer").mkdir()
    assert inherit._reads_words(str(start), own)


def test_a_stage_whose_start_is_gone_finds_it_in_its_own_folder(start, tmp_path):
    exp = two_stages()
    exp = change(exp, first=change(exp.first, model=None, tokenizer=None, init={"model": str(tmp_path / "gone")}))
    own = tmp_path / "run" / exp.first.subfolder
    own.mkdir(parents=True)
    shutil.copy(start / inherit.EXPERIMENT, own)
    found = inherited(exp, tmp_path / "run")
    assert arguments_of(found.first.model) == arguments_of(tiny().model)
    assert found.first.tokenizer is not None
    with pytest.raises(UserError, match="not the folder of a model"):
        inherited(change(exp.first, subfolder=""), tmp_path / "run")


def test_a_model_without_a_size_of_pictures_keeps_its_arguments():
    def sizeless(width, vocab_size=0):
        pass

    def sized(width, image_size=32):
        pass

    exp = tiny(data=dict(image_size=48))
    found = [inherit._sized(partial(make, 3), exp) for make in (sizeless, sized)]
    assert [(part.func, part.args, part.keywords) for part in found] == [
        (sizeless, (3,), {}), (sized, (3,), {"image_size": 48})
    ]  # fmt: skip


def test_a_model_is_rebuilt_by_its_present_name(start, tmp_path):
    old = shutil.copytree(start, tmp_path / "old")
    said = json.loads((old / "config.json").read_text())
    name = said["model"]["target"]
    assert name == "mmkit.models.sizes.albef:albef"
    said["model"]["target"] = "mmkit.models.sizes:albef"
    (old / "config.json").write_text(json.dumps(said))
    found = inherited(following(old), tmp_path)
    assert arguments_of(found.model) == arguments_of(tiny().model)


def test_code_of_ones_own_is_found_where_the_start_says_that_it_lay(tmp_path, monkeypatch):
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text("def make(image_size=32, vocab_size=0):\n    pass\n")
    (tmp_path / "start").mkdir()
    said = {"model": {"target": f"{name}:make", "args": {"image_size": 32}}}
    said["own"] = {name: str(tmp_path / "code" / f"{name}.py")}
    (tmp_path / "start" / "config.json").write_text(json.dumps(said))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError, match=f"--allow {name}"):
        inherited(following(tmp_path / "start"), tmp_path)
    found = inherited(following(tmp_path / "start"), tmp_path, (name,))
    assert (found.model.func.__module__, found.model.keywords) == (name, {"image_size": 32})
    del sys.modules[name]


class Sight(nn.Module):
    """A model whose image tower is what it is told."""

    def __init__(self, tower):
        super().__init__()
        self.image = tower


def test_a_tower_that_no_other_model_can_take_over_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"resolved": {}}')
    size = {"depth": 1, "width": 8, "heads": 2}
    for tower, fine in (
        (ViT(image_size=(16, 16), patch=(8, 8), **size), True), (nn.Linear(2, 2), False),
        (ViT(image_size=(2, 16, 16), patch=(2, 8, 8), **size), False),
    ):  # fmt: skip
        monkeypatch.setattr(inherit, "_saved", lambda start, own, allow, tower=tower: partial(Sight, tower))
        if fine:
            assert inherit.image_tower(tmp_path, 24).keywords["image_size"] == 24
            continue
        with pytest.raises(UserError, match="its image tower is no ViT of mmkit over pictures"):
            inherit.image_tower(tmp_path, 24)


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_no_model_there_is_said_before_training(tmp_path, where):
    with pytest.raises(UserError, match=r"not the folder of a model .* names no model.*mmkit convert auto"):
        train_stages(following(tmp_path / where), tmp_path / "run", save_model=hub.save)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_somebody_else_describes_no_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vilt"}')
    with pytest.raises(UserError, match=r"config.json: describes no model; `mmkit info"):
        inherited(following(tmp_path), tmp_path)


@pytest.mark.parametrize(("name", "needs"), [("model", "a run"), ("tokenizer", r"model \(albef\) .* this run")])
def test_a_run_needs_them_from_somewhere(name, needs):
    with pytest.raises(UserError, match=rf"{name}: {needs} needs one, or init\['model'\] or a `first` run"):
        validate(change(tiny(), **{name: None}))
