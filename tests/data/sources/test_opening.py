"""What ``--data`` may name: tables, saved data sets, published lists, openmoji."""

import json

import datasets
import pytest
from PIL import Image

from mmkit.data.records import JsonLines
from mmkit.data.sources.built_in import own_classes
from mmkit.data.sources.class_folder import ClassFolder
from mmkit.data.sources.delimited import columns_of
from mmkit.data.sources.folder import Folder
from mmkit.data.sources.hugging_face import HuggingFace
from mmkit.data.sources.open import open_records, open_source
from mmkit.data.sources.published.karpathy import Karpathy
from mmkit.data.sources.table import ClassTable
from mmkit.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same six pictures in every form."""
    root = tmp_path_factory.mktemp("opening")
    rows = []
    for i in range(6):
        name = ("cat", "dog")[i % 2]
        path = root / "classes" / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (40 * i, 0, 0)).save(path)
        rows.append((f"classes/{name}/{i}.png", name))
    (root / "table.csv").write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in rows))
    (root / "table.tsv").write_text("filename\tx\tclass\n" + "".join(f"{path}\t1\t{name}\n" for path, name in rows))
    (root / "records.jsonl").write_text("".join(json.dumps({"image": p, "label": n}) + "\n" for p, n in rows))
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["cat", "dog"])})
    data = datasets.Dataset.from_dict({"img": [str(root / p) for p, _ in rows], "fine": [0, 1] * 3}, features=features)
    datasets.DatasetDict({"train": data, "test": data.select([0, 1, 2])}).save_to_disk(str(root / "saved"))
    (root / "parquet").mkdir()
    data.to_parquet(str(root / "parquet" / "test-0.parquet"))
    return root


MAP = {"image": "img", "label": "fine"}


@pytest.mark.parametrize(
    ("name", "columns", "split", "kind", "n"),
    [
        ("classes", {}, None, ClassFolder, 6),
        ("table.csv", {}, None, ClassTable, 6),
        ("table.tsv", {"image": "filename", "label": "class"}, None, ClassTable, 6),
        ("records.jsonl", {}, None, JsonLines, 6),
        ("saved", MAP, None, HuggingFace, 3),
        ("saved", MAP, "train", HuggingFace, 6),
        ("parquet", MAP, None, HuggingFace, 6),
        ("parquet/test-0.parquet", MAP, None, HuggingFace, 6),
    ],
)
def test_pictures_with_classes(folder, monkeypatch, name, columns, split, kind, n):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    source = open_source(str(folder / name), {"label"}, columns=columns, split=split)
    assert isinstance(source, kind)
    assert len(source) == n
    names = getattr(source, "class_names", None)
    labels = [source[i].targets["label"] for i in range(n)]
    called = [names[x] if isinstance(x, int) else x for x in labels]
    assert called == (["cat"] * 3 + ["dog"] * 3 if kind is ClassFolder else ["cat", "dog"] * 3)[:n]
    if hasattr(source, "target"):
        assert list(source.target("label")) == labels


def test_openmoji():
    source = open_source("openmoji:zh", {"label"})
    assert source.class_names[0] == "狗"
    assert open_source("openmoji", {"caption"})[0].captions


def test_what_brings_its_own_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [own_classes(name) for name in ("openmoji", "openmoji:zh", "imagenet", "hf:x")] == [
        "openmoji", "openmoji:zh", None, None,
    ]  # fmt: skip
    (tmp_path / "openmoji").mkdir()  # the user's folder
    assert own_classes("openmoji") is None


def test_pictures_with_captions(folder, tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("black\n")
    assert isinstance(open_source(str(tmp_path), {"caption"}), Folder)
    (tmp_path / "r.jsonl").write_text('{"image": "a.png", "caption": "black"}\n')
    assert isinstance(open_source(str(tmp_path / "r.jsonl"), {"caption"}), JsonLines)
    (tmp_path / "coco_karpathy_test.json").write_text('[{"image": "a.png", "caption": ["black"]}]')
    assert isinstance(open_source(str(tmp_path / "coco_karpathy_test.json"), {"caption"}), Karpathy)
    data = datasets.Dataset.from_dict({"p": [str(tmp_path / "a.png")], "words": [["black", "dark"]], "id": [7]})
    data.save_to_disk(str(tmp_path / "saved"))
    source = open_source(
        str(tmp_path / "saved"), {"caption"}, columns={"image": "p", "caption": "words", "image_id": "id"}
    )
    assert source[0].captions == ("black", "dark")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,cat\n", r"t\.csv:2: no picture"),
        ("path,label\n,cat\n", r"t\.csv:2: nothing in the column path"),
        ("path,label\na.png,\n", r"t\.csv:2: nothing in the column label"),
        ("path,label\n", "the table has no rows"),
        (
            "file,label\na,b\n",
            r"t\.csv:1: no column image or path .*; the header has file, label.*--columns",
        ),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / "t.csv"), {"label"})


def test_what_does_not_fit_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"nothing: no such file or folder; give openmoji.*a table with a header"):
        open_source(str(tmp_path / "nothing"), {"label"})
    with pytest.raises(UserError, match=r"no column label; it has img, fine.*--columns on the command line"):
        open_source(str(folder / "saved"), {"label"}, columns={"image": "img"})
    with pytest.raises(UserError, match="no split 'val'; there are train, test"):
        open_source(str(folder / "saved"), {"label"}, columns=MAP, split="val")
    with pytest.raises(UserError, match=r"--columns: has no meaning for .*classes"):
        open_source(str(folder / "classes"), {"label"}, columns=MAP)
    with pytest.raises(UserError, match=r"--split: has no meaning for .*records"):
        open_source(str(folder / "records.jsonl"), {"caption"}, split="test")
    (tmp_path / "latin.csv").write_bytes(b"path,label\n\xff.png,a\n")
    with pytest.raises(UserError, match=r"latin.csv:2: not UTF-8 \(byte 0xff, byte 1 of the line\).*iconv -f CP1252"):
        open_source(str(tmp_path / "latin.csv"), {"label"})


def test_a_data_set_of_the_hub_without_a_network(monkeypatch):
    def offline(*args, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setattr("mmkit.network.hub_answers", lambda: True)
    with pytest.raises(UserError, match=r"hf download --repo-type dataset cifar10 --local-dir FOLDER"):
        open_source("hf:cifar10", {"label"})


def test_column_maps():
    assert columns_of("image=a, label=b c", ("image", "label")) == {"image": "a", "label": "b c"}
    assert columns_of(None, ("image",)) == {}
    for bad in ("img=a", "image", "image="):
        with pytest.raises(UserError, match=r"write FIELD=COLUMN.*one of image, label"):
            columns_of(bad, ("image", "label"))


def test_a_column_of_ones_own_is_a_target_in_each_form(tmp_path):
    """By the name that a config needs it under; one that is not there is named."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = {"image": "a.png", "caption": "a dog", "rating": 3.5}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    (tmp_path / "t.csv").write_text("image,caption,rating\na.png,a dog,3.5\n")
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "t.parquet")
    found = {
        end: open_records(tmp_path / f"t.{end}", needs=("caption", "rating"))[0] for end in ("jsonl", "parquet", "csv")
    }
    assert {end: record.targets for end, record in found.items()} == {
        "jsonl": {"rating": 3.5}, "parquet": {"rating": 3.5}, "csv": {"rating": "3.5"},
    }  # fmt: skip
    assert {record.captions for record in found.values()} == {("a dog",)}
    for end in found:
        with pytest.raises(UserError, match="votes"):
            open_records(tmp_path / f"t.{end}", needs=("caption", "votes"))
