"""Ids in published files and in joined sources: absent, of one value, of one picture; answers in other forms."""

import json
import shutil

import pytest

from mmkit.data.records import JsonLines, described
from mmkit.data.sources.folder import Folder
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import open_source
from mmkit.data.sources.published.karpathy import Karpathy
from mmkit.data.sources.published.vqa import AnswerLists, GQAQuestions, VisualGenomeQA, VQAFiles
from mmkit.data.sources.table import Table
from mmkit.errors import UserError
from tests.data.conftest import write


def dumped(path, value):
    path.write_text(json.dumps(value))
    return path


def ids(source):
    return [source[i].image_id for i in range(len(source))]


@pytest.mark.parametrize("given", [None, "", float("nan")])
def test_albefs_lists_and_karpathys_files_with_absent_ids(pictures, given):
    rows = [{"image": f"{i}.png", "caption": "x", "image_id": given} for i in range(6)]
    assert ids(Karpathy(dumped(pictures / "a.json", rows), pictures)) == [f"{i}.png" for i in range(6)]
    entries = [{"filename": f"{i}.png", "split": "test", "imgid": given, "sentences": [{"raw": "x"}]} for i in range(6)]
    source = Karpathy(dumped(pictures / "k.json", {"images": entries}), pictures, split="test", per="caption")
    assert ids(source) == [f"{i}.png" for i in range(6)]


def test_albefs_lists_with_one_id_for_different_pictures(pictures):
    rows = [{"image": f"{i}.png", "caption": "x", "image_id": i % 3} for i in range(6)]
    with pytest.raises(UserError, match=r"3 x one id for different pictures.*\n.*a.json:3: image_id '0' is of 3.png"):
        Karpathy(dumped(pictures / "a.json", rows), pictures)


def test_rows_of_one_picture_in_several_spellings_are_one(pictures, caplog):
    rows = [{"image": name, "caption": name, "image_id": i} for i, name in enumerate(("0.png", "./0.png", "1.png"))]
    source = Karpathy(dumped(pictures / "a.json", rows), pictures)
    assert [source[i].captions for i in range(2)] == [("0.png", "./0.png"), ("1.png",)]
    assert "1 rows give a picture another image_id" in caplog.text
    rows[1]["image_id"] = None
    caplog.clear()
    assert ids(Karpathy(dumped(pictures / "a.json", rows), pictures)) == ["0", "2"]
    assert not caplog.text


def test_an_image_that_is_no_path_is_named(pictures):
    with pytest.raises(UserError, match=r'a.json:0: "image" must be a path, not null'):
        Karpathy(dumped(pictures / "a.json", [{"image": None, "caption": "x"}]), pictures)


QUESTIONS = [{"question": "what?", "question_id": str(i), "image_id": str(i)} for i in range(3)]
ANNOTATIONS = {"annotations": [{"question_id": i, "answers": [{"answer": f"a{i}"}]} for i in range(3)]}


def test_questions_of_another_set_in_vqas_form(pictures):
    questions = dumped(pictures / "q.json", {"questions": QUESTIONS})
    annotations = dumped(pictures / "a.json", ANNOTATIONS)
    source = VQAFiles(questions, annotations, images=pictures, pictures="{image_id}.png")
    assert [(source[i].image.name, source[i].targets["answers"]) for i in range(3)] == [
        (f"{i}.png", [f"a{i}"]) for i in range(3)
    ]
    with pytest.raises(UserError, match=r'q.json: no "data_subtype".*--pictures "\{image_id\}.jpg"'):
        VQAFiles(questions, annotations, images=pictures)
    for wrong in ("x.jpg", "{id}.jpg", "{image_id", "{}.jpg"):
        with pytest.raises(UserError, match=r"--pictures .*write \{image_id\} for the id"):
            VQAFiles(questions, annotations, images=pictures, pictures=wrong)
    other = dumped(pictures / "q.json", {"questions": [QUESTIONS[0] | {"image_id": "x"}]})
    with pytest.raises(UserError, match=r"q.json:0: image_id 'x', it must be a number"):
        VQAFiles(other, images=pictures, pictures="{image_id:03d}.png")


