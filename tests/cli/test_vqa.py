"""``mmkit vqa`` as a user calls it: one picture, a file of questions, and what is refused."""

import json
import logging

import pytest

from mmkit import hub
from mmkit.cli import main
from mmkit.train.stages import train_stages
from tests.train.fakes import COLOURS, Squares, change
from tests.train.test_stages import two_stages


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose second stage answers, in ``answers`` inside; questions about four squares."""
    root = tmp_path_factory.mktemp("vqa")
    exp = two_stages()
    exp = change(exp, folder="answers", first=change(exp.first, folder=""))
    train_stages(exp, root / "run", save_model=hub.save)
    lines = []
    for i in range(4):
        Squares()[i].image.save(root / f"{i}.png")
        row = {"image": f"{i}.png", "question": "what colour is it?", "answers": [COLOURS[i]], "answer_type": "colour"}
        lines.append(json.dumps(row) + "\n")
    (root / "records.jsonl").write_text("".join(lines))
    return root


def run(folder, *arguments, model="run/answers"):
    return main(["vqa", "--model", str(folder / model), "--device", "cpu", *(str(a) for a in arguments)])


def test_one_picture(folder, tmp_path, capsys):
    arguments = ("--image", folder / "1.png", "--question", "what is it?", "--top", 3)
    assert run(folder, *arguments, "--json", tmp_path / "a") == 0
    found = json.loads((tmp_path / "a").read_text())["answers"]
    assert len(found) == 3
    assert found == sorted(found, key=lambda answer: -answer["score"])
    assert found[0]["answer"] in capsys.readouterr().out


def test_a_file_of_questions(folder, tmp_path):
    assert run(folder, "--data", folder / "records.jsonl", "--json", tmp_path / "a.json") == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["n"] == 4
    assert found["by_type"]["colour"] == found["accuracy"]


def test_a_list_of_ones_own(folder, tmp_path):
    (tmp_path / "answers.txt").write_text("green\nred\n")
    arguments = ("--image", folder / "1.png", "--question", "what is it?", "--answers", tmp_path / "answers.txt")
    assert run(folder, *arguments, "--json", tmp_path / "a.json") == 0
    assert {a["answer"] for a in json.loads((tmp_path / "a.json").read_text())["answers"]} == {"red", "green"}


def test_the_stage_that_answers_is_found(folder, caplog):
    logging.getLogger("mmkit").propagate = True
    assert run(folder, "--image", folder / "1.png", "--question", "what is it?", model="run") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "0.png"), "--question"),
        (("--data", "records.jsonl", "--image", "0.png", "--question", "x"), "--data"),
        (("--image", "0.png", "--question", "x", "--top", "0"), "--top 0"),
        (("--image", "none.png", "--question", "x"), "none.png"),
        (("--data", "none.jsonl"), "none.jsonl"),
        (("--image", "0.png", "--question", "x", "--generate"), "write answers freely"),
        (("--image", "0.png", "--question", "x", "--answers", "no.txt"), "no.txt"),
    ],
)
def test_what_is_refused(folder, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert run(folder, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_missing_model(folder, capsys):
    assert run(folder, "--image", folder / "1.png", "--question", "x", model="nothing") == 2
    assert "nothing" in capsys.readouterr().err


def test_a_list_without_right_answers(folder, tmp_path, capsys):
    (tmp_path / "answers.txt").write_text("pink\npurple\n")
    assert run(folder, "--data", folder / "records.jsonl", "--answers", tmp_path / "answers.txt") == 2
    assert "build-answers" in capsys.readouterr().err
