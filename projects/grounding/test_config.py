"""The runs of Grounding DINO: they survive JSON, never box what is never boxed, and learn expressions of one's own."""

import json
import pickle

import pytest
import torch
from PIL import Image

from mmkit.config import dump, load_experiment, override, rebuild, validate
from mmkit.data.openmoji.expressions import Expressions
from mmkit.train.loop import train
from projects.grounding.targets import Asking
from projects.grounding.telling import Telling

CONFIG = "projects/grounding/config.py"


@pytest.mark.parametrize("name", ["openmoji", "referring", "openmoji(told=False)", "referring(bare=0.2)"])
def test_it_is_an_experiment_that_survives_json(name):
    made = dump(validate(load_experiment(f"{CONFIG}:{name}")))
    assert dump(rebuild(json.loads(json.dumps(made)))) == made


def test_kinds_that_are_never_boxed_are_told_of_by_captions_or_never_asked_for():
    told = load_experiment(f"{CONFIG}:openmoji(size=36, kinds=10, captions=0.5)")
    strict = load_experiment(f"{CONFIG}:openmoji(size=36, kinds=10, told=False)")
    assert [part().pool for part in told.data.train.keywords["parts"]] == ["boxed", "all"]
    assert strict.data.train().pool == "boxed"
    assert (told.data.targets.func, strict.data.targets.func) == (Telling, Asking)
    groups = told.evals["detection"].keywords["groups"]
    for experiment, head in ((told, (True, True)), (strict, (False, False))):
        assert experiment.data.targets.keywords["unknown"] == groups["unboxed"]
        given = experiment.heads["ground"].keywords
        assert (given["told"], given["sentences"]) == head
    assert (len(groups["boxed"]), len(groups["unboxed"])) == (8, 2)


def test_a_share_of_the_expressions_loses_its_relation():
    parts = load_experiment(f"{CONFIG}:referring(size=48, bare=0.2)").data.train.keywords
    assert parts["weights"] == (0.8, 0.2)
    whole, bare = (part() for part in parts["parts"])
    assert (whole.bare, bare.bare) == (False, True)
    assert whole[0].captions[0] != bare[0].captions[0]
    assert isinstance(load_experiment(f"{CONFIG}:referring(size=48)").data.train(), Expressions)


def test_refcocos_expressions_train_and_are_measured_by_split(tmp_path):
    (tmp_path / "train2014").mkdir()
    for i in (1, 2):
        Image.new("RGB", (64, 48), ("red", "blue")[i - 1]).save(tmp_path / f"train2014/{i}.jpg")
    said = [{"sent": "the left thing"}, {"sent": "it"}]
    refs = [
        {"ref_id": i, "ann_id": 10 + i, "image_id": i, "split": ("train", "testA")[i - 1], "sentences": said}
        for i in (1, 2)
    ]
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs))
    whole = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in (1, 2)],
        "annotations": [{"id": 10 + i, "image_id": i, "bbox": [2, 2, 20, 30], "category_id": 1} for i in (1, 2)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(whole))
    file, folder = f"{tmp_path}/refs(unc).p", str(tmp_path)
    experiment = override(
        load_experiment(
            f"{CONFIG}:expressions(train='{file}', images='{folder}', split='train', test='{file}', "
            f"test_images='{folder}', test_split='testA', size=48, steps=1, batch=2)"
        ),
        ["data.workers=0", "run.save_every_steps=0", "run.trackers=[]", "tokenizer.vocab_size=25"],
    )
    torch.manual_seed(0)
    metrics = train(experiment, tmp_path / "run")
    assert metrics["detection.phrases"] == 2
    assert metrics["detection.n"] == 1
    assert metrics["detection.split.testA.acc50"] == metrics["detection.acc50"]
    assert metrics["detection.acc50_low"] <= metrics["detection.acc50"] <= metrics["detection.acc50_high"]
