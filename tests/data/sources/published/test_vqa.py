"""Published files of questions, at a tiny size in their own forms, and JSON lines; errors name file, key and value."""

import json
from functools import partial

import pytest
from PIL import Image

from mmkit.data.records import captions_of
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.published.vqa import AnswerLists, VisualGenomeQA, VQAFiles, VQALines
from mmkit.data.texts.answers.rules import build_answers
from mmkit.errors import UserError
from tests.data.conftest import write


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def ten(answer, other="other"):
    return [{"answer": answer if i < 7 else other, "answer_confidence": "yes", "answer_id": i + 1} for i in range(10)]


@pytest.fixture
def vqa(tmp_path):
    """A split of VQA v2 with three questions about two pictures."""
    questions = {
        "info": {},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "data_subtype": "train2014",
        "questions": [
            {"image_id": 9, "question": "What is this?", "question_id": 9000},
            {"image_id": 9, "question": "Is it red? ", "question_id": 9001},
            {"image_id": 25, "question": "How many?", "question_id": 25000},
        ],
    }
    kinds = {9000: ("dog", "other"), 9001: ("yes", "yes/no"), 25000: ("2", "number")}
    annotations = {
        "annotations": [
            {
                "question_type": "what",
                "multiple_choice_answer": answer,
                "answers": ten(answer),
                "image_id": number // 1000,
                "answer_type": kind,
                "question_id": number,
            }
            for number, (answer, kind) in kinds.items()
        ]
    }
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    for number in (9, 25):
        picture(tmp_path / "images" / f"COCO_train2014_{number:012d}.jpg")
    return tmp_path


def test_vqa(vqa):
    source = VQAFiles(vqa / "questions.json", vqa / "annotations.json", images=vqa / "images")
    assert len(source) == 3
    record = source[1]
    assert record.image == vqa / "images" / "COCO_train2014_000000000009.jpg"
    assert record.captions == ("Is it red?",)
    assert record.targets == {
        "question": "Is it red?",
        "question_id": 9001,
        "answers": ["yes"] * 7 + ["other"] * 3,
        "answer_type": "yes/no",
        "answer": "yes",
    }
    assert source[0].image_id == record.image_id != source[2].image_id
    assert build_answers(source) == ["2", "dog", "yes"]
    assert list(captions_of(source)) == ["What is this?", "Is it red?", "How many?"]
    with pytest.raises(IndexError):
        source[3]


def test_vqa_pictures_in_the_folder_of_their_split(vqa):
    for number in (9, 25):
        picture(vqa / "coco" / "train2014" / f"COCO_train2014_{number:012d}.jpg")
    source = VQAFiles(vqa / "questions.json", vqa / "annotations.json", images=vqa / "coco")
    assert source[0].image == vqa / "coco" / "train2014" / "COCO_train2014_000000000009.jpg"


def test_vqa_test_split_has_no_answers(vqa):
    data = json.loads((vqa / "questions.json").read_text()) | {"data_subtype": "test-dev2015"}
    (vqa / "test.json").write_text(json.dumps(data))
    for number in (9, 25):
        picture(vqa / "images" / f"COCO_test2015_{number:012d}.jpg")
    source = VQAFiles(vqa / "test.json", images=vqa / "images")
    assert source[2].targets == {"question": "How many?", "question_id": 25000}
    assert source[2].image.name == "COCO_test2015_000000000025.jpg"