def test_names_keep_the_zeros_of_ids_that_are_text(pictures):
    shutil.copy(pictures / "0.png", pictures / "007.png")
    questions = dumped(pictures / "q.json", {"questions": [QUESTIONS[0] | {"image_id": "007"}]})
    assert VQAFiles(questions, images=pictures, pictures="{image_id}.png")[0].image.name == "007.png"
    shutil.copy(pictures / "0.png", pictures / "0007.png")
    assert VQAFiles(questions, images=pictures, pictures="{image_id:04d}.png")[0].image.name == "0007.png"


def test_two_annotations_of_one_question_are_refused(pictures):
    annotations = {"annotations": ANNOTATIONS["annotations"] + ANNOTATIONS["annotations"][:1]}
    annotations["annotations"][-1] = annotations["annotations"][-1] | {"question_id": "0"}
    with pytest.raises(UserError, match=r"a.json:3: question_id 0 has an annotation before"):
        VQAFiles(
            dumped(pictures / "q.json", {"questions": QUESTIONS}), dumped(pictures / "a.json", annotations),
            images=pictures, pictures="{image_id}.png",
        )  # fmt: skip


def test_a_question_that_stands_twice_is_refused(pictures):
    twice = [*QUESTIONS, QUESTIONS[0] | {"question_id": float(QUESTIONS[0]["question_id"])}]
    with pytest.raises(UserError, match=rf"q.json:{len(QUESTIONS)}: question_id 0 is that of row 0 too"):
        VQAFiles(dumped(pictures / "q.json", {"questions": twice}), images=pictures, pictures="{image_id}.png")


def test_vizwizs_list(pictures):
    answers = [{"answer": "a can", "answer_confidence": "yes"}, {"answer": "", "answer_confidence": "no"}]
    rows = [{"image": "0.png", "question": "what?", "answers": answers, "answer_type": "other", "answerable": 1}]
    record = AnswerLists(dumped(pictures / "v.json", rows), images=pictures)[0]
    assert record.targets["answers"] == ["a can"]
    assert record.targets["answer_type"] == "other"
    test = AnswerLists(dumped(pictures / "t.json", [{"image": "0.png", "question": "what?"}]), images=pictures)[0]
    assert "answers" not in test.targets
    with pytest.raises(UserError, match=r'v.json:0: "answers" is empty'):
        AnswerLists(dumped(pictures / "v.json", [rows[0] | {"answers": []}]), images=pictures)


@pytest.fixture
def two(pictures):
    """Two folders with pictures of the same names, and lines and tables of both."""
    for name in ("x", "y"):
        (pictures / name).mkdir()
        for i in range(2):
            shutil.copy(pictures / f"{i + (name == 'y') * 2}.png", pictures / name / f"{i}.png")
            (pictures / name / f"{i}.txt").write_text(f"{name} {i}")
        rows = [{"image": f"{i}.png", "caption": "c"} for i in range(2)]
        write(pictures / name / "a.jsonl", rows)
        write(pictures / name / "ids.jsonl", [row | {"image_id": i} for i, row in enumerate(rows)])
        (pictures / name / "a.csv").write_text("image,caption\n0.png,c\n1.png,c\n")
    return pictures


@pytest.mark.parametrize("kind", [lambda p: JsonLines(p / "a.jsonl"), Folder, lambda p: Table(p / "a.csv")])
def test_joined_parts_with_pictures_of_one_name(two, kind, caplog):
    source = Joined([kind(two / "x"), kind(two / "y")])
    assert ids(source) == [str(two / name / f"{i}.png") for name in "xy" for i in range(2)]
    assert [row[:2] for row in described(source)] == [(source[i].key, source[i].image_id) for i in range(4)]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_joined_parts_with_one_id_for_different_pictures(two, caplog):
    source = Joined([JsonLines(two / "x" / "ids.jsonl"), JsonLines(two / "y" / "ids.jsonl")])
    assert len(set(ids(source))) == 4
    assert "2 image_ids are of different pictures in different parts (0, 1)" in caplog.text


def test_joined_parts_keep_ids_that_mean_one_picture(two, caplog):
    write(two / "more.jsonl", [{"image": "x/0.png", "caption": "d"}])
    write(two / "ids.jsonl", [{"image": "x/0.png", "caption": "d", "image_id": 0}])
    assert (
        ids(Joined([JsonLines(two / "x" / "a.jsonl"), JsonLines(two / "more.jsonl")]))[::2]
        == [str(two / "x" / "0.png")] * 2
    )
    assert ids(Joined([JsonLines(two / "x" / "ids.jsonl"), JsonLines(two / "ids.jsonl")])) == ["0", "1", "0"]
    assert not caplog.text
    with pytest.raises(IndexError):
        Joined([JsonLines(two / "ids.jsonl")])[1]


