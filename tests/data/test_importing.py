"""Published forms to JSON lines and back: nothing lost, nothing overwritten, and short names for the built-in data."""

import json

import numpy as np
import pytest
from PIL import Image

from mmkit.data.images.opening import load_image
from mmkit.data.importing import open_format
from mmkit.data.openmoji.pairs import Pairs
from mmkit.data.openmoji.questions import Questions
from mmkit.data.records import JsonLines, Record
from mmkit.data.show.tasks import has_task, right_answer, task_grid
from mmkit.data.sources.built_in import built_in
from mmkit.data.sources.delimited import columns_of
from mmkit.data.sources.open import open_source
from mmkit.data.sources.published.coco_captions import CocoCaptions
from mmkit.data.sources.published.vqa import AnswerLists, VisualGenomeQA, VQAFiles, VQALines
from mmkit.data.sources.table import Table
from mmkit.data.writing import export_source, write_records
from mmkit.errors import UserError
from tests.data.conftest import write


def test_coco_captions(pictures):
    data = {
        "images": [{"id": 5, "file_name": "0.png"}, {"id": 7, "file_name": "1.png"}],
        "annotations": [
            {"image_id": 7, "id": 1, "caption": "one "},
            {"image_id": 5, "id": 2, "caption": "zero"},
            {"image_id": 7, "id": 3, "caption": "uno"},
        ],
    }
    path = pictures / "captions.json"
    path.write_text(json.dumps(data))
    source = CocoCaptions(path, images=pictures)
    assert [source[i].captions for i in range(len(source))] == [("zero",), ("one", "uno")]
    out = pictures / "records" / "coco.jsonl"
    assert write_records(open_format("coco", str(path)), out) == 2
    again = JsonLines(out)
    assert [again[i].captions for i in range(2)] == [("zero",), ("one", "uno")]
    assert again[1].image.resolve() == pictures / "1.png"
    assert again[1].image_id == "1.png"
    data["annotations"][0]["image_id"] = 8
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r'captions.json:0: "image_id" is of no picture'):
        CocoCaptions(path, images=pictures)
    path.write_text("[]")
    with pytest.raises(UserError, match='the lists "images" and "annotations"'):
        CocoCaptions(path, images=pictures)


@pytest.mark.parametrize("separator", [",", "\t"])
def test_tables(pictures, separator):
    path = pictures / "pairs.csv"
    rows = (("filepath", "title", "kind"), ("0.png", "a dog", "dog"), ("1.png", "a cat", "cat"))
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n")
    source = Table(path, columns={}, images=pictures)
    assert (source[1].captions, source[1].image, source[1].targets) == (("a cat",), pictures / "1.png", {})
    labelled = Table(path, columns={"label": "kind", "image": "filepath"}, images=pictures)
    assert labelled[0].targets == {"label": "dog"}
    assert labelled[0].key == f"{path}:2"
    with pytest.raises(UserError, match=r"pairs.csv:1: no column breed; the header has filepath, title, kind"):
        Table(path, columns={"label": "breed"}, images=pictures)
    path.write_text("picture,words\n0.png,a\n")
    with pytest.raises(UserError, match=r"no column image or path .*; the header has picture, words"):
        Table(path, columns={}, images=pictures)
    path.write_text("image,caption\n0.png,\n9.png,a\n")
    with pytest.raises(UserError, match=r"(?s)pairs.csv:2: nothing in the column caption.*pairs.csv:3: no picture"):
        Table(path, columns={}, images=pictures)


def test_columns():
    assert columns_of("image=path, caption=text") == {"image": "path", "caption": "text"}
    assert columns_of(None) == {}
    for wrong in ("image", "image=", "=a", "a=b,a=c"):
        with pytest.raises(UserError, match="--columns"):
            columns_of(wrong)


