"""``mmkit caption`` as a user calls it: pictures, a data set, how to write, and what is refused."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from mmkit.cli import main
from mmkit.config import dump
from mmkit.data.clip import Clip
from mmkit.data.records import Record
from mmkit.data.show import tasks
from mmkit.heads.captioning import Captioner
from mmkit.hub import folder as hub
from tests.evals.captions.test_evaluate import writing
from tests.evals.parts import Pictures
from tests.train.fakes import change, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model that writes, and records."""
    root = tmp_path_factory.mktemp("caption")
    predictor = writing()
    predictor.heads = {"caption": predictor.heads["caption"]}
    head = partial(Captioner, depth=1, heads=2, max_tokens=12)
    hub.save(root / "model", predictor, dump(change(tiny(), heads={"caption": head})))
    source, lines = Pictures(5), []
    for i in range(5):
        source[i].image.save(root / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "caption": list(source[i].captions)}) + "\n")
    (root / "records.jsonl").write_text("".join(lines))
    return root


def run(folder, *arguments):
    return main(["caption", "--model", str(folder / "model"), "--device", "cpu", *(str(a) for a in arguments)])


def test_pictures(folder, tmp_path, capsys):
    files = [folder / "1.png", folder / "3.png"]
    assert run(folder, "--image", *files, "--json", tmp_path / "a.json", "--beams", 2) == 0
    found = json.loads((tmp_path / "a.json").read_text())["captions"]
    assert [one["image"] for one in found] == [str(file) for file in files]
    shown = capsys.readouterr().out
    assert all(one["caption"].split()[0] in shown for one in found if one["caption"])


def test_a_sheet_of_pictures_above_their_captions(folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(tasks, "sheet", lambda records: drawn.extend(records) or Image.new("RGB", (9, 9)))
    files, out = [folder / "1.png", folder / "3.png"], tmp_path / "sheet.png"
    assert run(folder, "--image", *files, "--json", tmp_path / "a.json", "--out", out) == 0
    said = [one["caption"] for one in json.loads((tmp_path / "a.json").read_text())["captions"]]
    assert [(record.image, record.captions) for record in drawn] == [
        (file, (text,)) for file, text in zip(files, said, strict=True)
    ]
    assert Image.open(out).size == (9, 9)


def test_a_sheet_shows_pictures_and_frames_with_ink_below(folder):
    words = Record(image=folder / "1.png", captions=("two words",), image_id="", key="")
    clip = replace(words, image=Clip([folder / "1.png"] * 4))
    empty = replace(words, captions=("",))
    one, wide, bare = (tasks.sheet([record]) for record in (words, clip, empty))
    assert wide.width > 2 * one.width
    assert one.height > bare.height
    assert np.asarray(one.crop((0, bare.height - 14, one.width, one.height)).convert("L")).min() < 60


def test_a_data_set_with_its_result_file(folder, tmp_path, capsys):
    options = ("--predictions", tmp_path / "c.json", "--json", tmp_path / "n.json", "--max-new-tokens", 6)
    assert run(folder, "--data", folder / "records.jsonl", *options) == 0
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert {"bleu1", "bleu4", "rouge_l", "cider_d", "n", "references_min", "words"} <= numbers.keys()
    assert numbers["n"] == 5
    assert "CIDEr-D" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "c.json").read_text())) == 5


def test_drawn_words_differ_by_the_seed_alone(folder, tmp_path):
    found = []
    for seed in (1, 1, 2):
        way = ("--sample", "--temperature", 3, "--seed", seed, "--max-new-tokens", 8, "--json", tmp_path / "d.json")
        assert run(folder, "--image", folder / "0.png", *way) == 0
        found.append((tmp_path / "d.json").read_text())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "either --image"),
        (("--image", "a.png", "--data", "records.jsonl"), "either --image"),
        (("--image", "0.png", "--predictions", "p.json"), "--predictions belongs to --data"),
        (("--image", "0.png", "--top-p", 0.9), "--top-p is about drawn words"),
        (("--image", "0.png", "--beams", 0), "beams"),
        (("--image", "0.png", "--max-new-tokens", 40), "at most"),
        (("--image", "gone.png"), "gone.png"),
        (("--data", "records.jsonl", "--out", "s.png"), "--out belongs to --image"),
        (("--image", "0.png", "--out", "s.xyz"), "s.xyz"),
    ],
)
def test_what_is_refused(folder, monkeypatch, arguments, named, capsys):
    monkeypatch.chdir(folder)
    assert run(folder, *arguments) == 2
    assert named in capsys.readouterr().err
