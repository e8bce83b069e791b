"""No command writes into a folder of something else, or over a file before the new one is whole."""

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from mmkit.cli.main import check_outputs, main
from mmkit.hub import folder as hub
from mmkit.train.loop import train
from tests.train.fakes import tiny

CONFIG = """
from mmkit.config import Experiment
from tests.train.fakes import tiny

def c() -> Experiment:
    return tiny()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "run"
    train(tiny(run=dict(steps=3)), out, save_model=hub.save)
    return out


@pytest.fixture
def place(tmp_path):
    """A folder of the user's, records, a config, and what a folder holds."""
    (tmp_path / "mine" / "tokenizer").mkdir(parents=True)
    for name in ("thesis.txt", "model.safetensors", "tokenizer/mine.json", "image.onnx"):
        (tmp_path / "mine" / name).write_text(f"precious {name}")
    Image.new("RGB", (24, 24), "red").save(tmp_path / "a.png")
    (tmp_path / "records.jsonl").write_text('{"image": "a.png", "caption": "a red square"}\n' * 3)
    (tmp_path / "c.py").write_text(CONFIG)
    return tmp_path


def contents(folder):
    """All files but those that Python itself puts beside a config that it imports."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "__pycache__"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


COMMANDS = {
    "train": "train {place}/c.py --out {place}/mine",
    "train --resume": "train {place}/c.py --out {place}/mine --resume",
    "quickstart": "quickstart --out {place}/mine",
    "quickstart --resume": "quickstart --out {place}/mine --resume",
    "tokenizer": "tokenizer train {place}/records.jsonl --out {place}/mine --vocab-size 30",
    "export": "export --model {model} --out {place}/mine",
    "convert": "convert auto {model} {place}/mine",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_of_something_else_is_refused_by_every_command(name, place, model, capsys):
    before = contents(place)
    assert main([word.format(place=place, model=model) for word in COMMANDS[name].split()]) == 2
    assert contents(place) == before
    error = capsys.readouterr().err
    assert f"{place / 'mine'}: is not empty" in error
    assert "new folder" in error


def test_pictures_of_an_import_do_not_mix_with_others(place, capsys):
    (place / "out-images").mkdir()
    Image.new("RGB", (2, 2), "blue").save(place / "out-images" / "000000.png")
    before = contents(place)
    assert main(["data", "import", "builtin", "openmoji", str(place / "out.jsonl"), "--limit", "2"]) == 2
    assert contents(place) == before
    assert f"{place / 'out-images'}: is where pictures would go, and is not empty" in capsys.readouterr().err


def test_a_list_that_fails_half_way_leaves_the_old_one(place, monkeypatch):
    from mmkit import files

    def full(handle):
        raise OSError(28, "No space left on device")

    out, numbers = place / "answers.txt", place / "n.json"
    for path in (out, numbers):
        path.write_text("old")
    command = ["data", "build-answers", "--data", "easy-vqa", "--out", str(out), "--json", str(numbers)]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        assert main(command) == 2
    assert {path.read_text() for path in (out, numbers)} == {"old"}
    assert main(command) == 0
    assert "red" in out.read_text().split()
    assert json.loads(numbers.read_text())["answers"] == 13
    assert not [p for p in place.iterdir() if p.name.startswith(".")]


def test_a_picture_is_written_in_the_end(place, capsys):
    out = place / "sheet.png"
    out.write_text("old")
    assert main(["data", "show", str(place / "records.jsonl"), "--out", str(out), "--n", "2"]) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
    assert main(["data", "show", str(place / "records.jsonl"), "--out", str(place / "sheet.txt"), "--n", "2"]) == 2
    assert "sheet.txt: no kind of picture; give a name that ends in .png" in capsys.readouterr().err
    assert not (place / "sheet.txt").exists()


OVER = {
    "predictions over records": "retrieval --data {place}/records.jsonl --model x --predictions {place}/records.jsonl",
    "numbers over records": "data check {place}/records.jsonl --json {place}/./records.jsonl",
    "an import over its source": "data import csv {place}/labels.csv {place}/labels.csv",
    "a table by a link": "zeroshot --model {model} --data {place}/labels.csv --per-class {place}/link.csv",
    "a heat map over its picture": "explain --model {model} --image {place}/a.png --text red --out {place}/a.png",
    "a picture of a folder": "zeroshot --model {model} --data {place}/kinds --confusion {place}/kinds/red/a.png",
    "the model's config": "info {place}/saved --json {place}/saved/config.json",
    "two outputs": "zeroshot --model {model} --data {place}/kinds --json {place}/new.csv --per-class {place}/new.csv",
}  # fmt: skip


@pytest.mark.parametrize("name", OVER)
def test_no_output_takes_the_place_of_what_the_command_reads(name, place, model, capsys):
    for folder in ("kinds/red", "saved"):
        (place / folder).mkdir(parents=True)
    (place / "kinds" / "red" / "a.png").write_bytes((place / "a.png").read_bytes())
    (place / "saved" / "config.json").write_text("{}")
    (place / "labels.csv").write_text("image,label\na.png,red\n")
    (place / "link.csv").symlink_to(place / "labels.csv")
    before = contents(place)
    assert main([word.format(place=place, model=model) for word in OVER[name].split()]) == 2
    assert contents(place) == before
    assert "by this command too" in capsys.readouterr().err


def test_an_output_may_lie_beside_what_is_read_and_be_written_again(place):
    command = ["data", "check", str(place / "mine"), "--json", str(place / "mine" / "found.json")]
    (place / "mine" / "b.png").write_bytes((place / "a.png").read_bytes())
    for _ in range(2):
        (place / "mine" / "b.txt").write_text("a red square")
        main(command)
        assert json.loads((place / "mine" / "found.json").read_text())["images"] == 1
    (place / "mine" / "metrics.json").write_text("{}")
    check_outputs(argparse.Namespace(json=place / "mine" / "metrics.json", model=str(place / "mine")))
    check_outputs(argparse.Namespace(json=place / "mine" / "found.json", out=place / "mine", data=str(place / "mine")))
    check_outputs(argparse.Namespace(json=Path("/dev/null"), out=Path("/dev/null")))


def test_what_the_system_refuses_is_said_without_a_trace(place, capsys):
    name = "x" * 300
    assert main(["zeroshot", "--model", name, "--data", str(place / "records.jsonl")]) == 2
    assert "File name too long" in capsys.readouterr().err
    (place / "long.jsonl").write_text(json.dumps({"image": f"{name}.png", "caption": "red"}) + "\n")
    assert main(["data", "check", str(place / "long.jsonl")]) == 2
    assert "1 x missing picture" in capsys.readouterr().err


def test_a_tilde_that_no_shell_expanded_is_the_home(place, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place / "mine")
    before = contents(place / "mine")
    assert main(["data", "check", "~/records.jsonl", "--json=~/found.json"]) == 0
    assert json.loads((place / "found.json").read_text())["records"] == 3
    assert contents(place / "mine") == before
    assert main(["data", "show", "~/records.jsonl", "--out=~/records.jsonl"]) == 2
    assert "by this command too" in capsys.readouterr().err
