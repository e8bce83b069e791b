"""The JSON-lines source: what it reads, and what it says of every kind of bad line before training."""

import json
import pickle

import pytest

from mmkit.data.check import check
from mmkit.data.problems import Problems
from mmkit.data.records import JsonLines, Source, captions_of, rows_of
from mmkit.errors import UserError
from tests.data.conftest import write


def test_reads_rows_by_index_and_keeps_other_keys(pictures):
    source = JsonLines(pictures / "a.jsonl")
    record = source[4]
    assert isinstance(source, Source)
    assert len(source) == 6
    assert record.image == pictures / "4.png"
    assert record.captions == ("picture 4", "the same 4")
    assert record.image_id == "4.png"
    assert record.targets == {"label": 4}
    assert record.key.endswith("a.jsonl:5")
    assert list(captions_of(source))[:3] == ["picture 0", "the same 0", "picture 1"]
    with pytest.raises(IndexError):
        source[6]


def test_blank_lines_byte_order_mark_and_unicode(pictures):
    row = json.dumps({"image": "1.png", "caption": "一只狗", "image_id": 7}, ensure_ascii=False)
    (pictures / "b.jsonl").write_text("\ufeff" + row + "\n\n" + row, "utf-8")
    source = JsonLines(pictures / "b.jsonl")
    assert [r.captions for r in (source[0], source[1])] == [("一只狗",), ("一只狗",)]
    assert source[0].image_id == "7"
    assert source[1].key.endswith(":3")


def test_pickles_with_an_open_file(pictures):
    source = JsonLines(pictures / "a.jsonl")
    first = source[0]
    assert pickle.loads(pickle.dumps(source))[0] == first


GOOD = {"image": "0.png", "caption": "fine"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"image": "0.png" "caption": "x"}', ["b.jsonl:2", "malformed JSON", "column 19"]),
        ('{"image": "0.png", "caption": "x"', ["b.jsonl:2", "malformed JSON"]),
        ("\ufeff" + json.dumps(GOOD), ["b.jsonl:2", "malformed JSON", "BOM"]),
        ('["0.png", "x"]', ["b.jsonl:2", "expected a JSON object", "list"]),
        ({"image": "0.png", "text": "x"}, ["b.jsonl:2", 'no key "caption"', '"image", "text"']),
        ({"caption": "x"}, ["b.jsonl:2", 'no key "image"']),
        ({"image": "0.png", "caption": "  "}, ["b.jsonl:2", '"caption" is empty']),
        ({"image": "0.png", "caption": []}, ["b.jsonl:2", '"caption" is empty']),
        ({"image": "0.png", "caption": ["x", ""]}, ["b.jsonl:2", '"caption" is empty']),
        ({"image": "0.png", "caption": 3}, ["b.jsonl:2", "must be a string or a list of strings, not 3"]),
        ({"image": "0.png", "caption": None}, ["b.jsonl:2", "must be a string", "null"]),
        ({"image": "none.png", "caption": "x"}, ["b.jsonl:2", "no picture", "none.png"]),
        ({"image": "https://a/b.png", "caption": "x"}, ["b.jsonl:2", "must be downloaded"]),
        ({"image": None, "caption": "x"}, ["b.jsonl:2", '"image" must be a path']),
    ],
)
def test_bad_lines_are_named_before_training(pictures, line, says):
    path = write(pictures / "b.jsonl", [GOOD, line, GOOD])
    with pytest.raises(UserError) as error:
        JsonLines(path)
    message = str(error.value)
    assert "1 of 3 lines" in message
    for words in says:
        assert words in message


def test_lines_are_counted_with_the_blank_ones_whatever_is_wrong_with_them(pictures):
    rows = [
        "",
        GOOD,
        " ",
        {"image": "none.png", "caption": "x"},
        {"image": "1.png", "caption": "x", "image_id": "0.png"},
    ]
    with pytest.raises(UserError, match="2 of 3 lines") as error:
        JsonLines(write(pictures / "b.jsonl", rows))
    assert "b.jsonl:4: no picture" in str(error.value)
    assert "b.jsonl:5: image_id '0.png' is of 1.png here and of 0.png in line 2" in str(error.value)


