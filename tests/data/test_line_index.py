"""The index of a file of JSON lines, or of a table: made once, mapped by all, and never believed of another file."""

import json
import os
import pickle
import shutil
import threading
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmkit.cli.main import main
from mmkit.data import line_index
from mmkit.data.line_index import indexing
from mmkit.data.records import JsonLines, captions_of, described
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.table import Table
from mmkit.errors import UserError


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Five rows about three pictures, one of them under two names; an index is made of files of any size."""
    monkeypatch.setenv("MMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(line_index, "LARGE", 0)
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(name.encode())
    (folder / "link.png").symlink_to("a.png")
    return write(folder / "rows.jsonl", [
        {"image": "a.png", "caption": "ein Ä", "label": 1},
        {"image": "./b.png", "caption": ["two", "zwei"], "label": 2},
        {"image": "link.png", "caption": "three", "label": 3}, {"image": "c.png", "caption": "4", "image_id": 7},
    ])  # fmt: skip


def write(path, rows):
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    return path


def index_of(path):
    return path.with_name(f".{path.name}.mmkit-index")


def never(self, look):
    raise AssertionError("read through")


def everything(source):
    records = [source[i] for i in range(len(source))]
    return records, list(captions_of(source)), list(described(source)), list(source.lines), source.files.same


def test_what_is_mapped_is_what_was_read(file, monkeypatch):
    monkeypatch.setattr(line_index, "LARGE", 10_000)
    plain = JsonLines(file)
    assert not index_of(file).exists()  # of a small file
    monkeypatch.setattr(line_index, "LARGE", file.stat().st_size)
    made = JsonLines(file)
    assert index_of(file).is_file()
    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "_validate", never)
        mapped = JsonLines(file)
    for source in (made, mapped, pickle.loads(pickle.dumps(mapped))):
        assert isinstance(source.rows.starts, memoryview)
        assert everything(source) == everything(plain)
    assert list(plain.lines) == [1, 3, 5, 7]
    assert plain.files.same == {"link.png": "a.png"}
    assert mapped[-1 % 4].image_id == "7"
    for one, other in zip(plain.files.hashes(), mapped.files.hashes(), strict=True):
        assert one.tolist() == other.tolist()
    with pytest.raises(IndexError):
        mapped[4]
    assert len(pickle.dumps(mapped)) < 2_000


def test_an_index_is_of_one_state_of_one_file_in_one_folder(file, tmp_path, caplog):
    JsonLines(file)
    rows = [{"image": "b.png", "caption": "short"}, {"image": "a.png", "caption": "a longer one"}]
    for order in (rows, rows[::-1]):  # of one size
        write(file, order)
        os.utime(file, ns=(len(order[0]["caption"]), len(order[0]["caption"])))
        assert list(JsonLines(file).captions()) == [row["caption"] for row in order]
    write(file, [{"image": "b.png", "caption": "new"}])
    assert list(JsonLines(file).captions()) == ["new"]
    time = index_of(file).stat().st_mtime_ns
    assert list(JsonLines(file).captions()) == ["new"]
    assert index_of(file).stat().st_mtime_ns == time
    shutil.copytree(file.parent, tmp_path / "moved", symlinks=True)
    moved = JsonLines(tmp_path / "moved/rows.jsonl")
    assert moved[0].image == tmp_path / "moved/b.png"
    (ids, pictures), (own_ids, own_pictures) = JsonLines(file).files.hashes(), moved.files.hashes()
    assert (ids == own_ids).all()
    assert (pictures != own_pictures).all()  # which the places of pictures tell apart
    whole = index_of(file).read_bytes()
    for damaged in (b"", whole[:60], whole.replace(b"lines 1", b"lines 0"), whole.replace(b'"rows"', b'"rowt"')):
        index_of(file).write_bytes(damaged)
        caplog.clear()
        assert list(JsonLines(file).captions()) == ["new"]
        assert (damaged == whole.replace(b"lines 1", b"lines 0")) != ("index is damaged" in caplog.text)
        assert index_of(file).read_bytes() == whole


def test_another_root_or_other_keys_are_another_index(file, tmp_path):
    JsonLines(file)
    shutil.copytree(file.parent, tmp_path / "other", symlinks=True)
    assert JsonLines(file, root=tmp_path / "other")[0].image == tmp_path / "other/a.png"
    named = JsonLines(file, columns={"kind": "label"}, needs=())
    assert [named[i].targets for i in (0, 3)] == [{"kind": 1}, {}]
    assert len(list(file.parent.glob(".rows.jsonl*.mmkit-index"))) == 3
    assert JsonLines(file)[0].image == file.parent / "a.png"


def test_an_index_says_what_all_rows_hold(file, monkeypatch):
    JsonLines(file, needs=())
    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "_validate", never)
        JsonLines(file, needs=("caption",))  # which all have
    with pytest.raises(UserError, match=r'rows.jsonl:7: no key "label"'):
        JsonLines(file, needs=("caption", "label"))
    for empty in ("", " ", [], None):
        write(file, [{"image": "a.png", "caption": "a", "n": 1}, {"image": "b.png", "caption": empty, "n": 2}])
        JsonLines(file, needs=())
        with pytest.raises(UserError, match=r"rows.jsonl:3: "):
            JsonLines(file)
    JsonLines(file, needs=("n",))


def test_what_is_wrong_is_named_and_makes_no_index(file):
    file.write_text(file.read_text() + '{"image": "a.png", "caption": 3}\n{"image": "x.png", "caption": "a"}\n{\n')
    with pytest.raises(UserError, match=r"3 of 7 lines .*1 x bad caption, 1 x malformed JSON, 1 x missing picture"):
        JsonLines(file)
    assert not index_of(file).exists()


def test_pictures_that_went_since_are_named(file, capsys):
    JsonLines(file)
    (file.parent / "b.png").unlink()
    with pytest.raises(UserError, match=r"rows.jsonl:3: no picture .*b.png"):
        JsonLines(file)
    assert main(["data", "check", str(file)]) == 2  # reads the file, whatever the index says
    assert "b.png" in capsys.readouterr().err


def test_where_nothing_can_be_written_the_index_lies_with_the_user(file, tmp_path, monkeypatch, caplog):
    index_of(file).mkdir()
    caplog.set_level("INFO", "mmkit")
    assert isinstance(JsonLines(file).rows.starts, memoryview)
    assert "the index goes elsewhere" in caplog.text
    [place] = (tmp_path / "cache/indexes").iterdir()
    assert place.name.endswith(".rows.jsonl.mmkit-index")
    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "_validate", never)
        assert len(JsonLines(file)) == 4
    place.unlink()
    place.mkdir()
    source = JsonLines(file)
    assert not isinstance(source.rows.starts, memoryview)  # as it was read
    assert [source[i].captions for i in range(4)] == [("ein Ä",), ("two", "zwei"), ("three",), ("4",)]


def test_processes_wait_for_the_one_that_reads(file, monkeypatch):
    reads, started, whole = [], threading.Event(), JsonLines._validate

    def slow(self, look):
        reads.append(look)
        started.set()
        other.join(0.3)
        return whole(self, look)

    monkeypatch.setattr(JsonLines, "_validate", slow)
    found = []
    other = threading.Thread(target=lambda: started.wait() and found.append(JsonLines(file)))
    other.start()
    first = JsonLines(file)
    other.join()
    assert reads == [True]
    assert everything(found[0]) == everything(first)


def test_ids_of_an_indexed_file_beside_one_that_is_not(file, tmp_path, monkeypatch, caplog):
    indexed = JsonLines(file)
    monkeypatch.setattr(line_index, "LARGE", 10_000)
    (tmp_path / "d.png").write_bytes(b"d")
    plain = JsonLines(write(tmp_path / "other.jsonl", [{"image": "d.png", "caption": "d", "image_id": 7}]))
    both = Joined([indexed, plain])
    assert "1 image_ids are of different pictures in different parts (7)" in caplog.text
    assert both[3].image_id == str(file.parent / "c.png")
    assert both[4].image_id == str(tmp_path / "d.png")


def test_the_command(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(line_index, "LARGE", 10_000)
    assert main(["data", "index", str(file), "--json", str(tmp_path / "n")]) == 0
    assert json.loads((tmp_path / "n").read_text()) == {"records": 4, "index": str(index_of(file))}
    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "_validate", never)
        assert len(JsonLines(file)) == 4  # small as it is
        assert main(["data", "index", str(file), "--json", str(tmp_path / "n")]) == 0
    pq.write_table(pa.table({"image": [b"a"], "caption": ["a"]}), file.parent / "test.parquet")
    assert main(["data", "index", str(file.parent / "test.parquet")]) == 2
    assert "test.parquet: needs no index" in capsys.readouterr().err
    assert main(["data", "index", str(file.parent), "--images", "x"]) == 2
    assert "--images: has no meaning" in capsys.readouterr().err
    assert main(["data", "index", str(file.parent / "none")]) == 2


def test_tables_have_one_too(file, monkeypatch):
    path = file.parent / "t.csv"
    path.write_text('image,title,label\na.png,"one,\n two",x\n\nb.png,three,\n')
    monkeypatch.setattr(line_index, "LARGE", 10_000)
    plain = Table(path, needs=())
    monkeypatch.setattr(line_index, "LARGE", 0)
    made = Table(path)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "_read", never)
        mapped = Table(path, needs=())
    for source in (made, mapped, pickle.loads(pickle.dumps(mapped))):
        assert isinstance(source.rows.starts, memoryview)
        assert everything(source) == everything(plain)
    assert list(plain.lines) == [2, 5]
    with pytest.raises(UserError, match=r"t.csv:5: nothing in the column label"):
        Table(path, needs=("label",))
    named = Table(path, columns={"caption": "label"}, needs=())
    assert [named[i].captions for i in (0, 1)] == [("x",), ()]
    (file.parent / "a.png").unlink()
    with pytest.raises(UserError, match=r"t.csv:2: no picture .*a.png"):
        Table(path)
    path.write_text("image,title\nb.png,new\n")
    assert list(Table(path).captions()) == ["new"]


def test_a_million_rows_take_no_memory(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"a")
    line = b'{"image": "a.png", "caption": "a"}\n'
    path, n = tmp_path / "rows.jsonl", 20_000
    path.write_bytes(line * n)
    with indexing():
        JsonLines(path)
    monkeypatch.setattr(JsonLines, "_validate", never)
    tracemalloc.start()
    source = JsonLines(path)
    assert tracemalloc.get_traced_memory()[0] < 300_000  # of 800,000
    assert source[n - 1].key == f"{path}:{n}"
    tracemalloc.stop()
