"""Tables: cells stay as they are written, and what would move a cell or swallow a row is named with its line."""

import csv
import json

import pytest

from mmkit.data.problems import collecting
from mmkit.data.sources.delimited import columns_of
from mmkit.data.sources.open import open_source
from mmkit.data.sources.questions import guess_type
from mmkit.data.sources.table import ClassTable, Table
from mmkit.errors import UserError
from mmkit.evals.labels import with_classes


def table(folder, text, name="t.csv", **options):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Table(folder / name, **options)


def captions(source):
    return [source[i].captions[0] for i in range(len(source))]


def test_between_tabs_quotes_are_letters_unless_well_formed(pictures):
    rows = [
        '0.png\t"stop" says the sign', '1.png\t"welcome', '2.png\t5" nails', '3.png\t"all of it"',
        '4.png\t"he said ""no"""', '5.png\t"a" or "b"',
    ]  # fmt: skip
    source = table(pictures, "image\tcaption\n" + "\n".join(rows), "t.tsv")
    assert captions(source) == [
        '"stop" says the sign', '"welcome', '5" nails', "all of it", 'he said "no"', '"a" or "b"'
    ]  # fmt: skip
    assert [source[i].key.rpartition(":")[2] for i in range(6)] == ["2", "3", "4", "5", "6", "7"]


def test_between_commas_quoting_is_strict(pictures):
    text = 'image,caption\n0.png,"a dog, a cat"\n1.png, "spaced, too"\n2.png,5" nails\n3.png,"he said ""no"""\n'
    assert captions(table(pictures, text)) == ["a dog, a cat", "spaced, too", '5" nails', 'he said "no"']


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("0.png,a\n1.png,a dog, a cat\n", ["t.csv:3: 3 cells, the header has 2", "must be in quotes"]),
        ("0.png,a\n1.png\n", ["t.csv:3: 1 cells, the header has 2"]),
        ('0.png,"stop" says the sign\n1.png,b\n', ["t.csv:2: letters stand behind a closing quote", "1 of 2 lines"]),
        ('0.png,a\n1.png,"stop\n2.png,b\n3.png,c\n', ["t.csv:3: a quote is opened in this row and never closed"]),
        ('0.png,"stop\n1.png,"welcome"\n2.png,c\n', ["t.csv:2: letters stand behind a closing quote"]),
        ('0.png,"stop\n1.png,welcome"\n2.png,c\n', ["t.csv:2: a quoted cell holds line breaks and what looks like"]),
        ('0.png,"he said \\"no\\""\n', ["t.csv:2: letters stand behind a closing quote"]),
        (",a\n", ["t.csv:2: nothing in the column image"]),
        ('0.png,""\n', ["t.csv:2: nothing in the column caption"]),
        ("https://a/b.png,a\n", ["t.csv:2: https://a/b.png: pictures behind URLs must be downloaded"]),
        ("none.png,a\n", ["t.csv:2: no picture"]),
        (b"0.png,a\n1.png,caf\xe9\n", ["t.csv:3: not UTF-8 (byte 0xe9, byte 10 of the line)", "iconv -f CP1252"]),
    ],
)
def test_rows_that_cannot_be_used_are_named_with_their_line(pictures, rows, says):
    rows = rows if isinstance(rows, bytes) else rows.encode()
    with pytest.raises(UserError) as error:
        table(pictures, b"image,caption\n" + rows)
    for words in says:
        assert words in str(error.value)


def test_addresses_are_named_in_whatever_row(pictures, monkeypatch):
    monkeypatch.setattr("mmkit.data.picture_files.CHECK_LIMIT", 1)
    with pytest.raises(UserError, match=r"t.csv:7: https://a/b.png: pictures behind URLs"):
        table(pictures, "image,caption\n" + "0.png,a\n" * 5 + "https://a/b.png,a\n")


def test_a_line_break_or_a_tab_in_a_cell_between_tabs_is_named(pictures):
    with pytest.raises(UserError, match=r"(?s)t.tsv:3: 1 cells, the header has 2; a cell may not hold a line break"):
        table(pictures, "image\tcaption\n0.png\ta dog\nand a cat\n1.png\tb\n", "t.tsv")
    with pytest.raises(UserError, match=r"t.tsv:2: 3 cells, the header has 2"):
        table(pictures, "image\tcaption\n0.png\ta\tdog\n", "t.tsv")