def test_vqa_errors(vqa):
    whole = json.loads((vqa / "annotations.json").read_text())
    annotations = whole["annotations"]

    def opened():
        return VQAFiles(vqa / "questions.json", vqa / "annotations.json", images=vqa / "images")

    (vqa / "annotations.json").write_text(json.dumps({"annotations": annotations[:2]}))
    with pytest.raises(UserError, match=r"questions.json:2: question_id 25000: not in .*annotations.json"):
        opened()
    annotations[1]["answers"] = [{"answer": ""}]
    (vqa / "annotations.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r'annotations.json:1: question_id 9001: "answers" is empty'):
        opened()
    (vqa / "annotations.json").write_text(json.dumps({"questions": []}))
    with pytest.raises(UserError, match=r'annotations.json: expected an object with the list "annotations"'):
        opened()
    with pytest.raises(UserError, match="no such file; expected VQA's questions"):
        VQAFiles(vqa / "none.json", images=vqa)
    with pytest.raises(UserError, match=r"(?s)3 of 3 rows.*questions.json:0: no picture .*COCO_train2014_000000000009"):
        VQAFiles(vqa / "questions.json", images=vqa)
    with pytest.raises(UserError, match="no such folder"):
        VQAFiles(vqa / "questions.json", images=vqa / "nowhere")


def test_visual_genome(tmp_path):
    data = [
        {"id": 1, "qas": [{"image_id": 1, "qa_id": 7, "question": "What color?", "answer": "Yellow."}]},
        {"id": 2, "qas": [{"image_id": 2, "qa_id": 8, "question": "Who?", "answer": "A man."}]},
    ]
    (tmp_path / "question_answers.json").write_text(json.dumps(data))
    picture(tmp_path / "VG_100K" / "1.jpg")
    picture(tmp_path / "VG_100K_2" / "2.jpg")
    source = VisualGenomeQA(tmp_path / "question_answers.json", images=tmp_path)
    assert [source[i].image.parent.name for i in range(2)] == ["VG_100K", "VG_100K_2"]
    targets = source[0].targets
    assert (targets["answers"], targets["weight"], targets["question_id"]) == (["yellow"], 0.5, 7)
    del data[1]["qas"][0]["answer"]
    (tmp_path / "question_answers.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r'question_answers.json:1: no "answer"; the row has "image_id", "qa_id"'):
        VisualGenomeQA(tmp_path / "question_answers.json", images=tmp_path)


def test_lists_of_albef(tmp_path):
    rows = [
        {"question_id": 4, "question": "Is it?", "answer": ["yes", "yes", "no"], "image": "v/1.jpg", "dataset": "vqa"},
        {"question": "What?", "answer": "a cat", "image": "v/2.jpg", "dataset": "vg"},
    ]
    (tmp_path / "vqa_train.json").write_text(json.dumps(rows))
    picture(tmp_path / "v" / "1.jpg")
    picture(tmp_path / "v" / "2.jpg")
    source = AnswerLists(tmp_path / "vqa_train.json", images=tmp_path)
    assert source[0].targets["answers"] == ["yes", "yes", "no"]
    assert source[0].targets["answer_type"] == "yes/no"
    assert "weight" not in source[0].targets
    assert source[1].targets["weight"] == 0.5
    assert source[1].targets["answers"] == ["a cat"]
    rows[1]["answer"] = [3]
    (tmp_path / "vqa_train.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r'vqa_train.json:1: "answer" has 3'):
        AnswerLists(tmp_path / "vqa_train.json", images=tmp_path)


def test_json_lines(pictures):
    rows = [
        {"image": "0.png", "question": "what?", "answers": "dog"},
        {"image": "1.png", "question": " how many? ", "answers": ["2", "2", "3"], "question_id": "q2"},
        {"image": "2.png", "question": "is it?", "answers": ten("yes", "no"), "answer_type": "polar", "weight": 0.5},
        {"image": "3.png", "question": "who?", "answer": "she"},
    ]
    source = VQALines(write(pictures / "vqa.jsonl", rows))
    assert source[0].targets == {"question": "what?", "question_id": 0, "answers": ["dog"], "answer_type": "other"}
    assert source[1].captions == ("how many?",)
    assert source[1].targets["question_id"] == "q2"
    assert source[1].targets["answer_type"] == "number"
    assert source[2].targets["answers"] == ["yes"] * 7 + ["no"] * 3
    assert (source[2].targets["answer_type"], source[2].targets["weight"]) == ("polar", 0.5)
    assert source[3].targets["answers"] == ["she"]
    assert list(captions_of(source)) == [source[i].captions[0] for i in range(4)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": ["a"]}, r'vqa.jsonl:1: no key "question"; the line has "image", "answers"'),
        ({"question": "what?"}, r'vqa.jsonl:1: no key "answers"; the line has "image", "question"'),
        ({"question": " ", "answers": ["a"]}, r'vqa.jsonl:1: "question" must be some words'),
        ({"question": "what?", "answers": []}, r'vqa.jsonl:1: "answers" is empty'),
        ({"question": "what?", "answers": 3}, r'vqa.jsonl:1: "answers" must be a string or a list, not 3'),
        ({"question": "what?", "answers": ["a", None]}, r'vqa.jsonl:1: "answers" has null'),
        ({"question": "what?", "answers": [{"text": "a"}]}, r'vqa.jsonl:1: "answers" has {"text": "a"}'),
    ],
)
def test_json_lines_that_cannot_be_used(pictures, row, message):
    with pytest.raises(UserError, match=message):
        VQALines(write(pictures / "vqa.jsonl", [{"image": "0.png", **row}]))


def test_json_lines_of_a_test_split(pictures):
    path = write(pictures / "vqa.jsonl", [{"image": "0.png", "question": "what?"}])
    assert VQALines(path, answers_needed=False)[0].targets == {"question": "what?", "question_id": 0}


def test_joined(pictures):
    parts = [
        write(pictures / f"{i}.jsonl", [{"image": "0.png", "question": f"{i}?", "answers": "a"}] * i) for i in (1, 2)
    ]
    source = Joined([VQALines(parts[0]), partial(VQALines, parts[1])])
    assert [source[i].captions[0] for i in range(len(source))] == ["1?", "2?", "2?"]
    assert list(captions_of(source)) == ["1?", "2?", "2?"]
    for index in (3, -1):
        with pytest.raises(IndexError):
            source[index]
    with pytest.raises(UserError, match="no parts"):
        Joined([])
