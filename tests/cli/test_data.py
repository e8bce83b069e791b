"""``mmkit data import`` and ``build-answers``: files, numbers, and clear refusals."""

import json

import numpy as np
import pytest
from PIL import Image, ImageColor

from mmkit.cli.main import main
from mmkit.data.order import Order
from tests.train.fakes import COLOURS


@pytest.fixture
def vqa(tmp_path):
    """Twelve questions in VQA's published form: ten answered "yes" by all, one "no", one "red"."""
    asked = [{"image_id": 1, "question_id": i, "question": f"number {i}?"} for i in range(12)]
    given = ["yes"] * 10 + ["no", "red"]
    answered = [
        {"question_id": i, "answers": [{"answer": a}] * 10, "multiple_choice_answer": a, "answer_type": "other"}
        for i, a in enumerate(given)
    ]
    (tmp_path / "q.json").write_text(json.dumps({"data_subtype": "val2014", "questions": asked}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": answered}))
    (tmp_path / "val2014").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val2014" / "COCO_val2014_000000000001.jpg")
    return tmp_path


def test_import_then_build_answers(vqa, capsys):
    out = vqa / "vqa.jsonl"
    arguments = ["vqa", str(vqa / "q.json"), str(out), "--annotations", str(vqa / "a.json")]
    assert main(["data", "import", *arguments, "--json", str(vqa / "n.json")]) == 0
    assert json.loads((vqa / "n.json").read_text())["records"] == 12
    assert json.loads(out.read_text().splitlines()[10])["answers"] == ["no"] * 10
    assert main(["data", "import", *arguments]) == 2
    assert "exists already" in capsys.readouterr().err

    answers = vqa / "answers.txt"
    build = ["data", "build-answers", "--data", str(out), "--out", str(answers), "--json", str(vqa / "b.json")]
    assert main(build) == 0
    assert answers.read_text() == "yes\n"  # nine times or more
    found = json.loads((vqa / "b.json").read_text())
    assert (found["answers"], found["questions"]) == (1, 12)
    assert found["covered"] == pytest.approx(10 / 12)
    assert main([*build, "--min-count", "1"]) == 0
    assert answers.read_text() == "yes\nno\nred\n"
    assert main([*build, "--top", "2"]) == 0
    assert answers.read_text() == "yes\nno\n"
    assert main([*build, "--min-count", "11"]) == 2
    assert "no answer occurs 11 times; the most frequent is 'yes', 10 times" in capsys.readouterr().err


def test_build_answers_from_the_published_files(vqa, capsys):
    answers = vqa / "answers.txt"
    twice = ["--data", str(vqa / "q.json"), "--annotations", str(vqa / "a.json")] * 2
    assert main(["data", "build-answers", *twice, "--out", str(answers), "--min-count", "2"]) == 0
    assert answers.read_text() == "yes\nno\nred\n"
    assert main(["data", "build-answers", "--data", str(vqa / "q.json"), "--out", str(answers)]) == 2
    assert "--annotations" in capsys.readouterr().err
    assert main(["data", "build-answers", *twice[:2], *twice[:4], "--out", str(answers)]) == 2
    assert "1 --annotations for 2 files of VQA's questions" in capsys.readouterr().err
    assert main(["data", "build-answers", *twice, "--out", str(answers), "--top", "2", "--min-count", "2"]) == 2
    assert "not both" in capsys.readouterr().err


def test_build_answers_from_vqa_and_visual_genome(vqa, capsys):
    (vqa / "vg").mkdir()
    Image.new("RGB", (8, 8)).save(vqa / "vg" / "1.jpg")
    qas = [{"qa_id": i, "question": "what?", "answer": "A tree."} for i in range(3)]
    (vqa / "vg.json").write_text(json.dumps([{"id": 1, "qas": qas}]))
    answers = vqa / "answers.txt"
    given = ["--data", str(vqa / "vg.json"), "--data", str(vqa / "q.json"), "--annotations", str(vqa / "a.json")]
    build = ["data", "build-answers", *given, "--out", str(answers), "--min-count", "3"]
    assert main([*build, "--images", str(vqa / "vg"), "--images", str(vqa)]) == 0
    assert answers.read_text() == "yes\ntree\n"
    assert main(build) == 2
    assert "missing picture" in capsys.readouterr().err
    assert main([*build[:-3], str(vqa), "--min-count", "3"]) == 2
    assert f"--out {vqa}: is a folder" in capsys.readouterr().err
    assert main([*build, *(["--images", str(vqa)] * 3)]) == 2
    assert "3 --images for 2 --data" in capsys.readouterr().err
    assert main([*build, "--annotations", str(vqa / "a.json")]) == 2
    assert "2 --annotations for 1 files" in capsys.readouterr().err


def test_show_questions(tmp_path, monkeypatch):
    assert main(["data", "show", "easy-vqa:test", "--out", str(tmp_path / "sheet.png"), "--n", "2"]) == 0
    assert Image.open(tmp_path / "sheet.png").width == 2 * (220 + 14) + 14


@pytest.mark.parametrize("folder", ["class", "loose"])
def test_show_pictures_without_captions(tmp_path, folder):
    (tmp_path / "class" / "red").mkdir(parents=True)
    (tmp_path / "loose").mkdir()
    place = tmp_path / "class" / "red" if folder == "class" else tmp_path / "loose"
    Image.new("RGB", (22, 22), "red").save(place / "0.png")
    assert main(["data", "show", str(tmp_path / folder), "--out", str(tmp_path / "sheet.png")]) == 0
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.getpixel((100, 100)) == (255, 0, 0)
    words = np.asarray(sheet.convert("RGB"))[14 + 220 + 6 :].min()
    assert (words < 200) == (folder == "class")  # the name of the class below


def test_show_a_configs_own_view(tmp_path, capsys):
    (tmp_path / "config.py").write_text("""
from dataclasses import replace
from functools import partial
from tests.train.fakes import tiny
from mmkit.config import Experiment
from mmkit.data.images.transforms import TrainTransform

def plain(mean: float = 0.5) -> Experiment:
    whole = partial(TrainTransform, scale=(1.0, 1.0), flip=0.0, randaugment=None, mean=(mean,) * 3, std=(0.1,) * 3)
    return replace(tiny(), data=replace(tiny().data, transform=whole, masking=None))

def grey() -> Experiment:
    return replace(plain(), data=replace(plain().data, blank_images=True))

def later() -> Experiment:
    return replace(plain(), first=plain(), tokenizer=None, subfolder="later")
""")
    colours = {}
    for name in ("plain", "plain(mean=0.2)", "grey", "later"):
        config, out = f"{tmp_path}/config.py:{name}", tmp_path / f"{name}.png"
        assert main(["data", "show", config, "--n", "1", "--out", str(out), "--json", str(tmp_path / "n")]) == 0
        assert json.loads((tmp_path / "n").read_text())["samples"] == 1
        colours[name] = Image.open(out).getpixel((100, 100))
    batch = int(Order(size=40).at(0, np.arange(1))[0])  # the first that a run with this seed takes
    assert colours["plain"] == colours["plain(mean=0.2)"] == colours["later"] == ImageColor.getrgb(COLOURS[batch % 10])
    assert colours["grey"] == (128, 128, 128)
    assert main(["data", "show", config, "--out", str(out), "--split", "test"]) == 2
    assert "--split: has no meaning for a config" in capsys.readouterr().err


def test_import_refuses(tmp_path, capsys):
    assert main(["data", "import", "csv", str(tmp_path / "no.csv"), str(tmp_path / "o.jsonl")]) == 2
    assert "no such file; expected a table" in capsys.readouterr().err
    assert main(["data", "import", "builtin", "openmoji", str(tmp_path / "o.jsonl"), "--limit", "0"]) == 2
    assert "--limit 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "import", "voc", "a", "b"])
    assert "karpathy" in capsys.readouterr().err
