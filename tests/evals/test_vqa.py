"""Accuracy over questions and over classes, and ``Predictor.answer``: by hand, in any batch, and what is refused."""

import json
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch

from mmkit.errors import UserError
from mmkit.evals.classification import Classification
from mmkit.evals.intervals import wilson
from mmkit.evals.vqa import VQA
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.classify import Classify
from tests.evals import parts
from tests.evals.parts import COLOURS, Pictures

ANSWERS = (*COLOURS, "a dark grey")


class Questions(Pictures):
    """Two questions about each picture in turn; the first answer of three annotators is theirs alike for even ones."""

    def __getitem__(self, i):
        record = super().__getitem__(i // 2)
        colour = COLOURS[i % len(COLOURS)]
        given = [colour] * 3 if i % 2 else [colour, COLOURS[0], COLOURS[0]]
        return replace(
            record, captions=(f"a {COLOURS[i % 5]} box",), key=f"question {i}",
            targets={"answers": given, "answer_type": "odd" if i % 2 else "even", "label": i % 3},
        )  # fmt: skip


def predictor(kind):
    made = parts.predictor()
    torch.manual_seed(1)
    make = {
        "classifier": lambda spec: AnswerClassifier(spec, ANSWERS),
        "decoder": lambda spec: AnswerDecoder(spec, ANSWERS, depth=1, heads=2),
        "classes": lambda spec: Classify(spec, ("no", "perhaps", "yes")),
    }[kind]
    head = make(made.model.spec)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    made.heads = {**made.heads, "label" if kind == "classes" else "answer": head}
    return made


@pytest.mark.parametrize("kind", ["classifier", "decoder"])
@pytest.mark.parametrize("batch_size", [3, 64])
def test_accuracy_is_that_of_each_answer(kind, batch_size):
    source, made = Questions(14), predictor(kind)
    found = VQA(source=source, batch_size=batch_size)(made)
    assert parts.alike(VQA(source=source), found) == {"n"}
    scores = {"even": [], "odd": []}
    for i in range(14):
        record = source[i]
        ((answer, _),) = made.answer([record], record.captions, top=1)[0]
        given = record.targets["answers"]
        # of three annotators: the mean over the two others of each, every match counting one half
        mean = sum(min(1, (given.count(answer) - (answer == own)) / 2) for own in given) / 3
        scores[record.targets["answer_type"]].append(mean)
    both = scores["even"] + scores["odd"]
    assert found["n"] == 14
    assert found["accuracy"] == pytest.approx(sum(both) / 14)
    assert found["by_type.odd"] == pytest.approx(sum(scores["odd"]) / 7)
    assert 0 < found["accuracy"] < 1 or len({a for row in made.answer([source[0]] * 2, ["a", "b"]) for a in row}) > 1


@pytest.mark.parametrize("kind", ["classifier", "decoder"])
def test_the_best_answers_in_order(kind):
    made, record = predictor(kind), Questions()[3]
    (found,) = made.answer([record], ["what is it?"], top=4)
    assert len(found) == 4
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    assert {a for a, _ in found} <= set(ANSWERS)
    (two,) = made.answer([record], ["what is it?"], answers=["red", "blue"])
    assert {a for a, _ in two} == {"red", "blue"}


def test_free_answers():
    made, record = predictor("decoder"), Questions()[3]
    found = made.answer([record, record], ["what is it?", "a red box"], generate=True)
    assert all(len(row) == 1 and isinstance(row[0][0], str) and 0 <= row[0][1] <= 1 for row in found)
    assert VQA(source=Questions(6), generate=True)(made)["n"] == 6


def test_what_cannot_answer_says_so():
    with pytest.raises(UserError, match=r"no head to answer questions.*itm"):
        parts.predictor().answer([Questions()[0]], ["what is it?"])
    with pytest.raises(UserError, match="write answers freely"):
        predictor("classifier").answer([Questions()[0]], ["what is it?"], generate=True)
    with pytest.raises(UserError, match="2 images do not go with 1 questions"):
        predictor("decoder").answer([Questions()[0]] * 2, ["what is it?"])


def test_questions_and_answers_that_mean_nothing():
    made, record = predictor("decoder"), Questions()[3]
    for options, message in (
        ({"top": 0}, "top=0: must be at least 1"), ({"top": -1}, "top=-1"), ({"answers": "no"}, r"write \[answer\]"),
        ({"answers": []}, "list of answers is empty"), ({"answers": ["no", "no"]}, "'no' stands there twice"),
        ({"answers": ["", "no"]}, "'' is empty"), ({"answers": ["no"], "generate": True}, "give one of them"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            made.answer([record], ["what is it?"], **options)
    with pytest.raises(UserError, match="question 1 is empty"):
        made.answer([record] * 2, ["what is it?", " "])
    (listed,) = made.answer((r for r in [record]), (q for q in ["what is it?"]), answers=(a for a in ("no", "red")))
    assert {answer for answer, _ in listed} == {"no", "red"}


def test_as_many_answers_as_asked_for():
    made = predictor("decoder")
    made.heads["answer"].top = 2  # so many are read whole where one is asked for
    (found,) = made.answer([Questions()[3]], ["what is it?"], top=7)
    assert len({answer for answer, _ in found}) == 7


@pytest.mark.parametrize("kind", ["classifier", "decoder"])
def test_a_list_without_the_right_answers(kind):
    made = predictor(kind)
    VQA(source=Questions(10)).check(made)
    if kind == "decoder":
        evaluator = VQA(source=Questions(10), answers=("cat", "dog"))
        for call in (evaluator, evaluator.check):
            with pytest.raises(UserError, match=r"hold a right one for 0.0% of 10 questions.*build-answers"):
                call(made)
    with pytest.raises(UserError, match="no head to answer"):
        VQA(source=Questions(10)).check(parts.predictor())
    made.heads["answer"].answers = ("cat", "dog")
    with pytest.raises(UserError, match=r"0.0% of 10 questions"):
        VQA(source=Questions(10)).check(made)


def test_the_check_reads_few_records():
    class Counted(Questions):
        read = 0

        def __getitem__(self, i):
            Counted.read += 1
            return super().__getitem__(i)

    VQA(source=Counted(5000)).check(predictor("decoder"))
    assert 0 < Counted.read <= 301


def test_questions_without_answers_are_named_before_training():
    class Unanswered(Questions):
        def __getitem__(self, i):
            return replace(super().__getitem__(i), targets={})

    for kind, generate in (("classifier", False), ("decoder", True)):
        with pytest.raises(UserError, match='question 0: "answers" must be'):
            VQA(source=Unanswered(10), generate=generate).check(predictor(kind))


def test_a_picture_that_cannot_be_read():
    for evaluator, kind in ((VQA, "decoder"), (Classification, "classes")):
        with pytest.raises(UserError, match=r"question [45]: not a picture"):
            evaluator(source=Questions(10, broken=2))(predictor(kind))


def test_classes_by_hand():
    source, made = Questions(11), predictor("classes")
    found = Classification(source=source, batch_size=4)(made)
    head = made.heads["label"]
    hits = []
    for i in range(11):
        record = source[i]
        (image,) = made.image_tokens([record], 1)
        fused = made.fuse(image, torch.tensor([0]), record.captions)
        hits.append(int(head.logits(fused).argmax()) == record.targets["label"])
    assert found["accuracy"] == pytest.approx(sum(hits) / 11)
    assert found["by_class.no"] == pytest.approx(sum(hits[0::3]) / 4)
    assert found["chance"] == pytest.approx(4 / 11)


class Classed(Questions):
    """With the label that ``label(i)`` says."""

    def __init__(self, n, label):
        super().__init__(n)
        self.label = label

    def __getitem__(self, i):
        targets = {"label": self.label(i), "identifier": f"dev-{i}"}
        return replace(super().__getitem__(i), targets={k: v for k, v in targets.items() if v is not None})


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda i: 3 if i == 2 else 0, "question 2: label 3 is none of the 3 classes of this head: no, perhaps, yes"),
        (lambda i: -1 if i == 2 else 0, "question 2: no 'label', though other records have one"),
        (lambda i: None if i == 2 else 0, "question 2: no 'label', though other records have one"),
        (lambda i: 0.5 if i == 2 else 0.0, '"label" must be a class name or a whole number, not 0.5'),
        (lambda i: "maybe" if i == 2 else "no", "question 2: label 'maybe' is none of the 3 classes"),
        (lambda i: None, r"question 0: no 'label'; accuracy needs one.*predictions=FILE"),
    ],
)
def test_labels_outside_the_classes(label, message):
    with pytest.raises(UserError, match=message):
        Classification(source=Classed(5, label), batch_size=2)(predictor("classes"))


