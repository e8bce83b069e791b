"""Folders and Hugging Face data sets as sources."""

import pytest

from mmkit.data.images.opening import BadImage, load_image
from mmkit.data.records import captions_of, described
from mmkit.data.sources.class_folder import ClassFolder, is_class_folder
from mmkit.data.sources.folder import Folder
from mmkit.data.sources.hugging_face import HuggingFace
from mmkit.errors import UserError
from mmkit.evals.retrieval import Retrieval
from tests.evals.parts import predictor


def test_folder_with_captions_beside(pictures):
    for i in range(6):
        (pictures / f"{i}.txt").write_text(f"picture {i}\n\nsecond line {i}\n", "utf-8")
    source = Folder(pictures)
    assert len(source) == 6
    assert source[2].captions == ("picture 2", "second line 2")
    assert source[2].image == pictures / "2.png"
    (pictures / "2.txt").unlink()
    (pictures / "3.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"2 of 6 pictures.*\n.*2.png: no 2.txt beside it\n.*3.png: 3.txt is empty"):
        Folder(pictures)
    with pytest.raises(UserError, match="no such folder"):
        Folder(pictures / "nope")


def test_class_folder(pictures):
    for i in range(6):
        folder = pictures / "classes" / ("dog" if i % 2 else "cat")
        folder.mkdir(parents=True, exist_ok=True)
        (pictures / f"{i}.png").rename(folder / f"{i}.png")
    source = ClassFolder(pictures / "classes")
    assert source.class_names == ["cat", "dog"]
    assert [source[i].targets["label"] for i in range(6)] == [0, 0, 0, 1, 1, 1]
    (pictures / "classes" / "cat" / "0.png").rename(pictures / "classes" / "0.png")
    with pytest.raises(UserError, match="beside the class folders"):
        ClassFolder(pictures / "classes")


def test_what_a_class_folder_is(pictures):
    for name in ("a", "b"):
        (pictures / "classes" / name).mkdir(parents=True)
    assert not is_class_folder(pictures / "classes")  # nothing in it
    (pictures / "0.png").rename(pictures / "classes" / "a" / "0.png")
    assert is_class_folder(pictures / "classes")
    (pictures / "1.png").rename(pictures / "classes" / "1.png")
    assert not is_class_folder(pictures / "classes")
    (pictures / "classes" / "1.png").rename(pictures / "classes" / "b" / "1.png")
    (pictures / "classes" / "b" / "1.txt").write_text("a caption")
    assert not is_class_folder(pictures / "classes")


def test_a_damaged_picture_is_named_once(pictures):
    folder = pictures / "classes" / "a"
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(b"no picture")
    with pytest.raises(BadImage) as found:
        load_image(ClassFolder(pictures / "classes")[0])
    assert str(found.value) == f"{folder / 'x.png'}: not a picture in a known format"


@pytest.fixture
def parquet(pictures):
    datasets = pytest.importorskip("datasets")
    rows = {
        "photo": [str(pictures / f"{i}.png") for i in range(3)],
        "text": ["a dog", "a cat", "a car"],
        "number": [10, 11, 12],
    }
    data = datasets.Dataset.from_dict(rows).cast_column("photo", datasets.Image())
    data.to_parquet(str(pictures / "hf" / "train.parquet"))
    data.save_to_disk(str(pictures / "disk"))
    return pictures


@pytest.mark.parametrize("where", ["hf", "hf/train.parquet", "disk"])
def test_hugging_face_from_disk(parquet, where, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))
    source = HuggingFace(parquet / where, image="photo", caption="text", targets={"label": "number"})
    record = source[1]
    assert len(source) == 3
    assert list(captions_of(source)) == ["a dog", "a cat", "a car"]
    assert not hasattr(record.image, "size")  # still encoded
    assert load_image(record).size == (30, 21)
    assert record.targets == {"label": 11}
    assert [row[2] for row in source.described()] == [("a dog",), ("a cat",), ("a car",)]
    assert [row[:2] for row in source.described()] == [(source[i].key, source[i].image_id) for i in range(3)]


def test_a_data_set_is_described_without_its_pictures(parquet, monkeypatch):
    asked = {"image": "photo", "caption": "text", "image_id": "number"}
    source = HuggingFace(parquet / "disk", **asked)
    wanted = [(source[i].key, source[i].image_id, source[i].captions) for i in range(3)]
    opened, read = [], HuggingFace._image
    monkeypatch.setattr(HuggingFace, "_image", lambda self, value, key: opened.append(key) or read(self, value, key))
    assert list(described(source)) == wanted
    assert not opened
    assert Retrieval(source=source)(predictor())["images"] == 3
    assert sorted(opened) == [key for key, _, _ in wanted]  # each once


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Writes columns as Parquet, in a folder of its own, and opens them."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))

    def make(columns, **options):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        n = len(next(iter(columns.values())))
        if "caption" not in columns:
            options.setdefault("caption", None)
        source = HuggingFace(tmp_path / "t.parquet", **options)
        assert [(d[0], d[1]) for d in described(source)] == [(source[i].key, source[i].image_id) for i in range(n)]
        return source

    return make


def test_equal_bytes_are_one_picture(pictures, rows):
    data = [(pictures / f"{i % 2}.png").read_bytes() for i in range(6)]
    source = rows({"image": data, "caption": [f"caption {i}" for i in range(6)]})
    assert len({source[i].image_id for i in range(6)}) == 2
    assert Retrieval(source=source)(predictor())["images"] == 2
    nested = rows({"image": [{"bytes": one, "path": f"{i}.png"} for i, one in enumerate(data)]})
    assert nested[0].image_id == nested[2].image_id != nested[1].image_id