def test_the_line_is_the_files_own_behind_blank_lines_and_long_cells(pictures):
    text = 'image,caption\n\n0.png,"two\nlines"\r\n,,\n\n1.png,b\n'.replace(",,\n", ",\n")
    source = table(pictures, text)
    assert captions(source) == ["two\nlines", "b"]
    assert [source[i].key.rpartition(":")[2] for i in range(2)] == ["3", "7"]


def test_fields_beyond_the_usual_limit_are_read(pictures):
    before = csv.field_size_limit(131_072)
    try:
        long = "word " * 30_000
        assert captions(table(pictures, f'image,caption\n0.png,"{long}"\n1.png,{long}\n')) == [long.strip()] * 2
    finally:
        csv.field_size_limit(max(before, 1 << 30))


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separators_are_recognised_and_header_names_in_any_case(pictures, separator):
    rows = [(" Image ", "CAPTION", "Image ID"), ("0.png", "a dog", "7"), ("1.png", "a cat", "")]
    text = "\ufeff" + "\r\n".join(separator.join(row) for row in rows)
    source = table(pictures, text)
    assert [(source[i].captions, source[i].image_id) for i in range(2)] == [(("a dog",), "7"), (("a cat",), "1.png")]


def test_a_comma_in_a_header_of_semicolons_and_excels_first_line(pictures):
    source = table(pictures, "sep=;\nimage;caption;note, long, very\n0.png;a, b;\n")
    assert captions(source) == ["a, b"]


def test_columns_of_one_name_are_refused_only_where_they_matter(pictures):
    with pytest.raises(UserError, match=r"t.csv:1: 2 columns are called CAPTION \('caption', 'Caption'\); rename"):
        table(
            pictures,
            "image,caption,Caption \n0.png,a,b\n".replace("caption,C", "caption,C"),
            columns={"caption": "CAPTION"},
        )
    with pytest.raises(UserError, match="2 columns are called caption"):
        table(pictures, "image,caption,caption\n0.png,a,b\n")
    assert captions(table(pictures, "image,caption,x,x\n0.png,a,b,c\n")) == ["a"]


def test_a_table_without_header_says_so(pictures):
    with pytest.raises(UserError, match=r"t.csv:1: no column .*The first line must name the columns.*--columns"):
        table(pictures, "0.png,a dog\n1.png,a cat\n")
    with pytest.raises(UserError, match=r"Rename the columns, .*\(for training: of mmkit data import\)"):  # has none
        table(pictures, "file,said\n0.png,a dog\n")
    with pytest.raises(UserError, match="the file is empty"):
        table(pictures, "\n\n")
    with pytest.raises(UserError, match="the table has no rows"):
        table(pictures, "image,caption\n")
    with pytest.raises(UserError, match=r"its lines end in \\r alone"):
        table(pictures, "image,caption\r0.png,a\r")
    with pytest.raises(UserError, match="a quote in the header is not closed"):
        table(pictures, 'image,"caption\n0.png,a\n')


def test_cells_stay_text_and_empty_ones_are_absent(pictures):
    text = "path,label,n\n0.png,007,1.0\n1.png,1.0,\n2.png,NA,2\n"
    source = ClassTable(table(pictures, text, columns={"n": "n", "label": "label"}).path)
    assert list(source.target("label")) == ["007", "1.0", "NA"]
    both = table(pictures, text, columns={"n": "n", "label": "label"}, needs=("label",))
    assert [both[i].targets for i in range(3)] == [
        {"label": "007", "n": "1.0"},
        {"label": "1.0"},
        {"label": "NA", "n": "2"},
    ]


def test_other_separators_of_lines_stay_in_a_cell(pictures):
    text = 'image,caption\n0.png,a\u2028b\x85c\x0bd\x1ce\rf\n1.png,"g\rh"\n'
    assert captions(table(pictures, text)) == ["a\u2028b\x85c\x0bd\x1ce\rf", "g\rh"]