def test_a_record_without_a_label_is_named_behind_pictures_that_were_left_out():
    source = Classed(6, lambda i: None if i == 3 else 0)
    source.broken = 0
    with pytest.raises(UserError, match=r"^question 3: no 'label', though"):
        Classification(source=source, batch_size=2, bad=0.5)(predictor("classes"))


def test_classes_by_number_float_or_name_are_the_same():
    names = ("no", "Perhaps", "yes")
    made, wanted = predictor("classes"), None
    for label in (lambda i: i % 3, lambda i: float(i % 3), lambda i: names[i % 3]):
        found = Classification(source=Classed(8, label), batch_size=3)(made)
        wanted = wanted or found
        assert found == wanted
    assert wanted["chance"] == 3 / 8
    assert (wanted["interval_low"], wanted["interval_high"]) == wilson(round(8 * wanted["accuracy"]), 8)


def test_a_head_that_scores_all_classes_alike_is_at_chance_and_a_broken_one_is_refused():
    made = predictor("classes")
    with torch.no_grad():
        made.heads["label"].out.weight.zero_()
        made.heads["label"].out.bias.zero_()
    assert Classification(source=Classed(6, lambda i: 0))(made)["accuracy"] == pytest.approx(1 / 3)
    with torch.no_grad():
        made.heads["label"].out.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="predictions of head 'label' hold values that are not finite"):
        Classification(source=Classed(6, lambda i: 0))(made)


