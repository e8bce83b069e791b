"""``bad=``: pictures that cannot be read are left out up to a share, counted and said; all else is as without them."""

import json
import logging
from functools import partial

import pytest

from mmkit.data.images.opening import load_image
from mmkit.data.video import opening
from mmkit.errors import Unreadable, UserError
from mmkit.evals import grounding
from mmkit.evals.classification import Classification
from mmkit.evals.evaluator import EVERY_PICTURE
from mmkit.evals.grounding import Grounding
from mmkit.evals.metrics import Evaluation
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.vqa import VQA
from mmkit.evals.zeroshot import ZeroShot
from tests.evals import test_grounding, test_vqa
from tests.evals.parts import COLOURS, Pictures, predictor
from tests.evals.test_metrics import Right


class Without:
    """A source without these of its records."""

    def __init__(self, source, *gone):
        self.source, self.rows = source, [i for i in range(len(source)) if i not in gone]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.source[self.rows[i]]

    @property
    def class_names(self):
        return self.source.class_names

    splits = test_grounding.Boxes.splits


class Boxes(test_grounding.Boxes):
    def __getitem__(self, i):
        record = super().__getitem__(i)
        return type(record)(**{**vars(record), "image": b"damaged"}) if i in (4, 5) else record


def cases():
    """(evaluator with its options, model, source with bad pictures, the bad records)."""
    joint, one_stream = predictor(1), test_vqa.parts.predictor(heads=("mixed",), model=test_grounding.vilt_tiny)
    return {
        "retrieval": (Retrieval, {"batch_size": 3, "chunk": 5}, joint, Pictures(11, broken=4), (4,)),
        "re-ranked": (Retrieval, {"batch_size": 3, "rerank_top": 4}, joint, Pictures(11, broken=0), (0,)),
        "every pair": (Retrieval, {"batch_size": 1}, one_stream, Pictures(5, broken=2), (2,)),
        "zero-shot": (ZeroShot, {"batch_size": 4, "rerank_top": 3}, joint, Pictures(11, broken=10), (10,)),
        "every class": (ZeroShot, {"batch_size": 2}, one_stream, Pictures(5, broken=1), (1,)),
        "answers": (VQA, {"batch_size": 3}, test_vqa.predictor("decoder"), test_vqa.Questions(14, broken=3), (6, 7)),
        "classes": (
            Classification, {"batch_size": 4}, test_vqa.predictor("classes"), test_vqa.Questions(11, broken=2), (4, 5)
        ),
        "metrics": (
            Evaluation, {"head": "label", "batch_size": 2, "metrics": {"right": partial(Right, 3)}},
            test_vqa.predictor("classes"), test_vqa.Questions(11, broken=2), (4, 5),
        ),
        "grounding": (Grounding, {"batch_size": 3}, joint, Boxes(11), (4, 5)),
    }  # fmt: skip


@pytest.mark.parametrize("name", cases())
def test_the_numbers_are_those_of_the_pictures_that_can_be_read(name, caplog):
    logging.getLogger("mmkit").propagate = True
    kind, options, model, source, gone = cases()[name]
    found = kind(source=source, bad=0.4, **options)(model)
    assert f"left out {len(gone)} of {len(source)} " in caplog.text
    assert "damaged" not in caplog.text  # the message of the file, not its bytes
    assert found.pop("left_out") == len(gone)
    wanted = kind(source=Without(source, *gone), **options)(model)
    assert found == pytest.approx(wanted, abs=1e-6)
    whole = kind(source=Without(source, *gone), bad=0.0, **options)(model)
    assert whole.pop("left_out") == 0
    assert whole == wanted


@pytest.mark.parametrize("name", ["retrieval", "zero-shot", "answers", "classes", "grounding"])
def test_too_many_are_an_error_and_none_is_allowed_unless_it_is_said(name):
    kind, options, model, source, gone = cases()[name]
    with pytest.raises(UserError, match=r"not a picture in a known format.*\. An evaluation reads every") as error:
        kind(source=source, **options)(model)
    assert "--max-bad SHARE (bad= in Python)" in EVERY_PICTURE
    assert EVERY_PICTURE in str(error.value)
    for share in (0.0, 0.99 * len(gone) / len(source)):
        with pytest.raises(UserError, match=rf"of {len(source)} pictures cannot be read, more than.*\n  .*not a pic"):
            kind(source=source, bad=share, **options)(model)
    assert kind(source=source, bad=len(gone) / len(source), **options)(model)["left_out"] == len(gone)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match=r"bad=.* \(--max-bad\): give a share"):
            kind(source=source, bad=share, **options)


def test_each_picture_is_opened_once(monkeypatch):
    opened = []
    for module in (opening, grounding):
        monkeypatch.setattr(module, "load_image", lambda record: opened.append(record.image_id) or load_image(record))
    for kind, options, model, source, _ in cases().values():
        opened.clear()
        kind(source=source, bad=0.4, **options)(model)
        assert opened
        questions = isinstance(source, test_vqa.Questions) and kind is VQA  # one picture may stand in two batches
        assert len(opened) <= len(source) + 3 * questions
        assert len(opened) == len(set(opened)) or questions or kind in (Classification, Evaluation)


def test_predictions_are_of_what_was_read_with_its_own_words(tmp_path):
    for name, key in (("zero-shot", "record"), ("classes", "record"), ("grounding", "record")):
        kind, options, model, source, gone = cases()[name]
        file = tmp_path / f"{name}.json"
        kind(source=source, bad=0.4, predictions=file, **options)(model)
        rows = json.loads(file.read_text())
        kept = [source[i] for i in range(len(source)) if i not in gone]
        assert list(dict.fromkeys(row[key] for row in rows)) == [record.key for record in kept]
        if name == "zero-shot":
            assert [row["label"] for row in rows] == [COLOURS[i % len(COLOURS)] for i in range(11) if i not in gone]
    file = tmp_path / "r.json"
    kind, options, model, source, gone = cases()["re-ranked"]
    kind(source=source, bad=0.4, predictions=file, **options)(model)
    pictures = [row["image"] for row in json.loads(file.read_text()) if row["direction"] == "image to text"]
    assert pictures == [str(i) for i in range(1, 11)]
    kind, options, model, source, gone = cases()["answers"]
    with pytest.raises(UserError, match="a file of --predictions answers all of them"):
        kind(source=source, bad=0.4, predictions=tmp_path / "v.json", **options)


class Away(Pictures):
    """One record cannot be fetched now, as of shards that lie elsewhere; what is said of it can."""

    def __getitem__(self, index):
        if index == 4:
            raise Unreadable("s3://bucket/00000.tar: cannot be read at byte 0")
        return super().__getitem__(index)

    def described(self):
        records = map(super().__getitem__, range(len(self)))
        return ((record.key, record.image_id, record.captions) for record in records)


def test_a_record_that_cannot_be_fetched_counts_as_a_bad_picture():
    found = Retrieval(source=Away(11), bad=0.1, batch_size=3)(predictor(1))
    assert found.pop("left_out") == 1
    assert found == pytest.approx(Retrieval(source=Without(Pictures(11), 4), batch_size=3)(predictor(1)), abs=1e-6)
    with pytest.raises(UserError, match=r"00000.tar: cannot be read at byte 0\. An evaluation reads every"):
        Retrieval(source=Away(11), batch_size=3)(predictor(1))