def test_one_id_for_different_pictures_and_rows_of_one_picture(pictures):
    with pytest.raises(UserError, match=r"t.csv:3: image_id '7' is of 1.png here and of 0.png in line 2"):
        table(pictures, "image,caption,image_id\n0.png,a,7\n1.png,b,7\n")
    source = table(pictures, "image,caption\n0.png,a\n./0.png,b\n")
    assert source[0].image_id == source[1].image_id == "0.png"


def test_another_encoding_is_named_at_once(pictures):
    with pytest.raises(UserError, match=r"t.csv:1: not UTF-8.*iconv -f UTF-16 "):
        table(pictures, "image,caption\n0.png,a\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"t.csv:1: not UTF-8.*iconv -f UTF-16LE "):
        table(pictures, "image,caption\n0.png,a\n".encode("utf-16-le"))


def test_columns_are_parsed():
    assert columns_of("image=a b, label=c") == {"image": "a b", "label": "c"}
    with pytest.raises(UserError, match="with FIELD one of image"):
        columns_of("label=c", ("image",))


def test_the_very_name_of_a_column_comes_before_one_in_other_letters(pictures):
    (pictures / "t.csv").write_text("Image,image,caption\n1.png,0.png,a\n")
    assert Table(pictures / "t.csv")[0].image.name == "0.png"
    with pytest.raises(UserError, match="write FIELD=COLUMN"):
        columns_of("image=a,image=b")


def test_rows_that_cannot_be_used_leave_no_trace_where_problems_are_collected(pictures):
    (pictures / "t.csv").write_text("image,caption\n0.png,\n1.png,one\n")
    (pictures / "q.csv").write_text("image,question,answers\n0.png,a?,\n1.png,b?,x\n")
    with collecting() as found:
        table, asked = Table(pictures / "t.csv"), open_source(pictures / "q.csv", {"question"})
    assert [(table[i].image.name, table[i].captions) for i in range(len(table))] == [("1.png", ("one",))]
    assert list(asked.captions()) == ["b?"]
    assert len(found) == 2


@pytest.mark.parametrize(("answer", "kind"), [("3.5", "number"), ("3.5.1", "other"), ("No", "yes/no"), ("2", "number")])
def test_types_of_answers(answer, kind):
    assert guess_type(answer) == kind


LISTS = ["""['a dog', 'a cat']""", '["a dog","a cat"]', """["it's a dog" 'a cat']""", " [ 'a' ] "]


@pytest.mark.parametrize("cell", LISTS)
def test_a_list_written_as_one_text_is_no_caption_answer_or_label(pictures, cell):
    quoted = '"' + cell.replace('"', '""') + '"'
    for header, wants, row in (
        ("image,caption", {"caption"}, f"0.png,one\n1.png,{quoted}\n"),
        ("image,question,answers", {"question"}, f"0.png,what?,one\n1.png,what?,{quoted}\n"),
    ):
        (pictures / "t.csv").write_text(f"{header}\n{row}")
        with pytest.raises(UserError, match=r't\.csv:3: "\w+" is a list written as one text, .*; give each a row'):
            open_source(pictures / "t.csv", wants)
    (pictures / "t.csv").write_text(f"image,label\n0.png,{quoted}\n")
    with pytest.raises(UserError, match=r't\.csv:2: "label" is a list written as one text'):
        with_classes(open_source(pictures / "t.csv", {"label"}), None)
    (pictures / "t.jsonl").write_text(json.dumps({"image": "0.png", "caption": cell}))
    with pytest.raises(UserError, match=r't\.jsonl:1: "caption" is a list written as one text'):
        open_source(pictures / "t.jsonl", {"caption"})


@pytest.mark.parametrize("cell", ["[a dog]", "a 'dog' ['x']", "['x'] on a sign", "[UNK]", "[]"])
def test_brackets_in_a_caption_are_letters(pictures, cell):
    assert captions(table(pictures, f"image,caption\n0.png,{cell}\n")) == [cell]


@pytest.mark.parametrize("cell", ["\u200b", "\ufeff\u200b", "\x00"])
def test_a_caption_of_signs_that_nobody_sees_is_empty(pictures, cell):
    with pytest.raises(UserError, match=r't\.csv:2: "caption" is empty'):
        table(pictures, f"image,caption\n0.png,{cell}\n")
    assert captions(table(pictures, f"image,caption\n0.png,{cell}a\n")) == [f"{cell}a"]
