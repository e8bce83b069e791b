"""Folders and Hugging Face data sets as sources."""

import pytest

from mmkit.data.image_io import BadImage, load_image
from mmkit.data.records import captions_of, described
from mmkit.data.sources import ClassFolder, Folder, HuggingFace, is_class_folder
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
    plain = HuggingFace(parquet / "disk", image="photo", caption=None)
    assert list(described(plain)) == [(f"{plain.name}[{i}]", f"{plain.name}:{i}", ()) for i in range(3)]
    assert not opened
    assert Retrieval(source=source)(predictor())["images"] == 3
    assert sorted(opened) == [key for key, _, _ in wanted]  # each once


def test_hugging_face_bad_input(parquet):
    with pytest.raises(UserError, match=r"no column image, caption; it has photo, text, number"):
        HuggingFace(parquet / "disk")
    with pytest.raises(UserError, match=r"3 of 3 rows.*\n.*must be a string"):
        HuggingFace(parquet / "disk", image="photo", caption="number")
    with pytest.raises(UserError, match="cannot be loaded"):
        HuggingFace(parquet / "nowhere")
