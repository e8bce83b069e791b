"""``mmkit vqa`` as a user calls it: one picture, a file of questions, and what is refused."""

import argparse
import json
import logging

import pytest

from mmkit.cli import main, vqa
from mmkit.hub import folder as hub
from mmkit.train.stages import train_stages
from tests.evals.test_vqa import predictor as vqa_predictor
from tests.train.fakes import COLOURS, Squares, change
from tests.train.test_stages import two_stages


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose second stage answers, in ``answers`` inside; questions about four squares."""
    root = tmp_path_factory.mktemp("vqa")
    exp = two_stages()
    exp = change(exp, subfolder="answers", first=change(exp.first, subfolder=""))
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


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_questions_by_other_names(folder, tmp_path, form, capsys):
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    data = folder / f"others.{form}"
    if form == "jsonl":
        named = [
            {"photo": r["image"], "ask": r["question"], "said": r["answers"], "id": 7 * i} for i, r in enumerate(rows)
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in named))
    else:
        lines = (f"{r['image']},{r['question']},{r['answers'][0]},{7 * i}" for i, r in enumerate(rows))
        data.write_text("photo,ask,said,id\n" + "\n".join(lines))
    columns = ("--columns", "image=photo,question=ask,answers=said,question_id=id")
    assert run(folder, "--data", data, *columns, "--json", tmp_path / "a.json") == 0
    assert run(folder, "--data", folder / "records.jsonl", "--json", tmp_path / "b.json") == 0
    found, wanted = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert (found["n"], found["accuracy"]) == (4, wanted["accuracy"])
    assert run(folder, "--data", data, *columns, "--predictions", tmp_path / "p.json") == 0
    assert [str(row["question_id"]) for row in json.loads((tmp_path / "p.json").read_text())] == ["0", "7", "14", "21"]
    assert run(folder, "--data", data, "--columns", "photo=image") == 2
    assert "with FIELD one of image, question, answers" in capsys.readouterr().err
    assert run(folder, "--image", folder / "1.png", "--question", "what?", "--split", "val") == 2


def test_pictures_that_cannot_be_read_are_left_out_and_counted(folder, tmp_path, capsys):
    lines = (folder / "records.jsonl").read_text()
    data = folder / "bad.jsonl"
    data.write_text(lines + lines.splitlines()[0].replace("0.png", "bad.png") + "\n")
    (folder / "bad.png").write_text("<html>")
    assert run(folder, "--data", data) == 2
    assert "--max-bad" in capsys.readouterr().err
    assert run(folder, "--data", data, "--max-bad", 0.1) == 2
    assert "1 of 5 pictures cannot be read, more than the 10 %" in capsys.readouterr().err
    assert run(folder, "--data", data, "--max-bad", 0.2, "--json", tmp_path / "a.json") == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert run(folder, "--data", folder / "records.jsonl", "--json", tmp_path / "b.json") == 0
    assert found == json.loads((tmp_path / "b.json").read_text()) | {"left_out": 1}
    assert run(folder, "--data", data, "--max-bad", 0.2, "--predictions", tmp_path / "p.json") == 2
    assert "answers all of them" in capsys.readouterr().err
    assert run(folder, "--image", folder / "1.png", "--question", "what?", "--max-bad", 0.2) == 2


def test_a_list_of_ones_own(folder, tmp_path):
    (tmp_path / "answers.txt").write_text("green\nred\n")
    arguments = ("--image", folder / "1.png", "--question", "what is it?", "--answers", tmp_path / "answers.txt")
    assert run(folder, *arguments, "--json", tmp_path / "a.json") == 0
    assert {a["answer"] for a in json.loads((tmp_path / "a.json").read_text())["answers"]} == {"red", "green"}


def test_the_published_files(folder, tmp_path, capsys):
    asked = [{"image_id": i, "question_id": i, "question": "what colour is it?"} for i in range(4)]
    given = [{"question_id": i, "answers": [{"answer": COLOURS[i]}] * 10, "answer_type": "other"} for i in range(4)]
    (tmp_path / "v2_questions.json").write_text(json.dumps({"data_subtype": "val2014", "questions": asked}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": given}))
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Squares()[i].image.save(tmp_path / "pictures" / f"COCO_val2014_{i:012d}.jpg")
    data = ("--data", tmp_path / "v2_questions.json", "--images", tmp_path / "pictures")
    assert run(folder, *data, "--annotations", tmp_path / "a.json", "--json", tmp_path / "n.json") == 0
    found = json.loads((tmp_path / "n.json").read_text())
    assert found["n"] == 4
    assert found["by_type"]["other"] == found["accuracy"]
    assert run(folder, *data) == 2
    assert f"--annotations {tmp_path / 'v2_annotations.json'}" in capsys.readouterr().err


def test_pictures_of_ones_own_names(folder, tmp_path, capsys):
    asked = [{"image_id": i, "question_id": i, "question": "what colour is it?"} for i in range(4)]
    given = [{"question_id": i, "answers": [{"answer": COLOURS[i]}] * 10, "answer_type": "other"} for i in range(4)]
    (tmp_path / "q.json").write_text(json.dumps({"questions": asked}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": given}))
    data = ("--data", tmp_path / "q.json", "--annotations", tmp_path / "a.json", "--images", folder)
    assert run(folder, *data, "--pictures", "{image_id}.png", "--json", tmp_path / "n.json") == 0
    assert json.loads((tmp_path / "n.json").read_text())["n"] == 4
    assert run(folder, *data) == 2
    assert "--pictures" in capsys.readouterr().err
    assert run(folder, "--image", folder / "1.png", "--question", "x", "--pictures", "{image_id}.png") == 2


def test_a_long_question_stays_whole_on_screen_and_is_said_to_be_cut(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    question = "what is the colour of the one and only square that is there?"
    assert run(folder, "--image", folder / "1.png", "--question", question) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == question
    assert "1 of 1 texts" in shown.err


def test_fewer_answers_than_asked_for(folder, capsys):
    assert run(folder, "--image", folder / "1.png", "--question", "what is it?", "--top", 1000) == 0
    assert "--top 1000: there are" in capsys.readouterr().err


def test_the_first_token_twice(folder, tmp_path):
    """A decoder that was told so and one that was not rank otherwise; the command gives what the first gives."""
    made = vqa_predictor("decoder")
    args = argparse.Namespace(first_token_twice=True)
    before = made.answer([Squares()[1].image], ["what is it?"], top=11)
    vqa.count_first_tokens_twice(args, made)
    after = made.answer([Squares()[1].image], ["what is it?"], top=11)
    assert made.heads["answer"].first_token_twice
    assert dict(before[0]) != dict(after[0])


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
        (("--image", "0.png", "--question", " "), "--question: is empty"),
        (("--image", "0.png", "--question", "x", "--images", "."), "--images belongs to --data"),
        (("--image", "0.png", "--question", "x", "--as-published"), "--as-published belongs to --data"),
        (("--data", "records.jsonl", "--question", "x"), "give either --image FILE with --question TEXT, or --data"),
        (("--image", "0.png", "--question", "x", "--first-token-twice"), "has a AnswerClassifier"),
        (("--data", "."), "a folder of pictures"),
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
