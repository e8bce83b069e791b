"""Rows of a file by number: from threads, after a fork, and of files that change."""

import json
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmkit.data.records import JsonLines
from mmkit.data.row_file import RowFile
from mmkit.errors import UserError
from tests.data.conftest import write


def rows_of(path):
    rows = RowFile(path, "rows")
    for number, start, line in rows.physical_lines():
        if line.strip():
            rows.add(number, start, len(line))
    return rows


def test_rows_with_blank_lines_both_ends_and_no_last_one(tmp_path):
    (tmp_path / "a").write_bytes(b"one\r\n\n\xc3\xa9 two\x0b\n three")
    rows = rows_of(tmp_path / "a")
    assert [rows[i] for i in (0, 1, 2, -1)] == [b"one\r\n", b"\xc3\xa9 two\x0b\n", b" three", b" three"]
    assert list(rows.lines) == [1, 3, 4]
    assert rows.beginning(3) == b"one"
    with pytest.raises(IndexError):
        rows[3]


def test_the_last_row_may_be_taken_back(tmp_path):
    (tmp_path / "a").write_bytes(b"one\nfour\nseven\n")
    rows = RowFile(tmp_path / "a", "rows")
    rows.add(1, 0, 4)
    rows.add(2, 4, 5)
    rows.drop_last()
    rows.add(3, 9, 6)
    assert ([rows[i] for i in range(len(rows))], list(rows.lines)) == ([b"one\n", b"seven\n"], [1, 3])


def test_bytes_beyond_four_gibibytes_are_found(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.write(b"one\n")
        file.truncate(5 << 30)  # a hole, which takes no space
        file.seek(5 << 30)
        file.write(b"last\n")
    rows = RowFile(tmp_path / "a", "rows")
    rows.add(1, 0, 4)
    rows.add(2, 5 << 30, 5)
    assert [rows[0], rows[1]] == [b"one\n", b"last\n"]


def test_threads_read_their_own_rows(tmp_path):
    (tmp_path / "a").write_text("".join(f"{i} " + "x" * (i % 97) + "\n" for i in range(3000)))
    rows = rows_of(tmp_path / "a")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: rows[i], [*range(3000)] * 3))
    assert [int(row.split()[0]) for row in found] == [*range(3000)] * 3


def _child(rows, queue):
    queue.put([rows[i] for i in (1, 0)])


def test_a_forked_process_reads_without_moving_the_others_position(tmp_path):
    (tmp_path / "a").write_text("one\ntwo\n")
    rows, context = rows_of(tmp_path / "a"), multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_child, args=(rows, queue))
    process.start()
    assert queue.get(timeout=20) == [b"two\n", b"one\n"]
    process.join()
    assert rows[0] == b"one\n"
    assert pickle.loads(pickle.dumps(rows))[1] == b"two\n"


@pytest.mark.parametrize("change", ["shorter", "longer", "rewritten"])
def test_a_file_that_changed_is_named(tmp_path, change):
    path = tmp_path / "a"
    path.write_text("one\ntwo\n")
    rows = rows_of(path)
    copy = pickle.dumps(rows)
    if change == "shorter":
        os.truncate(path, 5)
    elif change == "longer":
        with path.open("a") as file:
            file.write("three\n")
    else:
        path.write_text("two\none\n")
        os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=r"a: the file was changed while it was in use"):
        rows[1]
    with pytest.raises(UserError, match=r"a: the file was changed while it was in use"):
        pickle.loads(copy)[1]


def test_a_file_that_is_replaced_by_another_stays_readable(tmp_path):
    (tmp_path / "a").write_text("one\ntwo\n")
    rows = rows_of(tmp_path / "a")
    (tmp_path / "b").write_text("another\n")
    (tmp_path / "b").replace(tmp_path / "a")
    assert rows[1] == b"two\n"


def test_a_file_that_grows_while_it_is_looked_through(tmp_path):
    path = tmp_path / "a"
    path.write_text("one\ntwo\n")
    lines = RowFile(path, "rows").physical_lines()
    next(lines)
    with path.open("a") as file:
        file.write("three\n")
    with pytest.raises(UserError, match="changed while"):
        list(lines)


def test_a_row_that_the_file_does_not_hold_to_its_end_is_an_error(tmp_path):
    (tmp_path / "a").write_text("one\ntwo\n")
    rows = RowFile(tmp_path / "a", "rows")
    rows.add(2, 4, 5)  # one byte more than there is
    with pytest.raises(UserError, match="a: the file became shorter"):
        rows[0]


def test_what_is_no_file_says_what_was_expected(tmp_path):
    with pytest.raises(UserError, match="is a folder, not a file; expected rows"):
        RowFile(tmp_path, "rows")
    with pytest.raises(UserError, match="no such file; expected rows"):
        RowFile(tmp_path / "zzz", "rows")


def test_records_from_threads(pictures):
    rows = [{"image": f"{i % 6}.png", "caption": f"caption {i} " + "x" * (i % 61), "n": i} for i in range(2000)]
    source = JsonLines(write(pictures / "b.jsonl", rows))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: source[i], range(2000)))
    assert [(r.targets["n"], r.image.name) for r in found] == [(i, f"{i % 6}.png") for i in range(2000)]
    assert json.loads(source.rows[7])["n"] == 7
