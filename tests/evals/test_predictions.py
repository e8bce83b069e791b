"""``--predictions``: each form holds every row, and a file that cannot be written is told before any work."""

import csv
import json

import pytest

from mmkit.errors import UserError
from mmkit.evals.predictions import check_predictions, save_predictions

ROWS = [
    {"question_id": 1, "answer": 'a "red"\r\nbox'},
    {"question_id": 2, "answer": None, "scores": {"é": 0.5}, "found": [{"text": "x"}]},
]


def test_each_form_gives_the_rows_back(tmp_path):
    for name in ("p.json", "p.jsonl", "p.CSV"):
        save_predictions(tmp_path / name, lambda: ROWS)
    assert json.loads((tmp_path / "p.json").read_text(encoding="utf-8")) == ROWS
    lines = (tmp_path / "p.jsonl").read_bytes().decode().splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    with (tmp_path / "p.CSV").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["question_id", "answer", "scores", "found"]  # of all rows, not of the first alone
    assert [list(row.values()) for row in found] == [
        ["1", 'a "red"\r\nbox', "", ""], ["2", "", '{"é": 0.5}', '[{"text": "x"}]'],
    ]  # fmt: skip


def test_no_rows_are_a_file_too_and_no_path_makes_no_rows(tmp_path):
    save_predictions(tmp_path / "p.json", list)
    assert json.loads((tmp_path / "p.json").read_text()) == []
    save_predictions(None, lambda: pytest.fail("rows were made for nobody"))


def test_what_cannot_be_written_is_said_before_any_work(tmp_path):
    check_predictions(None)
    check_predictions(tmp_path / "new" / "p.jsonl")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for name, says in (("p.txt", "the ending says the form"), ("file/p.csv", "is a file, not a folder")):
        with pytest.raises(UserError, match=rf"^--predictions .*{name}: .*{says}"):
            check_predictions(tmp_path / name)