def test_predictions_of_classes_with_labels_or_without(tmp_path):
    made, file = predictor("classes"), tmp_path / "p.json"
    found = Classification(source=Classed(7, lambda i: i % 3), batch_size=3, predictions=file)(made)
    rows = json.loads(file.read_text())
    assert [row["identifier"] for row in rows] == [f"dev-{i}" for i in range(7)]
    hits = [row["label"] == ("no", "perhaps", "yes")[i % 3] for i, row in enumerate(rows)]
    assert found["accuracy"] == pytest.approx(sum(hits) / 7)
    for row in rows:
        assert sum(row["scores"].values()) == pytest.approx(1)
        assert row["label"] == max(row["scores"], key=row["scores"].get)
    blind = Classification(source=Classed(7, lambda i: None), batch_size=2, predictions=tmp_path / "p.csv")
    assert blind(made) == {"n": 7}
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "identifier,label,scores,record"
    assert [line.split(",")[:2] for line in lines[1:]] == [[row["identifier"], row["label"]] for row in rows]


def test_a_head_that_is_not_there():
    with pytest.raises(UserError, match=r"no head 'other'.*label"):
        Classification(source=Questions(4), head="other")(predictor("classes"))


def test_partials_are_made():
    assert VQA(source=partial(Questions, 4))(predictor("classifier"))["n"] == 4


class Numbered(Questions):
    """With ids of their own, and answers where that is asked for."""

    def __init__(self, n, answered=lambda i: True, ids=lambda i: 1000 - i):
        super().__init__(n)
        self.answered, self.ids = answered, ids

    def __getitem__(self, i):
        record = super().__getitem__(i)
        targets = {**record.targets, "question_id": self.ids(i)}
        if not self.answered(i):
            targets.pop("answers")
        return replace(record, targets=targets)


@pytest.mark.parametrize(("kind", "generate"), [("classifier", False), ("decoder", False), ("decoder", True)])
def test_predictions_are_what_the_server_takes_with_answers_or_without(tmp_path, kind, generate):
    made, files = predictor(kind), [tmp_path / "a" / "p.json", tmp_path / "p.jsonl"]
    wanted = []
    for i in range(11):
        record = Numbered(11)[i]
        ((answer, _),) = made.answer([record], record.captions, top=1, generate=generate)[0]
        wanted.append({"question_id": 1000 - i, "answer": answer})
    found = VQA(source=Numbered(11), batch_size=3, predictions=files[0], generate=generate)(made)
    assert json.loads(files[0].read_text()) == wanted  # in the order of the data, each once
    assert 0 <= found["accuracy"] <= 1
    blind = VQA(source=Numbered(11, lambda i: False), batch_size=4, predictions=files[1], generate=generate)
    blind.check(made)
    assert blind(made) == {"n": 11}  # nothing is claimed
    assert [json.loads(line) for line in files[1].read_text().splitlines()] == wanted


