"""``mmkit detect`` as a user calls it, with a small DETR that was saved."""

import json

import pytest
import torch
from PIL import Image

from mmkit.cli import main
from mmkit.cli.detect import _of_kinds
from mmkit.config import dump, load_experiment, override
from mmkit.config.experiment import Experiment
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.openmoji.expressions import Expressions
from mmkit.data.openmoji.kinds import emoji_names, first_kinds
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.vision import vision_mini
from projects.detection.head import DETR


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A DETR that was not trained, of the classes of the built-in scenes."""
    folder = tmp_path_factory.mktemp("detect") / "run"
    exp = load_experiment("projects/detection/config.py:openmoji(size=48, steps=1)")
    exp = override(exp, ["heads.detect.decoder=1", "heads.detect.queries=4"])
    torch.manual_seed(0)
    model = exp.model()
    heads = {"detect": exp.heads["detect"](model.spec)}
    assert isinstance(exp, Experiment)
    hub.save(folder, Predictor(model, heads, None, EvalTransform(size=48), max_tokens=0), dump(exp))
    return folder


GROUNDING = {
    "config.py:openmoji": ["heads.ground.decoder=1", "heads.ground.enhancer=1"],
    "glip_config.py:glip": ["heads.ground.depth=1"],
}


@pytest.fixture(scope="module", params=GROUNDING)
def grounding(tmp_path_factory, request):
    """A Grounding DINO or GLIP that was not trained, which asks for the 200 kinds where nobody says otherwise."""
    folder = tmp_path_factory.mktemp("ground") / "run"
    exp = load_experiment(f"projects/grounding/{request.param}(size=48, steps=1)")
    exp = override(exp, ["heads.ground.phrases=100", *GROUNDING[request.param]])
    torch.manual_seed(0)
    tokenizer = SentencePieceTokenizer.train([*emoji_names(first_kinds(200)), "a dog."] * 3, 200)
    model = exp.model(vocab_size=tokenizer.vocab_size)
    heads = {"ground": exp.heads["ground"](model.spec)}
    hub.save(folder, Predictor(model, heads, tokenizer, EvalTransform(size=48), max_tokens=32), dump(exp))
    return folder


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"scene{i}.png")
        Scenes(split="test", n=2, size=64 + 32 * i, plain=True, people=0.0)[i].image.save(paths[-1])
    return paths


def detect(run, *more, code=0):
    assert main(["detect", "--model", str(run), *map(str, more)]) == code


def test_one_picture_as_a_table_as_json_and_drawn(run, pictures, tmp_path, capsys):
    file, out = tmp_path / "found.json", tmp_path / "found.png"
    detect(run, "--image", pictures[0], "--threshold", 0, "--top", 3, "--json", file, "--out", out)
    said = json.loads(file.read_text())
    assert len(said["boxes"]) == len(said["scores"]) == len(said["labels"]) == 3
    assert said["scores"] == sorted(said["scores"], reverse=True)
    assert all(0 <= side <= 64 for box in said["boxes"] for side in box)
    assert said["pictures"][0]["image"] == str(pictures[0])
    assert said["pictures"][0]["labels"] == said["labels"]
    assert said["labels"][0] in capsys.readouterr().out
    assert Image.open(out).size == (320, 320)  # 64 pixels would be too few to read a name on


def test_several_pictures_in_one_folder_and_nothing_above_the_threshold(run, pictures, tmp_path, capsys):
    detect(run, "--image", *pictures, "--threshold", 1, "--out", tmp_path / "drawn", "--json", tmp_path / "f.json")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["scene0.png", "scene1.png"]
    said = json.loads((tmp_path / "f.json").read_text())
    assert [one["boxes"] for one in said["pictures"]] == [[], []]
    assert "boxes" not in said
    assert capsys.readouterr().out.count("nothing from 1 up") == 2


def test_data_are_measured_and_all_that_was_found_is_written(run, tmp_path):
    numbers, found = tmp_path / "n.json", tmp_path / "found.json"
    rows = tmp_path / "scenes.jsonl"
    lines = []
    for i in range(3):
        record = Scenes(split="test", n=3, size=48, plain=True, people=0.0)[i]
        record.image.save(tmp_path / f"{i}.png")
        lines.append({"image": f"{i}.png", "image_id": str(i + 5), "boxes": record.targets["boxes"]})
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    detect(run, "--data", rows, "--json", numbers, "--predictions", found)
    said = json.loads(numbers.read_text())
    assert {"ap", "ap50", "ap75", "n", "classes", "chance_ap"} <= said.keys()
    assert said["n"] == 3
    assert said["boxes"] == sum(len(line["boxes"]) for line in lines)
    written = json.loads(found.read_text())
    assert {row["image_id"] for row in written} == {5, 6, 7}
    assert len(written) == 3 * 100
    assert all(1 <= row["category_id"] <= 200 for row in written)


def asked(run, picture, tmp_path, *more):
    file = tmp_path / "found.json"
    detect(run, "--image", picture, "--threshold", 0, "--json", file, *more)
    return json.loads(file.read_text())


def test_any_words_are_found_and_a_missing_full_stop_changes_nothing(grounding, pictures, tmp_path):
    said = asked(grounding, pictures[0], tmp_path, "--text", "a dog. a red canoe.")
    assert set(said["labels"]) == {"a dog", "a red canoe"}
    assert asked(grounding, pictures[0], tmp_path, "--text", "a dog. a red canoe") == said
    other = asked(grounding, pictures[0], tmp_path, "--text", "a red canoe. a dog")
    assert other["scores"] == pytest.approx(said["scores"], abs=1e-5)


def test_classes_of_a_file_may_hold_full_stops(grounding, pictures, tmp_path):
    (tmp_path / "names.txt").write_text("st. bernard\ncat\n")
    said = asked(grounding, pictures[0], tmp_path, "--classes", tmp_path / "names.txt")
    assert set(said["labels"]) == {"st. bernard", "cat"}


def test_all_its_own_classes_in_chunks_where_nobody_says_otherwise(grounding, tmp_path):
    numbers = tmp_path / "n.json"
    Scenes(split="test", n=1, size=48, plain=True, people=0.0)[0].image.save(tmp_path / "a.png")
    boxes = [{"name": emoji_names(first_kinds(200))[150], "box": [1, 1, 20, 20]}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.png", "image_id": "1", "boxes": boxes}) + "\n")
    detect(grounding, "--data", tmp_path / "a.jsonl", "--json", numbers, "--predictions", tmp_path / "p.json")
    assert json.loads(numbers.read_text())["n"] == 1
    ids = {row["category_id"] for row in json.loads((tmp_path / "p.json").read_text())}
    assert min(ids) <= 100 < max(ids) <= 200


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("give either --text WORDS or --classes FILE", ["--text", "a dog", "--classes", "x.txt"]),
        ("--text: there is nothing to look for", ["--text", " . "]),
        ("'a dog' is asked for twice", ["--text", "a dog. a dog."]),
        ("this model reads at most 31 of one", ["--text", "dog " * 40]),
    ],
)
def test_words_that_it_cannot_ask_for(grounding, pictures, said, more, capsys):
    detect(grounding, "--image", pictures[0], *more, code=2)
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_detector_with_classes_of_its_own_cannot_be_asked(run, pictures, capsys):
    detect(run, "--image", pictures[0], "--text", "a dog", code=2)
    assert "cannot be asked for others" in capsys.readouterr().err


def test_people_are_left_out_of_built_in_scenes():
    source = _of_kinds(Scenes(split="test", n=40, size=48, plain=True, people=0.5))
    kinds = set(emoji_names(first_kinds(200)))
    assert {box["name"] for i in range(40) for box in source[i].targets["boxes"]} <= kinds
    assert len(source) == 40


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("give either --image", []),
        ("give either --image FILE, or --data RECORDS", ["--image", "a.png", "--data", "openmoji"]),
        ("--max-bad belongs to --data", ["--image", "a.png", "--max-bad", "0"]),
        ("--predictions belongs to --data", ["--image", "a.png", "--predictions", "x.json"]),
        ("--threshold belongs to --image", ["--data", "openmoji", "--threshold", "0.5"]),
        ("--threshold 2.0: a score is from 0 to 1", ["--image", "a.png", "--threshold", "2"]),
        ("2 pictures need a folder", ["--image", "a.png", "b.png", "--out", "x.png"]),
        ("no kind of picture", ["--image", "a.png", "--out", "x.json"]),
    ],
)
def test_what_it_refuses(run, said, more, capsys):
    detect(run, *more, code=2)
    assert said in capsys.readouterr().err


def test_a_model_that_finds_nothing_says_so(tmp_path, pictures, capsys):
    exp = load_experiment("configs/pretrain/classify.py:openmoji(size=48)")
    model = vision_mini(image_size=48)
    heads = {"class": exp.heads["class"](model.spec)}
    hub.save(tmp_path / "m", Predictor(model, heads, None, EvalTransform(size=48), max_tokens=0), dump(exp))
    detect(tmp_path / "m", "--image", pictures[0], code=2)
    assert "this model finds no objects; its heads: class" in capsys.readouterr().err
    assert not isinstance(heads["class"], DETR)


def test_each_picture_is_asked_for_its_own_expressions_and_phrases(grounding, tmp_path, capsys):
    lines = []
    for i in range(2):
        record = Expressions(split="test", n=2, size=48, plain=True)[i]
        record.image.save(tmp_path / f"{i}.png")
        said = {name: record.targets[name] for name in ("boxes", "bare", "alike", "detections", "phrases")}
        lines.append({"image": f"{i}.png", "caption": record.captions[0], **said})
    rows = tmp_path / "expressions.jsonl"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbers, told = tmp_path / "n.json", tmp_path / "told.jsonl"
    detect(grounding, "--data", rows, "--rule", "referring", "--rounds", 5, "--json", numbers, "--predictions", told)
    said = json.loads(numbers.read_text())
    assert {"acc50", "acc50_low", "acc50_high", "chance", "bare", "n", "phrases", "cut"} <= said.keys()
    assert (said["rule"], said["n"], said["phrases"], said["bare"]["chance"]) == ("referring", 2, 2, 0.5)
    assert len(told.read_text().splitlines()) == 4
    assert "2 phrases in 2 pictures" in capsys.readouterr().out
    detect(grounding, "--data", rows, "--rule", "merged-box", "--json", numbers)
    assert {"r1", "r5", "r10", "r_all"} <= json.loads(numbers.read_text()).keys()


def test_a_rule_of_phrases_asks_for_what_the_data_say(grounding, run, tmp_path, capsys):
    detect(grounding, "--data", "openmoji-expressions", "--rule", "referring", "--text", "a dog", code=2)
    assert "leave out --text and --classes" in " ".join(capsys.readouterr().err.split())
    detect(run, "--data", "openmoji-expressions", "--rule", "any-box", code=2)
    assert "finds classes of its own" in " ".join(capsys.readouterr().err.split())
