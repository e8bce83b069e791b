"""Rows of Parquet files where they lie: those that ``datasets`` gives, in order and in none."""

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.data_files import DataFilesDict, get_data_patterns

from mmkit.cli.main import main
from mmkit.data.sources import arrow, hugging_face, parquet
from mmkit.data.sources.arrow import Loaded, open_rows
from mmkit.data.sources.hugging_face import HuggingFace
from mmkit.data.sources.open import open_records, open_source
from mmkit.data.sources.parquet import Groups, Parquet
from mmkit.errors import UserError

FEATURES = datasets.Features({
    "image": datasets.Image(), "caption": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"]),
    "boxes": [{"name": datasets.Value("string"), "box": datasets.List(datasets.Value("int32"))}],
})  # fmt: skip


def table(first, n):
    rows = [
        {
            "image": {"bytes": b"%d" % i, "path": f"{i}.png"}, "caption": f"row {i}", "label": i % 2,
            "boxes": [{"name": "dog", "box": [i, 0]}] * (i % 3),
        }
        for i in range(first, first + n)
    ]  # fmt: skip
    return datasets.Dataset.from_list(rows, features=FEATURES)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two files of 40 and 25 rows, in groups of 12 and 10 rows."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet, "BATCH", 5)
    monkeypatch.setattr(parquet, "FAR", 15)
    names = [tmp_path / "rows/test-0.parquet", tmp_path / "rows/test-1.parquet"]
    names[0].parent.mkdir()
    table(0, 40).to_parquet(str(names[0]), batch_size=12)
    table(40, 25).to_parquet(str(names[1]), batch_size=10)
    assert [pq.read_metadata(name).num_row_groups for name in names] == [4, 3]
    return names


def never():
    raise AssertionError("loaded by datasets")


def all_of(rows):
    return [rows.row(i) for i in range(len(rows))]


def test_rows_are_those_that_datasets_gives(files):
    ours, theirs = Parquet(files, never), Loaded(datasets.concatenate_datasets([table(0, 40), table(40, 25)]))
    assert (len(ours), ours.names) == (len(theirs), theirs.names) == (65, list(FEATURES))
    assert all_of(ours) == all_of(theirs)
    assert ours.row(64)["boxes"] == [{"name": "dog", "box": [64, 0]}]
    for rows in (ours, theirs):
        assert [rows.class_names(name) for name in FEATURES] == [None, None, ["a", "b"], None]
        batches = list(rows.batches(["label", "caption", "label"], 7))
        assert [start for start, _ in batches] == [sum(b.num_rows for _, b in batches[:k]) for k in range(len(batches))]
        assert max(batch.num_rows for _, batch in batches) == 7
        assert [text for _, batch in batches for text in batch["caption"].to_pylist()] == [
            f"row {i}" for i in range(65)
        ]
        assert batches[0][1].schema.names == ["label", "caption"]
        rows.select(["caption"])
        assert rows.row(13) == {"caption": "row 13"}


@pytest.mark.parametrize("said", [
    None, b"", b"[]", b"{}", b'{"info": {"features": []}}', b'{"info": {"features": {"x": [{"names": ["a"]}]}}}',
    b'{"info": {"features": {"x": {"names": null}}}}', b"\xff",
])  # fmt: skip
def test_what_a_file_does_not_say_of_its_classes_is_not_known(tmp_path, said):
    table = pa.table({"x": [1]})
    pq.write_table(
        table if said is None else table.replace_schema_metadata({"huggingface": said}), tmp_path / "a.parquet"
    )
    rows = Parquet([tmp_path / "a.parquet"], never)
    assert (rows.class_names("x"), rows.row(0)) == (None, {"x": 1})


@pytest.mark.parametrize("order", [range(0, 65, 4), range(3, 65, 15), [2, 0, 3, 1, 5, 4, 12, 11, 9, 20, 18, 64, 50]])
def test_rows_that_are_near_are_read_in_passing(files, order):
    rows = Parquet(files, never)
    assert [rows.row(i)["caption"] for i in order] == [f"row {i}" for i in order]


def test_what_was_read_is_kept_for_a_while(files):
    rows = Parquet(files, never)
    for i in [*[0, 14] * 20, *[29, 17] * 20]:  # four batches of at most five, none over the end of a group
        assert rows.row(i)["caption"] == f"row {i}"


