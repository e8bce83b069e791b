"""The runs of GLIP on built-in scenes: they survive JSON, and measure boxed and unboxed kinds apart."""

import json

import pytest
import torch
from PIL import Image

from mmkit.config import dump, load_experiment, override, rebuild, validate
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from mmkit.train.loop import train

CONFIG = "projects/grounding/glip_config.py"


@pytest.mark.parametrize("name", ["glip", "phrases"])
def test_it_is_an_experiment_that_survives_json(name):
    made = dump(validate(load_experiment(f"{CONFIG}:{name}")))
    assert dump(rebuild(json.loads(json.dumps(made)))) == made


def test_kinds_that_are_never_boxed_are_measured_apart():
    experiment = load_experiment(f"{CONFIG}:glip(size=36, kinds=10)")
    parts = experiment.data.train.keywords["parts"]
    assert [part().pool for part in parts] == ["boxed", "all"]
    groups = experiment.evals["detection"].keywords["groups"]
    others = Scenes(kinds=10, size=36, plain=True, people=0.0, pool="unboxed", n=20)
    assert set(groups["unboxed"]) == {box["name"] for record in others for box in record.targets["boxes"]}
    assert experiment.data.targets.keywords["unknown"] == groups["unboxed"]
    assert len(groups["boxed"]) == 8
    assert {*groups["boxed"], *groups["unboxed"]} == set(experiment.heads["ground"].keywords["classes"])
    assert experiment.evals["detection"].keywords["source"]().pool == "all"


@pytest.fixture
def start(tmp_path):
    """A run whose towers and words another may start from."""
    torch.manual_seed(0)
    folder, tokenizer = tmp_path / "start", SentencePieceTokenizer.train(["a dog left of a canoe. a cat"] * 9, 40)
    exp = load_experiment(f"{CONFIG}:phrases(size=48, kinds=10)")
    model = exp.model(vocab_size=tokenizer.vocab_size)
    heads = {"ground": exp.heads["ground"](model.spec)}
    hub.save(folder, Predictor(model, heads, tokenizer, EvalTransform(size=48), max_tokens=32), dump(exp))
    return folder


def test_own_pictures_are_asked_for_by_the_names_of_their_boxes_or_by_their_captions(start, tmp_path):
    Image.new("RGB", (60, 40), "white").save(tmp_path / "a.png")
    boxes = [{"name": "dog", "box": [3, 4, 23, 30]}, {"name": "canoe", "box": [30, 4, 58, 20]}]
    named = {"image": "a.png", "boxes": boxes}
    phrases = [{"caption": 0, "spans": [[0, 5], [14, 21]], "boxes": [0, 1]}]
    for name, more in (("names", {}), ("captions", {"caption": "a dog left of a canoe", "phrases": phrases})):
        file = tmp_path / f"{name}.jsonl"
        file.write_text((json.dumps({**named, **more}) + "\n") * 4)
        experiment = override(
            load_experiment(f"{CONFIG}:own(train='{file}', test='{file}', start='{start}', size=48, steps=1, batch=4)"),
            ["data.workers=0", "run.save_every_steps=0", "run.trackers=[]"],
        )
        assert dump(rebuild(json.loads(json.dumps(dump(experiment))))) == dump(experiment)
        metrics = train(experiment, tmp_path / f"run-{name}")
        assert metrics["found.classes" if name == "names" else "found.phrases"] == (2 if name == "names" else 4)
        assert ("found.random_names_ap50" in metrics) == (name == "names")
        asked = experiment.heads["ground"].keywords["classes"]
        assert asked == (("canoe", "dog") if name == "names" else ())
    with pytest.raises(UserError, match=r"told=1\.0 is of captions with phrases, and these data have none"):
        load_experiment(f"{CONFIG}:own(train='{tmp_path}/names.jsonl', start='{start}', told=1.0)")
    assert (
        load_experiment(f"{CONFIG}:own(train='{file}', start='{start}', told=1.0)").heads["ground"].keywords["told"]
        == 1
    )
    nameless = tmp_path / "none.jsonl"
    nameless.write_text(json.dumps({"image": "a.png", "boxes": [{"label": 0, "box": [3, 4, 23, 30]}]}) + "\n")
    with pytest.raises(UserError, match=r"none\.jsonl: its boxes have no names"):
        load_experiment(f"{CONFIG}:own(train='{nameless}', start='{start}')")