def test_lines_of_another_form_are_read_with_their_numbers_and_counted(tmp_path):
    path = write(tmp_path / "c.jsonl", ["", {"a": 1, "b": 2}, "{", {"b": 3}, " ", {"a": None}])
    problems = Problems(path)
    assert list(rows_of(path, ("a",), problems)) == [(2, {"a": 1, "b": 2}), (6, {"a": None})]
    with pytest.raises(UserError, match=r"2 of 4 lines .*1 x malformed JSON, 1 x missing key") as error:
        problems.raise_if_any()
    assert 'c.jsonl:4: no key "a"; the line has "b"' in str(error.value)


def test_pictures_may_lie_elsewhere_than_the_file(pictures, tmp_path):
    (tmp_path / "lists").mkdir()
    path = write(tmp_path / "lists" / "b.jsonl", [GOOD])
    assert JsonLines(path, root=pictures)[0].image == pictures / "0.png"
    with pytest.raises(UserError, match="no picture"):
        JsonLines(path)
    (pictures / "b.jsonl").write_text('{\n  "image": "0.png",\n  "caption": "x"\n}\n')
    with pytest.raises(UserError, match="this is JSON over several lines; mmkit reads one JSON object per line"):
        JsonLines(pictures / "b.jsonl")


def test_many_bad_lines_are_counted_by_kind(pictures):
    rows = ["{", *[{"image": f"no{i}.png", "caption": "x"} for i in range(9)], GOOD]
    with pytest.raises(UserError, match=r"10 of 11 lines.*9 x missing picture, 1 x malformed JSON") as error:
        JsonLines(write(pictures / "b.jsonl", rows))
    assert str(error.value).count("b.jsonl:") == 6  # the heading and the first five
    assert "and 5 more" in str(error.value)


def test_not_a_file_empty_or_one_json_list(pictures):
    with pytest.raises(UserError, match="no such file"):
        JsonLines(pictures / "zzz.jsonl")
    with pytest.raises(UserError, match="the file is empty"):
        JsonLines(write(pictures / "b.jsonl", [""]))
    with pytest.raises(UserError, match="is a folder, not a file; expected JSON lines"):
        JsonLines(pictures)
    for name, begin in (("b.jsonl", ""), ("b.json", " "), ("b.lines.jsonl", "\n"), ("b", "\ufeff")):
        with pytest.raises(UserError, match="one JSON list") as error:
            JsonLines(write(pictures / name, [begin + json.dumps([GOOD])]))
        advice = str(error.value).partition("jq -c '.[]' ")[2]
        read, written = advice.split(" > ")
        assert read == str(pictures / name)
        assert read != written  # which would empty it
    (pictures / "c.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"image": "\xff"}\n')
    with pytest.raises(UserError, match=r"c.jsonl:2: not UTF-8"):
        JsonLines(pictures / "c.jsonl")


def test_tasks_without_captions(pictures):
    path = write(pictures / "b.jsonl", [{"image": "0.png", "label": 2, "caption": None}])
    record = JsonLines(path, needs=("label",))[0]
    assert record.captions == ()
    assert record.targets["label"] == 2
    for nothing in ("", [], float("nan")):
        JsonLines(write(pictures / "b.jsonl", [{"image": "0.png", "label": 2, "caption": nothing}]), needs=("label",))
    for row in ({"label": 2, "caption": 3}, {"label": 2, "caption": ["x", " "]}, {"label": float("nan")}):
        with pytest.raises(UserError, match=r'b.jsonl:1: "(caption" (must|is empty)|label" is NaN)'):
            JsonLines(write(pictures / "b.jsonl", [{"image": "0.png"} | row]), needs=("label",))


def test_check_opens_every_picture(pictures):
    (pictures / "3.png").write_bytes((pictures / "3.png").read_bytes()[:200])
    summary = check(JsonLines(pictures / "a.jsonl"))
    assert (summary.records, summary.images, summary.captions, summary.bad_images) == (6, 6, 12, 1)
    assert "3.png" in summary.bad[0]
    assert (summary.smallest, summary.largest) == ((30, 20), (30, 25))
    assert summary.targets == {"label": 6}
