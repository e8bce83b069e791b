"""A model and a tokenizer that come from ``init`` or ``first`` without being spelled again."""

import shutil

import pytest

from mmkit.config import validate
from mmkit.config.override import arguments_of
from mmkit.errors import UserError
from mmkit.hub import folder as hub
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
