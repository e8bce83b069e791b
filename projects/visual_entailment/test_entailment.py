"""The published files, the configs, and mirrored pictures whose hypotheses stay true."""

import json

import pytest
from PIL import Image

import mmkit
from mmkit.config import dump, load_experiment, override, rebuild, validate
from mmkit.data.loader import PairDataset
from mmkit.data.records import Record
from mmkit.errors import UserError
from mmkit.hub.folder import save
from mmkit.train.stages import train_stages
from projects.visual_entailment.data import CLASSES, SNLIVE

CONFIG = "projects/visual_entailment/config.py"
SMALL = [
    "data.global_batch=4", "data.train.n=16", "run.trackers=[]", "run.log_every_steps=1", "run.precision=no",
]  # fmt: skip
ROWS = [
    {
        "Flickr30K_ID": "3416050480", "gold_label": "neutral", "captionID": "3416050480.jpg#4",
        "pairID": "3416050480.jpg#4r1n", "sentence1": "A person on a horse.", "sentence2": "A person trains his horse.",
    },
    {"Flickr30K_ID": "3416050480", "gold_label": "contradiction", "sentence2": "A person is at a diner."},
    {"Flickr30K_ID": "10", "gold_label": "-", "sentence2": "Nobody knows."},
    {"Flickr30K_ID": 10, "gold_label": "entailment", "sentence2": "A person is outdoors, on a horse."},
]  # fmt: skip


def published(folder, rows=ROWS):
    for name in ("3416050480", "10"):
        Image.new("RGB", (20, 10)).save(folder / f"{name}.jpg")
    path = folder / "snli_ve_dev.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_published_lines_are_read(tmp_path):
    source = SNLIVE(published(tmp_path), images=tmp_path)
    assert [CLASSES[source[i].targets["label"]] for i in range(len(source))] == [
        "neutral", "contradiction", "entailment",
    ]  # fmt: skip
    assert list(source.captions())[2] == "a person is outdoors on a horse"
    assert source[2].image == tmp_path / "10.jpg"
    assert source[2].key.endswith("dev.jsonl:4")
    assert source[0].image_id == source[1].image_id != source[2].image_id
    assert SNLIVE(tmp_path / "snli_ve_dev.jsonl", images=tmp_path, words=None)[0].captions == (ROWS[0]["sentence2"],)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold_label": "maybe"}, '"gold_label" must be one of'),
        ({"Flickr30K_ID": "99"}, "no picture .*99.jpg"),
        ({"sentence2": ""}, '"sentence2" must be some words'),
    ],
)
def test_bad_lines_are_named(tmp_path, change, message):
    path = published(tmp_path, [ROWS[0], {**ROWS[1], **change}])
    with pytest.raises(UserError, match=f"dev.jsonl:2: .*{message}"):
        SNLIVE(path, images=tmp_path)


def test_a_missing_file_and_malformed_lines_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        SNLIVE(tmp_path / "snli_ve_dev.jsonl", images=tmp_path)
    path = published(tmp_path)
    path.write_text('{"sentence2": \n{"sentence2": "x"}')
    with pytest.raises(UserError, match=r"(?s)jsonl:1: malformed.*jsonl:2: no key \"Flickr30K_ID\", \"gold_label\""):
        SNLIVE(path, images=tmp_path)


class Letters:
    """A tokenizer that keeps the text."""

    vocab_size, pad_id = 128, 0

    def encode(self, text, max_tokens, kind):
        return [ord(letter) for letter in text][:max_tokens]


class OneSided:
    """A picture whose left half is white, and a hypothesis that says so."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        image = Image.new("RGB", (16, 16))
        image.paste((255, 255, 255), (0, 0, 8, 16))
        return Record(image=image, captions=("the light is left of the dark",), image_id="0", key="0")


def test_a_mirrored_picture_mirrors_its_hypothesis():
    transform = load_experiment(f"{CONFIG}:openmoji").data.transform(size=16)
    data = PairDataset(source=OneSided(), transform=transform, tokenizer=Letters(), max_tokens=99, seed=3)
    sides = set()
    for epoch in range(20):
        sample = data[epoch, 0]
        seen = sample.pixels.normalised()
        light_is_left = bool(seen[0, :, 0].mean() > seen[0, :, -1].mean())
        text = "".join(map(chr, sample.ids))
        assert text == f"the light is {'left' if light_is_left else 'right'} of the dark"
        sides.add(light_is_left)
    assert sides == {True, False}


@pytest.mark.parametrize(
    "spec", ["openmoji", "openmoji(start='scratch')", "openmoji(start='run')", "snli_ve(start='run')"]
)
def test_every_config_validates_and_survives_json(spec):
    experiment = validate(load_experiment(f"{CONFIG}:{spec}"), world=2)
    assert dump(rebuild(json.loads(json.dumps(dump(experiment))))) == dump(experiment)


def test_two_stages_run_and_the_model_loads_from_its_path(tmp_path):
    spec = f"{CONFIG}:openmoji(steps=2, size=48, kinds=40)"
    small = [*SMALL, *(f"first.{change}" for change in SMALL), "evals.test.source.n=6", "first.run.steps=2"]
    small += ["first.run.save_every_steps=0", "first.evals.retrieval.source.n=6", "first.tokenizer.vocab_size=120"]
    experiment = override(load_experiment(spec), small)
    numbers = train_stages(experiment, tmp_path / "run", save_model=save)
    assert numbers["test.n"] == 6
    again = experiment.evals["test"]()(mmkit.load(tmp_path / "run"))
    assert {f"test.{name}": value for name, value in again.items()}.items() <= numbers.items()
    assert set(mmkit.load(tmp_path / "run").heads["label"].classes) == set(CLASSES)