def test_questions_keep_everything(pictures, tmp_path):
    rows = [{"image": "0.png", "question": "what?", "answers": ["a", "a", "b"], "question_id": 4, "weight": 0.5}]
    source = VQALines(write(pictures / "vqa.jsonl", rows))
    out = tmp_path / "there" / "copy.jsonl"
    write_records(source, out)
    copy = VQALines(out)
    assert copy[0].targets == source[0].targets
    assert copy[0].image.resolve() == source[0].image
    assert "caption" not in json.loads(out.read_text())


def test_pictures_in_memory_are_saved(tmp_path):
    source = Pairs(n=5, size=48)
    seen = []
    assert write_records(source, tmp_path / "pairs.jsonl", limit=2, progress=lambda *at: seen.append(at)) == 2
    assert seen == [(1, 2), (2, 2)]
    again = JsonLines(tmp_path / "pairs.jsonl")
    assert again[1].captions == source[1].captions
    assert again[1].targets["label"] == source[1].targets["label"]
    assert np.array_equal(np.asarray(load_image(again[1])), np.asarray(source[1].image))
    second = Image.open(tmp_path / again[1].targets["second"])
    assert np.array_equal(np.asarray(second), np.asarray(source[1].targets["second"]))


def test_nothing_is_overwritten_or_left_half_written(tmp_path, pictures):
    with pytest.raises(UserError, match="exists already"):
        write_records(JsonLines(pictures / "a.jsonl"), pictures / "a.jsonl")

    class Breaks(Questions):
        def __getitem__(self, index):
            if index == 2:
                raise UserError("broken")
            return super().__getitem__(index)

    with pytest.raises(UserError, match="broken"):
        write_records(Breaks(n=3, size=32), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    assert not (tmp_path / "out-images").exists()
    (tmp_path / "out-images").mkdir()  # the user's, and empty
    with pytest.raises(UserError, match="broken"):
        write_records(Breaks(n=3, size=32), tmp_path / "out.jsonl")
    assert list((tmp_path / "out-images").iterdir()) == []
    with pytest.raises(UserError, match="broken"):
        export_source(Breaks(n=3, size=32), tmp_path / "new" / "folder", "train")
    assert not (tmp_path / "new").exists()
    assert len(Breaks(n=2, size=32)) == write_records(Breaks(n=2, size=32), tmp_path / "out.jsonl")
    assert len(list((tmp_path / "out-images").iterdir())) == 2


def test_a_picture_that_cannot_be_written_is_named_as_such(tmp_path):
    source = [Record(image=b"<html>", captions=("a",), image_id="x", key="t.parquet[5]")]
    with pytest.raises(UserError, match=r"^t\.parquet\[5\]: .*no picture that can be read"):
        write_records(source, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("kind", "data", "own"),
    [
        ("vqa", [{"image": "0.png", "question": "a?", "answers": [{"answer": "b"}]}], "albef-vqa"),
        ("albef-vqa", {"questions": []}, "vqa"),
        ("karpathy", {"images": [{"file_name": "x"}], "annotations": []}, "coco"),
        ("coco", [{"image": "0.png", "caption": "c"}], "karpathy"),
        ("vg-qa", {"1": {"imageId": "0", "question": "a?"}}, "gqa"),
    ],
)
def test_a_file_of_another_form_is_told_by_its_name(pictures, kind, data, own):
    (pictures / "x.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=rf"x\.json: seems to be of another form: mmkit data import {own}$"):
        open_format(kind, str(pictures / "x.json"))


def test_built_in_names(tmp_path):
    assert isinstance(built_in("openmoji-pairs:test"), Pairs)
    assert built_in("openmoji-pairs:test").split == "test"
    assert built_in("openmoji-questions", n=7).n == 7
    assert built_in("openmoji") is built_in(str(tmp_path)) is None
    assert len(open_format("builtin", "easy-vqa:test")) == 9673
    assert open_format("builtin", "openmoji:val").split == "val"
    for wrong, message in (("openmoji-pairs:dev", "split='dev'"), ("emoji", "not built in")):
        with pytest.raises(UserError, match=message):
            open_format("builtin", wrong)


def test_formats_are_told_apart(pictures):
    def file(name, data):
        (pictures / name).write_text(json.dumps(data))
        return str(pictures / name)

    (pictures / "1.jpg").write_bytes((pictures / "1.png").read_bytes())
    vg = file("vg.json", [{"id": 1, "qas": [{"qa_id": 1, "question": "a?", "answer": "b"}]}])
    albef = file("albef.json", [{"image": "0.png", "question": "a?", "answer": "b"}])
    (pictures / "COCO_x_000000000001.jpg").write_bytes((pictures / "1.png").read_bytes())
    asked = [{"image_id": 1, "question_id": 1, "question": "a?"}]
    vqa = file("vqa.json", {"data_subtype": "x", "questions": asked})
    assert isinstance(open_source(vg, {"question"}), VisualGenomeQA)
    assert isinstance(open_source(albef, {"question"}), AnswerLists)
    answered = [{"question_id": 1, "answers": [{"answer": "b"}]}]
    told = file("vqa-a.json", {"annotations": answered})
    assert isinstance(open_source(vqa, {"question"}, annotations=told), VQAFiles)
    with pytest.raises(UserError, match=r"questions alone.*--annotations"):
        open_source(vqa, {"question"})
    with pytest.raises(UserError, match="--images: has no meaning for easy-vqa"):
        open_source("easy-vqa", {"question"}, images=pictures)
    assert open_format("albef-vqa", albef)[0].targets["answers"] == ["b"]
    with pytest.raises(UserError, match=r"--annotations: has no meaning for .*vg\.json"):
        open_source(vg, {"question"}, annotations="a.json")
    with pytest.raises(UserError, match=r"--split: has no meaning for .*albef.json"):
        open_format("csv", albef, split="test")
    with pytest.raises(UserError, match="format 'voc'"):
        open_format("voc", albef)


def test_sheets_of_tasks(pictures):
    rows = [{"image": f"{i}.png", "question": "what is it?", "answers": ["a", "a", "b"]} for i in range(5)]
    source = open_source(str(write(pictures / "vqa.jsonl", rows)))
    assert has_task(source[0])
    assert not has_task(JsonLines(pictures / "a.jsonl")[0])
    assert right_answer(source[0]) == "a x2, b x1"
    sheet = task_grid(source, n=3, columns=3)
    assert sheet.width == 3 * (220 + 14) + 14
    pairs = open_source("openmoji-pairs")
    assert right_answer(pairs[0], pairs.class_names) in ("True", "False")
    assert task_grid(pairs, n=1).width == 2 * 220 + 4 + 2 * 14
    drawn = np.asarray(task_grid(pairs, n=1))
    assert ((drawn == (208, 58, 44)).all(2)).sum() > 20  # the answer, in red
    assert not np.array_equal(drawn, np.asarray(task_grid(pairs, n=1, seed=1)))


def test_columns_that_an_import_leaves_out_are_said(pictures, caplog):
    """What a head of one's own reads, such as a rating, would be gone without a word."""
    path = pictures / "rated.csv"
    path.write_text("image,caption,rating,by whom\n0.png,a dog,4.5,me\n")
    assert open_format("csv", str(path))[0].targets == {}
    assert "columns that are left out: rating, by whom; to keep them: --columns rating=rating,by whom=by" in caplog.text
    caplog.clear()
    kept = open_format("csv", str(path), columns={"rating": "rating", "by": "by whom"})[0]
    assert (kept.captions, kept.targets) == (("a dog",), {"rating": "4.5", "by": "me"})
    path.write_text("image,question,answers,level\n0.png,what?,a dog,3\n")
    assert open_format("csv", str(path))[0].targets["question"] == "what?"
    assert "left out: level;" in caplog.text
    caplog.clear()
    path.write_text("image,caption\n0.png,a dog\n")
    open_format("csv", str(path))
    assert not caplog.records
