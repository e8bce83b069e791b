"""What is written reads back as the same samples: pictures of every kind, captions, questions, labels."""

import json

import numpy as np
import pytest
from PIL import Image

from mmkit.cli.main import main
from mmkit.data.images.opening import load_image
from mmkit.data.openmoji.questions import Questions
from mmkit.data.openmoji.scenes import Scenes, Singles
from mmkit.data.records import JsonLines, Record
from mmkit.data.sources.published.vqa import VQALines
from mmkit.data.writing import export_source, write_records
from mmkit.errors import UserError


def same(one, other):
    assert len(one) == len(other)
    for i in range(len(one)):
        before, after = one[i], other[i]
        assert np.array_equal(np.asarray(load_image(before)), np.asarray(load_image(after)))
        assert before.captions == after.captions
        assert json.dumps(before.targets, sort_keys=True) == json.dumps(after.targets, sort_keys=True)
        assert before.image_id == after.image_id


def test_scenes_questions_and_labels_read_back_as_they_were(tmp_path):
    scenes = Scenes(n=5, size=32)
    export_source(scenes, tmp_path / "a", "train")
    same(scenes, JsonLines(tmp_path / "a" / "train.jsonl"))
    asked = Questions(n=12, size=32)
    export_source(asked, tmp_path / "b", "train", limit=12)
    same(asked, VQALines(tmp_path / "b" / "train.jsonl"))
    alone = Singles(size=32, plain=True)
    written = export_source(alone, tmp_path / "c", "test", limit=4)
    assert written["records"] == 4
    read = JsonLines(tmp_path / "c" / "test.jsonl", needs=("label",))
    assert [read[i].targets["label"] for i in range(4)] == [alone[i].targets["label"] for i in range(4)]
    assert (tmp_path / "c" / "test.classes.txt").read_text().splitlines() == list(alone.class_names)


def test_pictures_are_copied_once_and_bytes_stay_as_they_are(pictures, tmp_path):
    Image.new("RGB", (20, 20), "red").save(pictures / "red.jpg", quality=50)
    jpeg = (pictures / "red.jpg").read_bytes()
    images = [pictures / "0.png", jpeg, pictures / "0.png", jpeg, Image.new("RGB", (8, 8), "blue")]
    source = [Record(image=image, captions=("a",), image_id=str(i % 2 if i < 4 else 9), key=str(i)) for i, image in
              enumerate(images)]  # fmt: skip
    out = tmp_path / "deep" / "out"
    write_records(source, out / "a.jsonl", copy_to=out / "images")
    read = JsonLines(out / "a.jsonl")
    same(source, read)
    assert len(list((out / "images").iterdir())) == 3
    assert read[1].image.read_bytes() == jpeg
    assert read[1].image.suffix == ".jpg"


def test_an_id_of_several_pictures_is_left_out_and_said(tmp_path, caplog):
    source = [
        Record(image=Image.new("RGB", (8, 8), colour), captions=("a",), image_id="x", key="k")
        for colour in ("red", "blue", "red")
    ]  # fmt: skip
    write_records(source, tmp_path / "a.jsonl")
    read = JsonLines(tmp_path / "a.jsonl")
    assert [read[i].image_id for i in range(3)] == ["x", "a-images/000001.png", "x"]
    assert "1 records have an id of several pictures" in caplog.text


def test_what_json_cannot_say_is_named_and_leaves_no_file(tmp_path):
    source = [Record(image=Image.new("RGB", (8, 8)), captions=("a",), image_id="x", key="k:1", targets={"t": {1, 2}})]
    with pytest.raises(UserError, match=r"k:1: its targets cannot be written"):
        write_records(source, tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_the_command_writes_what_the_quickstart_trains_on(tmp_path, capsys):
    out = tmp_path / "out"
    config = "configs/quickstart.py:pretrain(size=32, kinds=20)"
    changes = ["--set", "data.train.n=40", "--limit", "5"]
    assert main(["data", "export", config, str(out), *changes, "--json", str(tmp_path / "n.json")]) == 0
    assert json.loads((tmp_path / "n.json").read_text())["records"] == 5
    read = JsonLines(out / "train.jsonl")
    expected = Scenes(
        kinds=20, size=32, plain=True, split="train", n=40, language=("en",) * 5 + ("zh",), people=0.05,
        counts=(2, 1, 1),
    )  # fmt: skip
    assert [read[i].captions for i in range(5)] == [expected[i].captions for i in range(5)]
    assert main(["data", "export", config, str(out), *changes]) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert main(["data", "export", config, str(tmp_path / "e"), "--split", "retrieval", "--limit", "2"]) == 0
    assert len(JsonLines(tmp_path / "e" / "retrieval.jsonl")) == 2
    assert main(["data", "export", config, str(tmp_path / "f"), "--split", "nothing"]) == 2
    assert "this config has train, retrieval, retrieval_zh" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_the_whole_path_as_an_id_is_not_written(pictures, tmp_path):
    records = [
        Record(image=pictures / f"{i}.png", captions=("a",), image_id=image_id, key="k")
        for i, image_id in enumerate([str((pictures / "0.png").absolute()), "one"])
    ]  # fmt: skip
    write_records(records, tmp_path / "out.jsonl")
    assert ["image_id" in json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        False,
        True,
    ]


def test_equal_pixels_in_another_shape_are_another_picture(tmp_path):
    images = [Image.new("L", (2, 8)), Image.new("L", (8, 2)), Image.new("L", (2, 8))]
    records = [Record(image=x, captions=("a",), image_id=str(i), key="k") for i, x in enumerate(images)]
    write_records(records, tmp_path / "out.jsonl")
    read = JsonLines(tmp_path / "out.jsonl")
    assert [Image.open(read[i].image).size for i in range(3)] == [(2, 8), (8, 2), (2, 8)]
    assert len(list((tmp_path / "out-images").iterdir())) == 2