def test_what_cannot_be_predicted_or_measured_is_named(tmp_path):
    made = predictor("classifier")
    with pytest.raises(UserError, match=r'"answers" must be .*--predictions FILE'):
        VQA(source=Numbered(5, lambda i: False))(made)
    some = lambda i: i != 3, lambda i: i == 3
    for answered, message in zip(some, ('question 3: "answers" must be', "question 3: has answers"), strict=True):
        with pytest.raises(UserError, match=message):
            VQA(source=Numbered(5, answered), predictions=tmp_path / "p.json")(made)
    with pytest.raises(UserError, match="question 3: question_id 0 is that of question 0 too"):
        VQA(source=Numbered(5, ids=lambda i: i % 3), predictions=tmp_path / "p.json")(made)
    with pytest.raises(UserError, match=r"question 1: question_id 7.0 is that of question 0 too"):
        VQA(source=Numbered(2, ids=lambda i: (7, 7.0)[i]), predictions=tmp_path / "p.json")(made)
    with pytest.raises(UserError, match="question 0: question_id must be a string or a number, not true"):
        VQA(source=Numbered(2, ids=lambda i: True), predictions=tmp_path / "p.json")(made)
    assert VQA(source=Numbered(5, ids=lambda i: i % 3))(made)["n"] == 5  # a rate needs no ids
    assert not (tmp_path / "p.json").exists()


def test_both_rules_stand_side_by_side_by_name(monkeypatch):
    """All ten gave "t-shirt", which the published program never meets; ours does."""

    class Shirts(Questions):
        def __getitem__(self, i):
            record = super().__getitem__(i)
            return replace(record, targets={**record.targets, "answers": ["t-shirt"] * 10 if i < 3 else ["red"] * 10})

    monkeypatch.setattr("mmkit.evals.vqa.answers_to", lambda p, samples, *rest: [["t-shirt"] for _ in samples])
    monkeypatch.setattr("mmkit.evals.vqa.LOOKED_AT", 0)
    monkeypatch.setattr("mmkit.evals.vqa.check_coverage", lambda *args, **kwargs: None)
    ours = VQA(source=Shirts(4)).evaluate(predictor("classifier")).to_json()
    assert (ours["accuracy"], ours["published.accuracy"], ours["rule"]) == (0.75, 0.0, "mmkit")
    assert (ours["interval_low"], ours["interval_high"]) == wilson(3, 4)
    theirs = VQA(source=Shirts(4), as_published=True).evaluate(predictor("classifier")).to_json()
    assert (theirs["accuracy"], theirs["published.accuracy"], theirs["rule"]) == (0.0, 0.0, "published")
    assert theirs["by_type.even"] == theirs["published.by_type.even"] == 0.0
    assert ours["by_type.odd"] == 0.5


@pytest.mark.parametrize("kind", ["classifier", "decoder"])
def test_a_model_that_scores_all_answers_alike_gets_the_mean_over_them(kind):
    """Not that of the first one, to which equal scores would fall."""

    class First(Questions):
        def __getitem__(self, i):
            record = super().__getitem__(i)
            return replace(record, targets={**record.targets, "answers": [ANSWERS[0]] * 3})

    made = predictor(kind)
    head = made.heads["answer"]
    with torch.no_grad():
        for parameter in (head.out if kind == "classifier" else head.vocabulary).parameters():
            parameter.zero_()
        if kind == "decoder":
            head.decoder.embeddings.words.weight.zero_()
    chosen = ("red", "blue", "pink")
    found = VQA(source=First(6), answers=chosen, batch_size=4)(made)
    if kind == "classifier":
        assert found["accuracy"] == pytest.approx(1 / 3)
    else:  # answers of as many tokens are as likely
        assert found["accuracy"] <= 1 / 2


def test_a_broken_model_answers_nothing():
    for kind, generate in (("classifier", False), ("decoder", False), ("decoder", True)):
        made = predictor(kind)
        with torch.no_grad():
            for parameter in made.heads["answer"].parameters():
                parameter.fill_(torch.nan)
        with pytest.raises(UserError, match="not finite"):
            VQA(source=Questions(4), generate=generate)(made)


def test_pictures_are_not_held():
    """Each record is let go before the next batch is read."""
    alive = []

    class Watched(Questions):
        def __getitem__(self, i):
            record = super().__getitem__(i)
            alive.append(weakref.ref(record.image))
            most.append(sum(ref() is not None for ref in alive))
            return record

    most = []
    VQA(source=Watched(40), batch_size=4)(predictor("classifier"))
    assert max(most) < 20