def test_what_is_far_is_jumped_to(files):
    for index, jumps in ((14, 0), (15, 1)):
        rows = Parquet(files, never)
        rows.row(index)
        assert rows._jumps == jumps


def test_who_reads_in_no_order_gets_what_datasets_loads(files, monkeypatch):
    monkeypatch.setattr(parquet, "FAR", 1)
    made = []

    def copy():
        made.append(Loaded(datasets.concatenate_datasets([table(0, 40), table(40, 25)])))
        return made[-1]

    rows = Parquet(files, copy)
    rows.select(["caption"])
    order = [60, 2, 55, 3, 62, 1, 50, 8]
    for copies in (0, 1):
        assert [rows.row(i) for i in order] == [{"caption": f"row {i}"} for i in order]
        assert len(made) == copies


def test_a_row_far_inside_of_a_group_is_no_reason_to_read_all_before_it(files, monkeypatch):
    monkeypatch.setattr(parquet, "FAR", 1)
    loaded = Loaded(table(0, 65))
    assert Parquet(files, lambda: loaded)._loaded is None
    rows = Parquet(files, lambda: loaded)
    rows.row(8)
    assert rows._loaded is None
    rows.row(12 + 9)
    assert rows._loaded is loaded
    rows = Parquet(files, never)
    rows.row(12 + 8)


def test_several_threads_read_at_once(files):
    rows, order = Parquet(files, lambda: Loaded(table(0, 65))), list(range(65)) * 3
    random.Random(0).shuffle(order)
    for given in (range(65), order):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda i: rows.row(i)["caption"], given)) == [f"row {i}" for i in given]


def test_a_copy_in_another_process_reads_on(files):
    source = HuggingFace(files[0].parent, split="test", in_order=True)
    wanted = [source[i] for i in range(65)]
    again = pickle.loads(pickle.dumps(source))
    assert [again[i] for i in range(65)] == wanted
    assert isinstance(source.rows, Parquet)


def test_how_what_is_trained_on_is_read(files):
    """Pictures in Parquet where they lie; rows whose pictures lie elsewhere as ``datasets`` loads them, at once."""
    names = {"image": "image", "caption": "caption", "label": "label"}
    trained, measured = open_records(files[0], columns=names), open_source(files[0], {"caption"}, columns=names)
    assert (type(trained.rows), type(measured.rows)) == (Groups, Parquet)
    assert [trained[i] for i in range(40)] == [measured[i] for i in range(40)]
    assert not (files[0].parents[1] / "cache").exists()
    elsewhere = pa.table({"image": [str(files[0])], "caption": ["a"]})  # any file that is there
    pq.write_table(elsewhere, files[0].parent / "a.parquet")
    assert type(open_records(files[0].parent / "a.parquet").rows) is Loaded


