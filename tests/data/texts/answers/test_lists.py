"""One reader for lists of answers, whatever form they are passed around in."""

import json

import pytest

from mmkit.data.texts.answers.lists import read_answers
from mmkit.errors import UserError

WANTED = ["yes", "no", "a dog", "2"]
FORMS = {
    "lines.txt": "yes\n\n no \na dog\n2\n",
    "windows.txt": "\ufeffyes\r\nno\r\na dog\r\n2",
    "answer_list.json": json.dumps(WANTED),
    "indented.json": json.dumps(WANTED, indent=2),
    "list.txt": json.dumps(WANTED),  # the form is read from the content
    "lines.jsonl": "".join(json.dumps(a) + "\n" for a in WANTED),
    "objects.jsonl": "".join(json.dumps({"answer": a, "n": 3}) + "\n" for a in WANTED),
    "objects.json": json.dumps([{"answer": a} for a in WANTED]),
    "quoted.txt": "".join(json.dumps(a) + "\n" for a in WANTED),
    "numbered.json": json.dumps({str(i): a for i, a in enumerate(WANTED)}),
    "numbers.json": json.dumps({a: i for i, a in reversed(list(enumerate(WANTED)))}),
    "config.json": json.dumps({"hidden_size": 8, "id2label": {str(i): a for i, a in enumerate(WANTED)}}),
    "label2ans.json": json.dumps({"label2ans": WANTED}),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_list(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], "utf-8", newline="")
    assert read_answers(tmp_path / name) == WANTED


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1\n2\n3\n", ["1", "2", "3"]),  # each line is JSON too, but no text
        ("42", ["42"]),
        ("[sic]\nno\n", ["[sic]", "no"]),
        ('"quoted" word\nno\n', ['"quoted" word', "no"]),
        ("a\u2028b\nc\x0bd\n", ["a\u2028b", "c\x0bd"]),  # no line ends
        ("true\nfalse\n", ["true", "false"]),
    ],
)
def test_lines_stay_lines(tmp_path, text, wanted):
    (tmp_path / "a.txt").write_text(text, "utf-8")
    assert read_answers(tmp_path / "a.txt") == wanted


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "yes\nno\nyes\n", r"a.txt:3: 'yes' stands in line 1 already"),
        ("a.json", '["yes", "no", "yes"]', r"a.json:\[2\]: 'yes' stands in \[0\] already"),
        ("a.txt", "\n", "no answers in it; give one answer a line"),
        ("a.json", "[]", "no answers in it"),
        ("a.json", '["yes", 3]', r"a.json:\[1\]: 3 is no answer"),
        ("a.json", '["yes", " "]', r"a.json:\[1\]: \" \" is no answer"),
        ("a.json", '["yes", ["no"]]', r"a.json:\[1\]: .*is no answer"),
        ("a.json", "yes\nno\n", "a.json: cannot be read as JSON"),
        ("a.json", '["yes", ', "a.json: cannot be read as JSON"),
        ("a.jsonl", '{"answer": "yes"}\n{"reply": "no"}\n', r"a.jsonl:2: .*is no answer"),
        ("a.json", '{"0": "yes", "2": "no"}', "under the numbers 0, 1, 2"),
        ("a.json", '{"yes": 0, "no": 0}', "under the numbers 0, 1, 2"),
        ("a.json", "3", "holds 3, no list of answers"),
        ("a.json", "[" * 100_000, "cannot be read as JSON"),
        ("a.json", r'["yes", "box \ud83d"]', r"a.json: cannot be read as JSON \(half a character"),
        ("a.txt", r'["yes", "box \ud83d"]', "half a character"),
        ("a.txt", r'"box \ud83d"', "half a character"),
        ("a.json", '{"0": "yes", "0": "no", "1": "x"}', 'the key "0" stands in one object twice'),
        ("a.jsonl", '"yes"\n"box \\ud83d"\n', "a.jsonl:2: half a character"),
        ("a.txt", '["yes", "no",]', "a.txt: cannot be read as JSON"),  # not one answer of this text
        ("a.txt", '{"yes": 0, "no": 1', "a.txt: cannot be read as JSON"),
    ],
)
def test_what_is_no_list_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_answers(tmp_path / name)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none.txt: no such file; expected a list of answers"):
        read_answers(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt:1: not UTF-8 \(byte 0xe9, byte 4 of the line\)"):
        read_answers(tmp_path / "latin.txt")