@pytest.mark.parametrize("given", [[None] * 4, [""] * 4, [float("nan")] * 4])
def test_ids_that_are_null_are_absent(pictures, rows, given):
    data = [(pictures / f"{i}.png").read_bytes() for i in range(4)]
    source = rows({"image": data, "id": given}, image_id="id")
    assert len({source[i].image_id for i in range(4)}) == 4


def test_whole_floats_are_the_ids_that_they_were(pictures, rows):
    data = [(pictures / f"{i}.png").read_bytes() for i in range(3)]
    source = rows({"image": data, "id": [1.0, 2.0, None]}, image_id="id")
    assert source[1].image_id == f"{source.name}:2"


def test_what_is_no_id_is_refused_by_its_row(pictures, rows):
    data = (pictures / "0.png").read_bytes()
    with pytest.raises(
        UserError, match=r"2 x bad image_id\):\n.*t.parquet:0: column 'id' must be a string or a number"
    ):
        rows({"image": [data, data, data], "id": [True, False, None]}, image_id="id")


@pytest.mark.parametrize("second", ["other", "flipped"])
def test_one_id_for_different_bytes_is_refused(pictures, rows, second):
    data = (pictures / "0.png").read_bytes()
    other = (pictures / "1.png").read_bytes() if second == "other" else data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(UserError, match=r"t.parquet:2: image_id '7' is of another picture in row 0"):
        rows({"image": [data, data, other], "id": [7, 7, 7]}, image_id="id")


def test_sizes_tell_where_too_many_ids_stand_twice_to_compare_them(pictures, rows, monkeypatch):
    monkeypatch.setattr("mmkit.data.sources.hugging_face.MOST_PAIRS", 0)
    data = [(pictures / f"{i}.png").read_bytes() for i in (0, 0, 1)]
    with pytest.raises(UserError, match=r"t.parquet:2: image_id '7' is of another picture in row 0"):
        rows({"image": data, "id": [7, 7, 7]}, image_id="id")


def test_relative_paths_begin_at_the_file(pictures, rows, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0.png").write_bytes(b"another")
    monkeypatch.chdir(tmp_path / "elsewhere")
    source = rows({"image": ["0.png", "./0.png", "1.png"]})
    assert [source[i].image for i in range(3)] == [pictures / "0.png", pictures / "0.png", pictures / "1.png"]
    assert source[0].image_id == source[1].image_id
    with pytest.raises(UserError, match=r"t.parquet:1: no picture .*none.png"):
        rows({"image": ["0.png", "none.png"]})


@pytest.mark.parametrize(
    ("image", "says"),
    [("https://a/b.png", "must be downloaded first"), ("a.png", "a.png is relative, and owner/x is no")],
)
def test_paths_of_a_data_set_that_is_no_folder_here(image, says):
    source = object.__new__(HuggingFace)
    source.name, source.root, source.image = "owner/x", None, "image"
    with pytest.raises(UserError, match=rf"owner/x\[0\]: .*{says}"):
        source._image(image, "owner/x[0]")


def test_rows_are_counted_over_batches(pictures, rows, monkeypatch):
    monkeypatch.setattr("mmkit.data.sources.hugging_face.BATCH", 2)
    with pytest.raises(UserError, match=r"t.parquet:4: column 'image' is empty"):
        rows({"image": [(pictures / "0.png").read_bytes()] * 4 + [None]})


def test_rows_without_a_picture_and_targets_that_are_null(pictures, rows):
    data = (pictures / "0.png").read_bytes()
    with pytest.raises(UserError, match=r"1 of 2 rows .*\n.*t.parquet:1: column 'image' is empty"):
        rows({"image": [data, None]})
    source = rows({"image": [data] * 3, "x": [1.0, None, float("nan")]}, targets={"label": "x"})
    assert list(source.target("boxes")) == [None] * 3
    assert [source[i].targets for i in range(3)] == [{"label": 1.0}, {}, {}]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "holds nothing, not a picture"), (b"", "holds nothing, not"), ({"bytes": None}, "holds nothing, not"),
        (3, "holds int, not a picture, bytes or a path$"), ([b"x"], "holds list, not .*clip: --columns video"),
    ],
)  # fmt: skip
def test_a_cell_that_shows_nothing_is_named_with_its_row(parquet, value, what):
    source = HuggingFace(parquet / "disk", image="photo", caption="text")
    with pytest.raises(UserError, match=rf"^row 1: column 'photo' {what}"):
        source._seen(value, "row 1")


def test_a_cell_of_frames_is_a_clip_and_one_of_none_is_named(parquet):
    source = HuggingFace(parquet / "disk", image="photo", caption="text")
    source.is_clip = True
    assert source._seen([b"x", b"y"], "row 1").frames == [b"x", b"y"]
    assert source._seen(b"x", "row 1").frames == b"x"
    with pytest.raises(UserError, match=r"^row 1: column 'photo' holds 0 frames; a clip has at least one"):
        source._seen([], "row 1")
    with pytest.raises(UserError, match=r"^row 1, frame 1: column 'photo' holds nothing"):
        source._seen([b"x", b""], "row 1")


def test_hugging_face_bad_input(parquet):
    with pytest.raises(UserError, match=r"no column image, caption; it has photo, text, number"):
        HuggingFace(parquet / "disk")
    with pytest.raises(UserError, match=r"3 of 3 rows.*\n.*must be a string"):
        HuggingFace(parquet / "disk", image="photo", caption="number")
    with pytest.raises(UserError, match="cannot be loaded"):
        HuggingFace(parquet / "nowhere")