def test_groups_are_decoded_once_and_the_last_ones_stay(files, monkeypatch):
    decoded, read = [], pq.ParquetFile.read_row_group

    def counting(self, number, **options):
        decoded.append((len(self.schema_arrow), number))
        return read(self, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    theirs = Loaded(datasets.concatenate_datasets([table(0, 40), table(40, 25)]))
    rows = Groups(files)
    assert (rows.neighbours, len(rows), rows.names) == (None, 65, theirs.names)
    order = list(range(65)) * 3
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(rows.row, order)) == [theirs.row(i) for i in order]
    assert len(decoded) == 7
    size = max(rows._table(group).nbytes for group in range(7))
    monkeypatch.setattr(parquet, "MEMORY", 2 * size)
    small = Groups(files)
    assert small.neighbours == (10, max(1, 2 * size // (small.bytes // 7) // 2))  # 65 rows in 7 groups
    decoded.clear()
    for index, groups in ((0, 1), (11, 1), (12, 2), (0, 2), (64, 3), (0, 3), (13, 4), (64, 5)):
        assert small.row(index) == theirs.row(index)
        assert len(decoded) == groups, index
    small.select(["caption"])
    assert small.row(64) == {"caption": "row 64"}
    assert pickle.loads(pickle.dumps(small)).row(3) == {"caption": "row 3"}
    monkeypatch.setattr(parquet, "MEMORY", 1)
    two = Groups(files)  # at least
    assert two.neighbours[1] == 1
    decoded.clear()
    for index, groups in ((0, 1), (64, 2), (1, 2), (63, 2), (20, 3), (64, 3), (0, 4)):
        assert two.row(index) == theirs.row(index)
        assert len(decoded) == groups, index
    monkeypatch.setattr(parquet, "MEMORY", Groups(files).bytes // 2)
    assert Groups(files).neighbours == (10, 1)  # three groups of seven, so that one block and where it lies stay


def test_groups_too_large_to_keep_and_files_that_change_are_named(files, monkeypatch, caplog):
    rows = Groups(files)
    assert not caplog.text
    rows.row(64)
    table(40, 24).to_parquet(str(files[1]))
    with pytest.raises(UserError, match=r"test-1.parquet: was changed while it was in use"):
        rows.row(50)
    assert rows.row(39)["caption"] == "row 39"
    monkeypatch.setattr(parquet, "MEMORY", 100)
    Groups(files)
    assert "a group of rows has 0 MB" in caplog.text
    assert "row_group_size=100" in caplog.text


def test_a_long_file_is_not_read_through_before_a_run(files, monkeypatch, caplog, capsys):
    """Of pictures in Parquet a look at the first must do; ``data check`` looks at all."""
    broken = table(0, 60).to_list()
    broken[50]["image"] = None
    long = files[0].parent / "long.parquet"
    datasets.Dataset.from_list(broken, features=FEATURES).to_parquet(str(long), batch_size=10)
    with pytest.raises(UserError, match=r"long.parquet:50: column 'image' is empty"):
        HuggingFace(long)
    monkeypatch.setattr(hugging_face, "CHECKED", 1)
    caplog.set_level("INFO", "mmkit")
    with pytest.raises(UserError, match=r"long.parquet:50: column 'image' is empty in 1 of the 10 rows from here on"):
        HuggingFace(long)  # which the file counts
    assert "looked at the first 10 of 60 pictures only" in caplog.text
    assert main(["data", "check", str(long)]) == 2
    assert "long.parquet:50: column 'image' is empty\n" in capsys.readouterr().err


def test_what_the_files_count_themselves(tmp_path):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pictures = [(b"a", None), (None, "a.png"), None, (None, None), (b"b", "b.png"), (b"c", None)]
    rows = {
        "image": pa.array(
            [None if p is None else dict(zip(("bytes", "path"), p, strict=True)) for p in pictures], kind
        ),
        "caption": ["a", None, "b", "c", "d", None],
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=2)
    pq.write_table(pa.table(rows), tmp_path / "b.parquet", row_group_size=6)
    found = Groups([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert list(found.without("caption", 0)) == [(0, 2, 1), (4, 2, 1), (6, 6, 2)]
    assert list(found.without("caption", 2)) == [(4, 2, 1), (6, 6, 2)]
    assert list(found.without("image", 0)) == [(2, 2, 2), (6, 6, 2)]
    assert list(found.without("other", 0)) == []


def test_a_picture_among_the_targets_stays_encoded(files):
    for in_order in (False, True):
        source = HuggingFace(files[0], targets={"second": "image"}, in_order=in_order)
        assert source[7].targets == {"second": b"7"} == {"second": source[7].image}


@pytest.mark.parametrize("names", [
    ["a.parquet", "b.parquet"], ["train.parquet", "test.parquet"], ["train-1.parquet", "train-0.parquet", "x.parquet"],
    ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/odd-00000-of-00001-ab.parquet"],
    ["train/a.parquet", "val/b.parquet", "test.parquet"], ["my_dev_set/a.parquet", "rest.parquet"],
    ["training.parquet", "trains.parquet", "2test3.parquet"], ["data/eval.parquet", "data/evals.parquet"],
    ["contest.parquet", "latest-valid.parquet"],
    ["data/train-00000-of-00001.parquet", "test.parquet"],
    ["test/train.parquet", "train.parquet"], [".a.parquet", "a.parquet"],
])  # fmt: skip
def test_files_are_of_the_splits_that_datasets_finds(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [1]}), tmp_path / name)
    found = DataFilesDict.from_patterns(get_data_patterns(str(tmp_path)), base_path=str(tmp_path))
    assert set(arrow._splits([name for name in names if name[0] != "."])) == set(found)
    for split, files in found.items():
        assert list(map(str, arrow._parquet_files(tmp_path, split))) == list(files)
    with pytest.raises(UserError, match=r"split 'none': cannot be loaded: there are \['.*\]\. Give --split"):
        open_rows(str(tmp_path), "none", None)


CONFIGS = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: odd
    path: data/odd-*
---
"""


@pytest.mark.parametrize(("old", "new", "ours"), [
    ("", "", True), ("data/odd-*", "data/o*", False), ("split: odd", "split: test", False),
    ("---\n\n", "- config_name: more\n  data_files: data/odd-*\n---\n", False),
    ("  - split: odd\n    path: data/odd-*", "  - path: data/odd-*\n    split: odd", False),
])  # fmt: skip
def test_a_card_that_names_the_shards_by_their_splits_says_nothing_new(tmp_path, old, new, ours):
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "odd-00000-of-00001"):
        pq.write_table(pa.table({"x": [1]}), tmp_path / f"data/{name}.parquet")
    (tmp_path / "README.md").write_text(f"{CONFIGS}\n".replace(old, new) if old else CONFIGS)
    found = arrow._parquet_files(tmp_path, "train")
    assert (found is not None) == ours
    if ours:
        for split, files in datasets.load_dataset_builder(str(tmp_path)).config.data_files.items():
            assert list(map(str, arrow._parquet_files(tmp_path, split))) == list(files)


@pytest.mark.parametrize(("name", "content"), [
    ("README.md", b"---\nconfigs:\n- config_name: default\n---"), ("b.csv", b"x\n1\n"), ("_more.parquet", b""),
    ("_more/b.parquet", b""),
])  # fmt: skip
def test_what_only_datasets_can_tell_is_left_to_it(tmp_path, name, content):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\n---\nThe configs: many")
    assert arrow._parquet_files(tmp_path, "train") == [tmp_path / "a.parquet"]
    assert arrow._parquet_files(tmp_path, "train[:1]") is None
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    assert arrow._parquet_files(tmp_path, "train") is None


@pytest.mark.parametrize(("copy", "asked"), [
    (None, 1), ("sets/me___mine", 0), ("hub/datasets--me--mine", 0), ("sets/me___other", 1), ("sets/mine", 1),
])  # fmt: skip
def test_the_hub_is_asked_in_vain_for_seconds_alone(tmp_path, monkeypatch, copy, asked):
    monkeypatch.setattr("mmkit.network.hub_answers", lambda: False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "sets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(arrow, "_load", lambda name, split, config: f"loaded {name}")
    if copy is not None:
        (tmp_path / copy).mkdir(parents=True)
    if asked:
        with pytest.raises(
            UserError, match=r"'me/mine', split 'test': .* cannot be reached\. .*hf download .* me/mine "
        ):
            open_rows("me/mine", "test", None)
    else:
        assert open_rows("me/mine", "test", None) == "loaded me/mine"


def test_what_is_here_is_not_asked_for(tmp_path, files, monkeypatch):
    monkeypatch.setattr("mmkit.network.hub_answers", never)
    monkeypatch.setattr(arrow, "_load", lambda name, split, config: (split, config))
    assert open_rows(str(files[0].parent), "test", "mine") == ("test", "mine")
    (tmp_path / "rows/more.csv").write_text("x")
    assert open_rows(str(files[0].parent), "test", None) == ("test", None)


def test_bad_files_are_named(tmp_path, files):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no table")
    for name, said in (
        ("bad.parquet", "bad.parquet: cannot be loaded, damaged"),
        ("no.parquet", "no.parquet: no such"),
    ):
        with pytest.raises(UserError, match=said):
            open_rows(str(tmp_path / name), "test", None)
    pq.write_table(pa.table({"x": [1]}), files[0].with_name("test-2.parquet"))
    with pytest.raises(UserError, match=r"test-2.parquet: has the columns x; .*test-0.parquet has image, caption"):
        open_rows(str(files[0].parent), "test", None)
    rows = Parquet(files, never)
    content = files[1].read_bytes()
    files[1].write_bytes(content[:4] + b"\xff" * 400 + content[404:])
    with pytest.raises(UserError, match=r"test-1.parquet: damaged, or changed meanwhile"):
        all_of(rows)
