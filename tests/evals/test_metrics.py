"""Metrics with torchmetrics' convention over what a head predicts: each sample once, in order, on any evaluation."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from mmkit.data.collate import Sample
from mmkit.errors import UserError
from mmkit.evals.classification import Classification
from mmkit.evals.metrics import Evaluation, computed, on_cpu
from mmkit.evals.vqa import VQA
from mmkit.features import Features
from mmkit.heads.base import Head
from tests.evals.parts import Pictures, alike
from tests.evals.parts import predictor as pictures_model
from tests.evals.test_vqa import Classed, Questions, predictor


class Right:
    """The share of right ones, and of each class: as torchmetrics has it, with its own gathering."""

    def __init__(self, classes=3):
        self.sync_on_compute, self.classes = True, classes
        self.hits, self.labels = [], []

    def update(self, prediction, targets):
        assert prediction.device.type == "cpu"
        self.hits += (prediction.argmax(1) == targets).tolist()
        self.labels += targets.tolist()

    def compute(self):
        labels, hits = torch.tensor(self.labels), torch.tensor(self.hits).double()
        each = torch.stack([hits[labels == i].mean() for i in range(self.classes)])
        return {"all": hits.mean(), "each": each, "n": len(labels)}


class Order:
    """The labels one after the other, as one number."""

    def __init__(self):
        self.seen = ""

    def update(self, prediction, targets):
        self.seen += "".join(map(str, targets.tolist()))

    def compute(self):
        return float(self.seen)


def by_hand(source, made):
    hits = []
    for i in range(len(source)):
        record = source[i]
        (image,) = made.image_tokens([record], 1)
        logits = made.heads["label"].logits(made.fuse(image, torch.tensor([0]), record.captions))
        hits.append(int(logits.argmax()) == record.targets["label"])
    return hits


def test_a_head_and_metrics_and_nothing_else():
    source, made, metric = Questions(11), predictor("classes"), Right()
    evaluation = Evaluation(source=source, head="label", batch_size=4, metrics={"right": metric, "order": Order()})
    evaluation.check(made)
    found, hits = evaluation(made), by_hand(source, made)
    assert found == {
        "right.all": pytest.approx(sum(hits) / 11), "right.n": 11, "order": float("01201201201"), "n": 11,
        **{f"right.each.{i}": pytest.approx(sum(hits[i::3]) / len(hits[i::3])) for i in range(3)},
    }  # fmt: skip
    assert evaluation(made) == found  # begins anew
    assert metric.labels == []  # what was given stays as it is
    partly = Evaluation(source=source, head="label", metrics={"right": partial(Right, classes=2)})
    assert len(partly(made)) == 5
    assert Evaluation(source=source, head="label", metrics={"right": Right})(made) == {  # what makes one
        key: value for key, value in found.items() if key != "order"
    }


def test_classification_takes_further_metrics_where_there_are_labels(tmp_path):
    made, more = predictor("classes"), {"right": Right(), "order": Order()}
    named = Classed(7, lambda i: ("no", "perhaps", "yes")[i % 3])
    evaluator = Classification(source=named, batch_size=3, metrics=more)
    found = evaluator(made)
    assert alike(evaluator, found) == {"n", "chance"}
    assert found["right.all"] == pytest.approx(found["accuracy"])
    assert found["right.each.1"] == pytest.approx(found["by_class.perhaps"])
    assert found["order"] == 120120
    blind = Classification(source=Classed(7, lambda i: None), metrics=more, predictions=tmp_path / "p.json")
    assert blind(made) == {"n": 7}


class Own(Head):
    """Of a user's, that says several things of each sample."""

    needs_words = True

    def predict(self, f):
        assert not self.training
        boxes = [row[None] for row in f.image.x[:, 0]]
        return {"sum": f.image.x.sum((1, 2)), "words": f.batch.mask.sum(1), "boxes": boxes}


class Kept:
    def __init__(self):
        self.parts, self.targets = [], []

    def update(self, prediction, targets):
        self.parts.append(prediction)
        self.targets.append(targets)

    def compute(self):
        assert all(isinstance(part["words"], torch.Tensor) and len(part["boxes"]) for part in self.parts)
        assert [list(target) for target in self.targets] == [["answers", "answer_type", "label"]] * len(self.parts)
        return torch.cat([part["sum"] for part in self.parts]).mean()


def test_what_a_head_predicts_may_have_any_form():
    made = predictor("classes")
    made.heads = {**made.heads, "own": Own()}
    found = Evaluation(source=Questions(5), head="own", target=None, metrics={"kept": Kept()}, batch_size=2)(made)
    (tokens,) = made.image_tokens([Questions(5)[i] for i in range(5)], 5)
    assert found["kept"] == pytest.approx(tokens.x.sum((1, 2)).mean().item(), rel=1e-4)


