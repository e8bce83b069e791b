"""The published JSON files of COCO and Flickr30k, in small."""

import json

import pytest
from PIL import Image

from mmkit.data.records import captions_of
from mmkit.data.sources.published.karpathy import Karpathy
from mmkit.errors import UserError
from mmkit.evals.retrieval import Pairs


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path)


@pytest.fixture
def coco(tmp_path):
    """As dataset_coco.json: ``filepath``, four splits, five sentences a picture."""
    images = []
    for i, (split, folder) in enumerate(
        [("train", "train2014"), ("restval", "val2014"), ("val", "val2014"), ("test", "val2014"), ("test", "val2014")]
    ):
        name = f"COCO_{folder}_{i:012d}.jpg"
        picture(tmp_path / "coco" / folder / name)
        sentences = [
            {"raw": f" Caption {j} of {i}. ", "tokens": ["x"], "imgid": i, "sentid": 5 * i + j} for j in range(5)
        ]
        images.append(
            {
                "filepath": folder,
                "filename": name,
                "imgid": i,
                "cocoid": 100 + i,
                "split": split,
                "sentences": sentences,
            }
        )
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return tmp_path


def test_coco_as_published(coco):
    test = Karpathy(coco / "dataset_coco.json", coco / "coco", split="test")
    assert len(test) == 2
    assert test[1].captions == tuple(f"Caption {j} of 4." for j in range(5))
    assert test[1].image.is_file()
    assert test[1].image_id == "4"
    pairs = Pairs.read(test)
    assert (len(pairs.rows), len(pairs.texts)) == (2, 10)
    train = Karpathy(coco / "dataset_coco.json", coco / "coco", split="train+restval", per="caption")
    assert len(train) == 10
    assert [train[i].image_id for i in (0, 4, 5)] == ["0", "0", "1"]
    assert train[6].captions == ("Caption 1 of 1.",)
    assert len(list(captions_of(train))) == 10


def test_flickr30k_lies_flat_and_may_have_an_empty_sentence(tmp_path):
    picture(tmp_path / "1000092795.jpg")
    sentences = [{"raw": "Two young guys"}, {"raw": ""}, {"raw": "Two men"}]
    entry = {"filename": "1000092795.jpg", "imgid": 0, "split": "test", "sentences": sentences}
    file = tmp_path / "dataset_flickr30k.json"
    file.write_text(json.dumps({"images": [entry], "dataset": "flickr30k"}))
    source = Karpathy(file, tmp_path, split="test")
    assert source[0].captions == ("Two young guys", "Two men")
    assert source.empty_captions == 1


def test_lists_of_albef(coco):
    name = "COCO_val2014_000000000003.jpg"
    (coco / "coco_karpathy_test.json").write_text(json.dumps([{"image": f"val2014/{name}", "caption": ["a", "b"]}]))
    source = Karpathy(coco / "coco_karpathy_test.json", coco / "coco")
    assert source[0].captions == ("a", "b")
    rows = [
        {"image": f"/export/coco/images/val2014/{name}", "caption": text, "image_id": "coco_3"} for text in ("a", "b")
    ]
    (coco / "coco_train.json").write_text(json.dumps(rows))
    per = {p: Karpathy(coco / "coco_train.json", coco / "coco", per=p) for p in ("picture", "caption")}
    assert [len(s) for s in per.values()] == [1, 2]
    assert per["picture"][0].captions == ("a", "b")
    assert {per["caption"][i].image_id for i in range(2)} == {"coco_3"}
    assert per["caption"][1].image.is_file()


ENTRY = {"filename": "x", "split": "test", "sentences": [{"raw": "a"}]}


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        (
            {"images": [{"filename": "x", "split": "test", "sentences": [{"raw": "a"}]}]},
            None,
            r"a split is needed; give split= \(--split\) as one of test, or several as one\+other",
        ),
        (
            {"images": [{"filename": "x", "split": "test", "sentences": [{"raw": "a"}]}]},
            "dev",
            "split='dev' is none of them; give .* as one of test",
        ),
        ({"images": [ENTRY]}, "test", "no picture .*x"),
        ({"images": [{"filename": "x", "split": "test", "sentences": []}]}, "test", "f.json:0: .* is empty"),
        ({"images": [{"split": "test", "name": "x"}]}, "test", "f.json:0: expected an object with .filename."),
        (
            {"images": [ENTRY | {"sentences": ["a dog"]}, ENTRY | {"split": "val"}]},
            "test",
            r'1 of 1 rows .*\n.*f.json:0: "sentences" must be a list of objects with .* "raw", not \["a dog"\]',
        ),
        (
            {"images": [ENTRY, ENTRY | {"sentences": None}]},
            "test",
            r'2 of 2 rows [^#]*f.json:1: "sentences" must .*, not null',
        ),
        ({"images": [ENTRY | {"sentences": [None]}]}, "test", r'f.json:0: "sentences" must .*, not \[null\]'),
        ({"images": [ENTRY | {"sentences": [{"raw": None}]}]}, "test", 'f.json:0: "caption" must be'),
        ({"images": [ENTRY | {"sentences": [{"text": "a"}]}]}, "test", 'f.json:0: .*, not .{"text": "a"}.'),
        ({"images": []}, None, "no pictures in it"),
        ({"images": [{"filename": "x", "sentences": []}]}, "test", 'none of its 1 entries has a "split"'),
        ([{"image": "x"}], None, "f.json:0: expected an object with .image. and .caption."),
        ([{"image": "x", "caption": "a"}], "test", "a list is of one split; leave it out"),
        ([{"image": "x", "caption": 3}], None, "must be a string or a list"),
        ([{"image": "x"}, {"image": "y"}], None, "2 of 2 rows cannot be used"),
        ([], None, "no pictures in it"),
        ({"annotations": []}, None, "expected an object with .images."),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, split, message):
    file = tmp_path / "f.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        Karpathy(file, tmp_path, split=split)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file; .*dataset_coco\.json .* caption_datasets\.zip"):
        Karpathy(tmp_path / "none.json", tmp_path)
    with pytest.raises(UserError, match=r"nowhere: no such folder; give the one that holds the pictures"):
        Karpathy(tmp_path / "none.json", tmp_path / "nowhere")
    (tmp_path / "lines.json").write_text('{"image": "a"}\n{"image": "b"}\n')
    with pytest.raises(UserError, match=r"cannot be read as JSON .* call it \.jsonl"):
        Karpathy(tmp_path / "lines.json", tmp_path)
    with pytest.raises(UserError, match="per='row'"):
        Karpathy(tmp_path / "lines.json", tmp_path, per="row")