def test_annotations_of_other_pictures_are_refused(pictures):
    told = [entry | {"image_id": i} for i, entry in enumerate(ANNOTATIONS["annotations"])]
    questions = dumped(pictures / "q.json", {"questions": QUESTIONS})
    annotations = dumped(pictures / "a.json", {"annotations": told})
    assert len(VQAFiles(questions, annotations, images=pictures, pictures="{image_id}.png")) == 3
    told[1] |= {"image_id": 2}
    dumped(pictures / "a.json", {"annotations": told})
    with pytest.raises(UserError, match=r"q.json:1: question_id 1: image_id 1 here, 2 in .*a.json"):
        VQAFiles(questions, annotations, images=pictures, pictures="{image_id}.png")


def test_gqas_questions(pictures):
    shutil.copy(pictures / "3.png", pictures / "2375.jpg")
    asked = {"imageId": "2375", "question": " what? ", "fullAnswer": "a red car"}
    path = dumped(pictures / "val.json", {"0712": asked | {"answer": "car"}, "12": asked | {"answer": "red"}})
    source = open_source(path, {"question"})
    assert [(source[i].image.name, source[i].captions) for i in range(2)] == [("2375.jpg", ("what?",))] * 2
    assert [source[i].targets["answers"] for i in range(2)] == [["car"], ["red"]]
    assert [source[i].targets["question_id"] for i in range(2)] == ["0712", "12"]
    test = dumped(pictures / "test.json", {"5": asked})
    assert "answers" not in open_source(test, {"question"}, answers_needed=False)[0].targets
    with pytest.raises(UserError, match=r"test.json\[5\]: no answers, and 1 of 1 questions have none"):
        open_source(test, {"question"})
    broken = dumped(pictures / "b.json", {"5": asked, "6": {"imageId": "2375"}, "7": asked | {"imageId": "9"}})
    with pytest.raises(UserError, match=r"b.json:6: no \"question\".*\n.*b.json:7: no picture .*9.jpg"):
        open_source(broken, {"question"}, answers_needed=False)


@pytest.mark.parametrize(("own", "of_all", "name"), [
    (1, 0, "1"), ("1", 0, "1"), (1.0, 0, "1"), (0, 1, "0"), (None, 2, "2"), ("", 2.0, "2"), (float("nan"), "2", "2"),
    (" 2 ", 0, "2"),
])  # fmt: skip
def test_visual_genomes_question_says_its_picture_or_its_entry_does(pictures, own, of_all, name):
    for i in range(3):
        (pictures / f"{i}.png").rename(pictures / f"{i}.jpg")
    asked = {"qa_id": 7, "question": "what?", "answer": "a dog"}
    entries = [{"id": of_all, "qas": [asked | {"image_id": own}]}, {"id": 0, "qas": [asked | {"qa_id": 8}]}]
    source = VisualGenomeQA(dumped(pictures / "vg.json", entries), images=pictures)
    assert [source[i].image.name for i in range(2)] == [f"{name}.jpg", "0.jpg"] == ids(source)
    gqa = {"7": {"imageId": of_all if own in (None, "") or own != own else own, "question": "what?", "answer": "a dog"}}
    assert GQAQuestions(dumped(pictures / "gqa.json", gqa), images=pictures)[0].image.name == f"{name}.jpg"


@pytest.mark.parametrize(("given", "says"), [(True, "must be a string or a number, not true"), (None, "has no id")])
def test_what_is_no_id_of_a_picture_is_refused(pictures, given, says):
    asked = {"qa_id": 7, "question": "what?", "answer": "a dog", "image_id": given}
    with pytest.raises(UserError, match=rf"vg.json:0: .*{says}"):
        VisualGenomeQA(dumped(pictures / "vg.json", [{"qas": [asked]}]), images=pictures)
    gqa = {"7": {"imageId": given, "question": "what?", "answer": "a dog"}}
    with pytest.raises(UserError, match=rf'gqa.json:7: (.*{says}|no "imageId")'):
        GQAQuestions(dumped(pictures / "gqa.json", gqa), images=pictures)
