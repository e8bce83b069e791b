"""One rule for the text of people's files: encodings, line ends, half characters, what counts as absent."""

import math

import pytest

from mmkit.data.text_files import (
    decode,
    half_character,
    id_of,
    is_absent,
    parse_json,
    read_json,
    read_lines,
    split_lines,
)
from mmkit.data.texts.answers.lists import read_answers
from mmkit.errors import UserError
from mmkit.evals.labels import read_classes
from mmkit.evals.prompts import read_templates


def test_only_two_ends_end_a_line():
    text = "a\u2028b\nc\x85d\r\ne\x0bf\x1cg\rh\n\ni"
    assert split_lines(text) == ["a\u2028b", "c\x85d", "e\x0bf\x1cg\rh", "", "i"]
    assert split_lines("a\n") == ["a"]
    assert split_lines("") == []
    assert split_lines("\n\n") == ["", ""]


def test_a_byte_order_mark_is_accepted_and_left_out(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfdog\r\ncat\n")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_lines(tmp_path / "a.txt") == ["dog", "cat"]
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("a dog\na café".encode("cp1252"), ["a.txt:2", "byte 0xe9, byte 6 of the line", "iconv -f CP1252 -t UTF-8"]),
        ("a dog\n".encode("utf-16"), ["a.txt:1", "iconv -f UTF-16 -t"]),
        ("é dog\n".encode("utf-16-le"), ["a.txt:1", "iconv -f UTF-16LE -t"]),
        ("é dog\n".encode("utf-16-be"), ["a.txt:1", "iconv -f UTF-16BE -t"]),
        (b"a\nbox \xed\xa0\xbd\n", ["a.txt:2", "half a character, as of an emoji in CESU-8, at byte 0xed, byte 5 of"]),
    ],
)
def test_another_encoding_is_named_with_file_line_byte_and_cure(tmp_path, data, says):
    (tmp_path / "a.txt").write_bytes(data)
    for read in (read_lines, read_json):
        with pytest.raises(UserError) as error:
            read(tmp_path / "a.txt")
        for words in (*says, "a.utf8.txt"):
            assert words in str(error.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (rb'{"caption": "box \ud83d"}', r"half a character \(\\ud83d"),
        (rb'{"caption": ["fine", "\uDC4d"]}', r"half a character \(\\udc4d"),
        (rb'{"\ud83d": 1}', "half a character"),
        (b'{"a": 1, "b": 2, "a": 3}', 'the key "a" stands in one object twice'),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": 1', "malformed JSON: .* column 8"),
        (b'{"a":\n 1 2', "malformed JSON: .* at line 2, column 4"),
    ],
)
def test_what_json_cannot_mean_is_said(tmp_path, data, says):
    with pytest.raises(ValueError, match=says):
        parse_json(data)
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=rf"a.json: cannot be read as JSON \(.*{says}"):
        read_json(tmp_path / "a.json")


def test_whole_characters_in_two_halves_are_fine():
    assert parse_json(rb'"\ud83d\ude00 \u00e9"') == "\U0001f600 \u00e9"
    assert half_character({"a": ["\U0001f600"]}) is None


def test_lines_in_a_json_file_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(UserError, match=r"Extra data.*call it \.jsonl"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="is a folder, not a file; expected JSON"):
        read_json(tmp_path)
    with pytest.raises(UserError, match="no such file; expected answers"):
        read_lines(tmp_path / "zzz", "answers")


def test_ids_have_one_form():
    assert [id_of(v) for v in (10, 10.0, "10", " 10 ", 1.5, 0, "007")] == ["10", "10", "10", "10", "1.5", "0", "007"]
    assert [id_of(v) for v in (None, "", "  ", math.nan)] == [None] * 4
    assert not is_absent(0)
    for value in (True, [1], {"a": 1}, math.inf):
        with pytest.raises(ValueError, match="must be a string or a number"):
            id_of(value)


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.parquet", "a.yaml"])
def test_a_table_is_no_list_of_lines(tmp_path, name):
    (tmp_path / name).write_text("id,name\n0,red\n")
    with pytest.raises(UserError, match=rf"{name}: no lines of text, but a table or YAML; expected class names"):
        read_lines(tmp_path / name, "class names")
    (tmp_path / "a.tsv").write_text("n01\tred\n")
    assert read_lines(tmp_path / "a.tsv") == ["n01\tred"]


def test_a_byte_order_mark_elsewhere_is_a_character():
    assert decode(b"\xef\xbb\xbfa") == "\ufeffa"
    assert decode(b"\xef\xbb\xbfa", first=True) == "a"


@pytest.mark.parametrize(
    "lines", ["1. cat\n2. dog\n", "0: cat\n1: dog", "0 cat\n1 dog\n", "01) cat\n02) dog", "0,cat\n1,dog"]
)
def test_numbered_lines_are_no_names_templates_or_answers(tmp_path, lines):
    (tmp_path / "a.txt").write_text(lines)
    for read in (read_classes, read_templates, read_answers):
        with pytest.raises(
            UserError, match=r"a\.txt: the lines are numbered \(.*cat.*\), which would be read as words"
        ):
            read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "lines", ["0\tcat\n1\tdog", "1\n2\n3", "1 dollar\n5 dollars", "1 dollar", "2 cats\n3 dogs", "0cat\n1dog"]
)
def test_names_with_numbers_are_names(tmp_path, lines):
    (tmp_path / "a.txt").write_text(lines)
    wanted = [line.partition("\t")[2] or line for line in lines.split("\n")]
    assert list(read_classes(tmp_path / "a.txt").names) == wanted


@pytest.mark.parametrize("head", ["id\tname", "Label\tClass_Name", "class", "Names "])
def test_a_header_is_no_class(tmp_path, head):
    tab = "0\tcat\n1\tdog\n" if "\t" in head else "cat\ndog\n"
    (tmp_path / "a.txt").write_text(f"{head}\n{tab}")
    with pytest.raises(UserError, match=r"a\.txt: the first line, .*, seems to be a header"):
        read_classes(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text(tab)
    assert read_classes(tmp_path / "a.txt").names == ("cat", "dog")


def test_a_line_with_two_tabs_is_no_label_and_name(tmp_path):
    (tmp_path / "a.txt").write_text("0\tcat\tFelis\n1\tdog\tCanis\n")
    with pytest.raises(UserError, match=r"2 tabs in '0.tcat.tFelis'; write LABEL<TAB>name"):
        read_classes(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("begin", "says"),
    [(b"\x1f\x8b\x08\x00", "gunzip"), (b"PK\x03\x04\xff", "Excel's, save it as CSV"), (b"PAR1\xff", "Parquet")],
)
def test_what_is_packed_is_named(tmp_path, begin, says):
    (tmp_path / "a.jsonl").write_bytes(begin + b"\xff\n\xff")
    with pytest.raises(UserError, match=says):
        read_lines(tmp_path / "a.jsonl")
