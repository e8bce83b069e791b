"""What ``mmkit data check`` finds: everything at once, each thing once, in every form of data."""

import json
import shutil

import pytest

from mmkit.cli.main import main
from mmkit.data.check import check_named
from mmkit.data.openmoji.scenes import Scenes
from tests.data.conftest import write


@pytest.fixture
def messy(pictures):
    """The six pictures, a damaged one, a cut one, a copy, and their class folders and captions."""
    (pictures / "damaged.png").write_bytes(b"no picture")
    data = (pictures / "5.png").read_bytes()
    (pictures / "cut.png").write_bytes(data[: len(data) // 2])
    shutil.copy(pictures / "0.png", pictures / "copy.png")
    return pictures


def test_all_that_is_wrong_with_lines_is_counted_once(messy):
    rows = [
        {"image": "0.png", "caption": "fine"}, "{", {"image": "0.png"}, {"image": "none.png", "caption": "a"},
        {"image": "none.png", "caption": "b"}, {"image": "damaged.png", "caption": "a"},
        {"image": "cut.png", "caption": "a"},
        {"image": "cut.png", "caption": "again"}, {"image": "1.png", "caption": " "},
        r'{"image": "1.png", "caption": "\ud83d"}',
        {"image": "1.png", "caption": "a", "image_id": 1}, {"image": "2.png", "caption": "a", "image_id": 1},
        {"image": "copy.png", "caption": "word " * 80},
    ]  # fmt: skip
    found = check_named(str(write(messy / "b.jsonl", rows)))
    assert found.problems == {
        "unreadable picture": 2, "malformed JSON": 1, "missing key": 1, "empty caption": 1, "unclear JSON": 1,
        "one id for different pictures": 1, "missing picture": 1,
    }  # fmt: skip
    assert found.bad_images == 3
    assert (found.duplicate_images, found.long_captions, found.longest_caption) == (1, 1, 80)
    assert len(found.bad) == 8
    assert any("b.jsonl:10: half a character" in message for message in found.bad)
    assert any("copies of others" in message for message in found.warnings)


def test_the_command_writes_its_numbers_and_fails(messy, capsys):
    write(messy / "b.jsonl", [{"image": "0.png", "caption": "a"}, {"image": "cut.png", "caption": "b"}, "{"])
    out = messy / "out.json"
    assert main(["data", "check", str(messy / "b.jsonl"), "--json", str(out)]) == 2
    assert json.loads(out.read_text())["problems"] == {"malformed JSON": 1, "unreadable picture": 1}
    told = capsys.readouterr().err
    assert "1 x malformed JSON, 1 x unreadable picture" in told
    assert "b.jsonl:3: malformed JSON" in told
    assert main(["data", "check", str(messy / "a.jsonl"), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["problems"] == {}


def test_tables(messy):
    text = 'image,caption\n0.png,a\n1.png,b,c\n,d\nnone.png,e\n0.png,f\ncut.png,g\n2.png,"x" y\n'
    (messy / "t.csv").write_text(text)
    found = check_named(str(messy / "t.csv"))
    assert (found.records, found.images, found.captions) == (4, 3, 4)
    assert found.problems == {
        "other number of cells": 1, "empty cell": 1, "broken row": 1, "missing picture": 1, "unreadable picture": 1
    }  # fmt: skip


def test_questions(messy):
    rows = [
        {"image": "0.png", "question": "what?", "answers": ["a"]}, {"image": "0.png", "question": "what?"},
        {"image": "1.png", "question": " ", "answers": ["a"]}, {"image": "cut.png", "question": "a?", "answers": []},
        {"image": "cut.png", "question": "a?", "answers": ["b"]},
    ]  # fmt: skip
    found = check_named(str(write(messy / "q.jsonl", rows)))
    assert found.problems == {"empty question": 1, "bad answers": 1, "unreadable picture": 1}
    assert (found.records, found.without_answers) == (3, 1)
    assert "1 of 3 questions have no answers" in found.warnings


def test_labels(messy):
    rows = [{"image": f"{i}.png", "label": label} for i, label in enumerate(["a", "a", 1.5, None, 2])]
    found = check_named(str(write(messy / "l.jsonl", rows)))
    assert found.problems == {"bad label": 1, "no label": 1}
    assert found.labels == {"a": 2, "2": 1}


def test_folders(messy):
    for name in ("cat", "dog"):
        (messy / "classes" / name).mkdir(parents=True)
        shutil.copy(messy / "0.png", messy / "classes" / name / f"{name}.png")
    shutil.copy(messy / "cut.png", messy / "classes" / "dog" / "cut.png")
    (messy / "classes" / "empty").mkdir()
    found = check_named(str(messy / "classes"))
    assert found.problems == {"unreadable picture": 1}
    assert found.labels == {"0": 1, "1": 2}
    assert any("folders without pictures" in message for message in found.warnings)
    for i in range(3):
        (messy / "pairs").mkdir(exist_ok=True)
        shutil.copy(messy / f"{i}.png", messy / "pairs" / f"{i}.png")
    (messy / "pairs" / "0.txt").write_bytes("café".encode("cp1252"))
    (messy / "pairs" / "1.txt").write_text("a dog\u2028and a cat\nanother\n")
    found = check_named(str(messy / "pairs"))
    assert found.problems == {"unreadable caption": 1, "missing caption": 1}
    assert found.captions == 2


def test_parquet(messy, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(messy / "hf-cache"))
    data = [(messy / name).read_bytes() for name in ("0.png", "0.png", "1.png", "damaged.png", "damaged.png")] + [None]
    captions = ["a", "b", None, "d", "e", "f"]
    pq.write_table(pa.table({"image": data, "caption": captions}), messy / "t.parquet")
    found = check_named(str(messy / "t.parquet"))
    assert found.problems == {"bad caption": 1, "no picture": 1, "unreadable picture": 1}
    assert (found.records, found.images) == (6, 2)


def test_published_lists(messy):
    rows = [
        {"image": "0.png", "caption": "a"},
        {"image": "none.png", "caption": "b"},
        {"image": "1.png", "caption": ""},
    ]
    (messy / "list.json").write_text(json.dumps(rows))
    assert check_named(str(messy / "list.json")).problems == {"bad caption": 1, "missing picture": 1}


def test_what_is_drawn_is_fine_and_has_no_copies():
    from mmkit.data.check import check

    found = check(Scenes(n=3))
    assert (found.records, found.problems, found.duplicate_images) == (3, {}, 0)


def test_copies_under_one_id_and_another_picture_under_it(messy):
    from mmkit.data.check import check
    from mmkit.data.records import Record

    names = ("0.png", "copy.png", "1.png", "2.png")
    source = [Record(image=messy / name, captions=("a",), image_id="x", key=name) for name in names]
    assert check(source).problems == {"one id for different pictures": 2}


def test_labels_that_are_no_class_are_counted(messy, capsys):
    rows = [{"image": f"{i}.png", "label": label} for i, label in enumerate(["hot_dog", "cat", "cow", "cow", 7])]
    data, names = write(messy / "l.jsonl", rows), messy / "names.txt"
    names.write_bytes("\ufeffHot dog\r\ncat\r\n".encode())
    out = messy / "out.json"
    assert main(["data", "check", str(data), "--classes", str(names), "--json", str(out)]) == 2
    assert json.loads(out.read_text())["problems"] == {"label of no class": 3}
    told = capsys.readouterr().err
    assert "l.jsonl:3: label 'cow' is none of the 2 classes of" in told
    assert "l.jsonl:5: label 7 is none" in told
    names.write_text("cow\ncat\nhot dog\n7\n")
    assert main(["data", "check", str(data), "--classes", str(names)]) == 0


def test_folders_that_are_no_class_are_counted(messy):
    from mmkit.data.sources.class_folder import ClassFolder
    from mmkit.evals.labels import label_test

    for name in ("cat", "dog", "1"):
        (messy / "classes" / name).mkdir(parents=True)
        shutil.copy(messy / "0.png", messy / "classes" / name / f"{name}.png")
    wrong = label_test(ClassFolder(messy / "classes"), ["Cat", "cow"])  # the folders are 1, cat, dog
    assert [wrong(label) for label in (0, 1)] == [None, None]  # "1" counts to the second
    assert "label 'dog' is none of the 2 classes" in wrong(2)


def test_each_picture_is_opened_once_and_several_at_a_time(messy, monkeypatch):
    import threading

    from mmkit.data import check as module

    rows = [{"image": f"{i % 2}.png", "caption": "a", "image_id": str(i % 2)} for i in range(6)]
    both, opened = threading.Barrier(2, timeout=10), []

    def load(what, _load=module.load_image):
        both.wait()  # passes only where two are at it together
        opened.append(what)
        return _load(what)

    monkeypatch.setattr(module, "load_image", load)
    found = check_named(str(write(messy / "b.jsonl", rows)))
    assert (found.images, found.problems, len(opened)) == (2, {}, 2)


def test_tables_of_labels_and_of_questions(messy, capsys):
    """Without captions the header says what the table holds; each warning is told once."""
    (messy / "l.csv").write_text('path,label\n0.png,"crane, bird"\n1.png,cat\n1.png,cat\n')
    found = check_named(str(messy / "l.csv"))
    assert (found.labels, found.problems) == ({"crane, bird": 1, "cat": 2}, {})
    (messy / "q.csv").write_text("image,question,answer\n0.png,what?,a\n1.png,who?,\n")
    found = check_named(str(messy / "q.csv"))
    assert (found.records, found.without_answers) == (2, 1)
    (messy / "c.csv").write_text("image,caption,label,image_id\n0.png,a,x,1\n0.png,b,x,2\n")
    assert main(["data", "check", str(messy / "c.csv")]) == 0
    assert capsys.readouterr().err.count("stand under several image_ids") == 1


def test_one_picture_spelled_with_a_backslash_has_one_id(messy):
    rows = [{"image": name, "caption": "a"} for name in ("0.png", "./0.png", r".\0.png")]
    found = check_named(str(write(messy / "s.jsonl", rows)))
    assert (found.images, found.warnings) == (1, [])