def test_what_cannot_be_measured_is_named():
    made = predictor("classes")
    with pytest.raises(UserError, match=r"no head 'itc' that predicts; such heads: \['itm', 'label'\]"):
        Evaluation(source=Questions(3), head="itc").check(made)
    with pytest.raises(UserError, match="no head 'itm' that classifies"):
        Classification(source=Questions(3), head="itm").check(made)
    with pytest.raises(UserError, match="need the target 'kind', and the records have: answers, answer_type, label"):
        Evaluation(source=Questions(3), head="label", target="kind", metrics={"r": Right()})(made)

    class Wordless(Questions):
        def __getitem__(self, i):
            return replace(super().__getitem__(i), captions=() if i == 2 else ("x",))

    with pytest.raises(UserError, match="question 2: no caption"):
        Evaluation(source=Wordless(3), head="label")(made)
    with pytest.raises(UserError, match="the boxes hold values that are not finite"):
        on_cpu({"a": [torch.ones(2), torch.tensor([1.0, torch.nan])]}, "boxes")
    assert on_cpu(torch.tensor([1, 2]), "numbers").dtype == torch.int64
    assert on_cpu(torch.ones(1, dtype=torch.bfloat16), "numbers").dtype == torch.float32


def test_numbers_by_dotted_name():
    class Says:
        def __init__(self, value):
            self.value = value

        def compute(self):
            return self.value

    values = {"a": torch.tensor(0.5), "b": {"x": 1, "y": torch.tensor([2.0])}, "c": torch.tensor([[1, 2], [3, 4]])}
    assert computed({name: Says(value) for name, value in values.items()}) == {
        "a": 0.5, "b.x": 1.0, "b.y": 2.0, "c.0": 1.0, "c.1": 2.0, "c.2": 3.0, "c.3": 4.0,
    }  # fmt: skip


class Said(Questions):
    """Each picture with two captions, or two questions."""

    def __init__(self, n, asks):
        super().__init__(n)
        self.asks = asks

    def __getitem__(self, i):
        record = super().__getitem__(i)
        targets = {k: v for k, v in record.targets.items() if self.asks or k == "label"}
        return replace(record, captions=("a box", "a tile"), targets=targets)


@pytest.mark.parametrize("kind", ["question", "caption"])
def test_each_record_is_asked_one_of_its_own_texts_as_what_it_is(kind):
    made, asked, told = predictor("classes"), [], []
    sample = made.sample
    made.sample = lambda *given: asked.append((given[1], given[3])) or sample(*given)
    made.progress = lambda *said: told.append(said)
    evaluation = Evaluation(source=Said(20, kind == "question"), head="label", batch_size=8)
    evaluation(made)
    assert {text for text, _ in asked} == {"a box", "a tile"}  # drawn for each anew, not the same of all
    assert {said for _, said in asked} == {kind}
    assert told == [("records", 8, 20), ("records", 16, 20), ("records", 20, 20)]
    evaluation(made)
    assert asked[20:] == asked[:20]


def test_texts_that_are_cut_are_counted_over_the_whole(caplog):
    class Long(Questions):
        def __getitem__(self, i):
            return replace(super().__getitem__(i), captions=(f"a {'red ' * 20}box {i}" if i % 3 else "a box",))

    Evaluation(source=Long(9), head="label", batch_size=2)(predictor("classes"))
    (said,) = [message for message in caplog.messages if "longer than" in message]
    assert said.startswith("6 of 7 texts")  # "a box", three times


def test_torchmetrics_own_are_taken_as_they_are():
    torchmetrics = pytest.importorskip("torchmetrics")
    made, source = predictor("classes"), Questions(11)
    metric = torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="micro")
    found = Evaluation(source=source, head="label", metrics={"top1": metric}, batch_size=4)(made)
    assert found["top1"] == pytest.approx(sum(by_hand(source, made)) / 11)


def test_a_picture_that_several_samples_show_is_encoded_once():
    made, seen, ready = predictor("decoder"), [], []
    encode, context = made.model.encode_image, made.model.image_context
    made.model.encode_image = lambda pixels: seen.append(len(pixels)) or encode(pixels)
    made.model.image_context = lambda image: ready.append(len(image.x)) or context(image)
    VQA(source=Questions(12), batch_size=12)(made)
    assert seen == ready == [6]  # nor projected twice
    seen.clear()
    VQA(source=Questions(12), batch_size=5)(made)
    assert seen == [3, 3, 1]  # pictures 0 0 1 1 2, 2 3 3 4 4, 5 5


def test_views_of_a_shared_picture_are_those_of_each_alone():
    made = pictures_model()
    pixels = [made.transform(Pictures()[i].image) for i in (0, 3)]
    samples = [
        Sample(pixels=pixels[i], ids=made.encoder(text), image_id=7 + i, caption_id=1, key=text)
        for i, text in ((1, "a red box"), (0, "a box"), (1, "a green tile"))
    ]
    with made.inference():
        shared = made.features(samples)
        alone = made.features([replace(one, pixels=one.pixels.clone()) for one in samples])
        assert isinstance(shared, Features)
        for name in ("image", "fused", "fused_first"):
            one, other = (getattr(f, name) for f in (shared, alone))
            if name != "image":
                one, other = one.together(), other.together()
            torch.testing.assert_close(one.x, other.x, atol=1e-5, rtol=1e-5)
        assert torch.equal(shared.batch.pixels, alone.batch.pixels)
        assert shared.batch.image_id.tolist() == [8, 7, 8]
