"""RefCOCO+ as published, made up at a tiny size: the files, the protocol's numbers, and what is wrong with files."""

import json
import os
import pickle

import pytest
from PIL import Image

from mmkit.data.sources.published.refcoco import RefCoco
from mmkit.errors import UserError
from mmkit.evals.grounding import Grounding
from tests.evals.parts import predictor


def write(folder, **other):
    (folder / "train2014").mkdir(exist_ok=True)
    for i in range(3):
        Image.new("RGB", (40, 20), (80 * i, 100, 50)).save(folder / f"train2014/COCO_train2014_{i:012d}.jpg")
    rows = [("A red, Square!", 0, 10), ("green tile", 1, 11), ("blue", 1, 12), ("pink", 2, 13), ("grey", 0, 14)]
    expressions = [
        {"image": f"train2014/COCO_train2014_{image:012d}.jpg", "text": text, "ref_id": ref}
        for text, image, ref in rows
    ]
    splits = {10: "val", 11: "testA", 12: "testB", 13: "testA", 14: "train"}
    refs = [
        {"ref_id": ref, "ann_id": 100 + ref, "image_id": image, "split": splits[ref], "sentences": [{"sent": text}]}
        for text, image, ref in rows
    ]
    parts = {
        "expressions.json": expressions,
        "instances.json": {"annotations": [{"id": 110 + i, "bbox": [4 * i, 2, 10.5, 8]} for i in range(5)]},
        "dets.json": {"0": [[0, 2, 10, 8, 0.9, "person"], [20, 0, 9, 9]], "1": [[30, 10, 8, 8]]},
    } | other
    for name, value in parts.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    if "refs(unc).p" not in other:
        (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    return folder


def open_(folder, **other):
    files = {"refs": "refs(unc).p", "instances": "instances.json", "detections": "dets.json"}
    return RefCoco(folder / "expressions.json", folder, **{k: folder / v for k, v in files.items()}, **other)


def test_reads_the_published_files(tmp_path, caplog):
    source = open_(write(tmp_path))
    assert [source[i].targets["split"] for i in range(len(source))] == ["val", "testA", "testB", "testA"]
    first = source[0]
    assert first.captions == ("a red square",)  # cleaned as ALBEF does
    assert first.targets["boxes"] == [{"name": "a red square", "box": (0, 2, 10.5, 10)}]
    assert first.targets["detections"] == [(0, 2, 10, 10), (20, 0, 29, 9)]
    assert first.image_id == "COCO_train2014_000000000000.jpg"
    assert source[3].targets["detections"] == []
    assert "1 pictures have no detected box" in caplog.text
    assert next(iter(open_(tmp_path, clean=False).captions())) == "A red, Square!"
    assert len(open_(tmp_path, splits=["testB"])) == 1


def test_without_boxes_for_training(tmp_path):
    source = RefCoco([write(tmp_path) / "expressions.json"], tmp_path)
    assert len(source) == 5
    assert source.splits == ()
    assert source[1].image_id == source[2].image_id
    assert not source[1].targets


def test_protocol(tmp_path):
    found = Grounding(source=open_(write(tmp_path)), batch_size=2)(predictor(1))
    assert found["n"] == 4
    assert (found["val.n"], found["testA.n"], found["testB.n"]) == (1, 2, 1)
    assert found["val.choice_chance"] == 0.5  # one of two detections overlaps by 80 / 84
    assert found["testB.choice"] == found["testB.choice_chance"] == 0
    assert found["in_caption"] == 0  # an expression is a whole sentence


def test_problems(tmp_path):
    write(tmp_path)
    fail = [
        ({"expressions.json": [{"image": "a.jpg", "text": "red", "ref_id": 10}]}, r":0: no picture .*a\.jpg"),
        ({"expressions.json": [{"image": "a.jpg"}]}, 'needs "image" and "text"'),
        ({"expressions.json": "{"}, "cannot be read as JSON"),
        ({"expressions.json": {}}, "a list of expressions"),
        ({"instances.json": {"annotations": [{"id": 1}]}}, "annotations with id and bbox"),
        ({"instances.json": {"annotations": []}}, "ref_id 10 is not in the refs"),
        ({"dets.json": {"0": [[1, 2]]}}, r"dets\.json: boxes of image 0"),
        ({"refs(unc).p": "no pickle"}, r"refs\(unc\)\.p: not the published list"),
    ]
    for files, message in fail:
        with pytest.raises(UserError, match=message) as error:
            open_(write(tmp_path, **files))
        assert str(error.value).count("expressions.json:0") <= 1  # the file once, then the row
    write(tmp_path)
    with pytest.raises(UserError, match="belong together"):
        RefCoco(tmp_path / "expressions.json", tmp_path, refs=tmp_path / "refs(unc).p")
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        RefCoco(tmp_path / "none.json", tmp_path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(UserError, match=r"wants to run .*mkdir"):
        open_(tmp_path)
    assert not (tmp_path / "ran").exists()
