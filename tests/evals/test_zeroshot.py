from dataclasses import replace
from io import StringIO

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from mmkit.errors import UserError
from mmkit.evals.intervals import wilson
from mmkit.evals.prompts import read_templates
from mmkit.evals.recall import sorted_top
from mmkit.evals.text_bank import class_bank
from mmkit.evals.zeroshot import ZeroShot, ZeroShotResult
from tests.evals.parts import COLOURS, Pictures, alike, predictor

TEMPLATES = ("a {} box", "{}", "the {} square here")


def test_equals_the_definition(device):
    model, source = predictor().to(device), Pictures(26)
    result = ZeroShot(source=source, templates=TEMPLATES, batch_size=7).evaluate(model)
    bank = torch.stack(
        [F.normalize(model.encode_text([t.replace("{}", c) for t in TEMPLATES]).mean(0), dim=0) for c in COLOURS]
    )
    torch.testing.assert_close(class_bank(model, COLOURS, TEMPLATES), bank, atol=1e-6, rtol=0)
    scores = model.encode_image([source[i].image for i in range(26)]) @ bank.T
    labels = torch.arange(26) % len(COLOURS)
    order = scores.argsort(1, descending=True)
    assert result.top1 == pytest.approx((order[:, 0] == labels).double().mean().item())
    assert result.top5 == pytest.approx((order[:, :5] == labels[:, None]).any(1).double().mean().item())
    assert result.metrics()["chance"] == 1 / len(COLOURS)


@pytest.mark.parametrize("templates_read", [1, 3])
def test_reranking_takes_the_best_match_among_the_top(templates_read):
    model, source, k = predictor(3), Pictures(14), 4
    evaluator = ZeroShot(
        source=source, templates=TEMPLATES, rerank_top=k, rerank_templates=templates_read, batch_size=5
    )
    result = evaluator.evaluate(model)
    for i in range(14):

        def score(c, image=source[i].image):
            texts = [t.replace("{}", COLOURS[c]) for t in TEMPLATES[:templates_read]]
            return model.match([image] * len(texts), texts).logit().mean().item()

        assert result.reranked[i] == max(result.top[i, :k].tolist(), key=score)
    hits = (result.reranked == torch.arange(14) % len(COLOURS)).double().mean().item()
    found = result.to_json()["rerank"]
    assert (found["top1"], found["top"]) == (pytest.approx(hits), 4)
    low, high = found["interval"]
    assert (low, high) == wilson(round(14 * hits), 14)
    constant = {"chance", "chance_top5", "majority", "n", "classes"}
    assert alike(evaluator, result.metrics()) == constant
    assert "rerank.top1" in alike(replace(evaluator, rerank_top=None), result.metrics())
    assert result.metrics()["rerank.interval_low"] == low
    assert result.metrics()["rerank.interval_high"] == high


def test_of_classes_that_match_alike_the_first_is_taken():
    model = predictor()
    torch.nn.init.zeros_(model.heads["itm"].classify.weight)
    result = ZeroShot(source=Pictures(14), rerank_top=4).evaluate(model)
    assert torch.equal(result.reranked, result.top[:, :4].min(1).values)


def made(names, labels, top, reranked=None):
    labels, top = torch.tensor(labels), torch.tensor(top)
    again = {}
    if reranked is not None:
        again = {
            "rerank_top": top.shape[1], "reranked": torch.tensor(reranked),
            "rerank_hits": (torch.tensor(reranked) == labels).double(),
        }  # fmt: skip
    hits = torch.stack([(top[:, :1] == labels[:, None]).any(1), (top == labels[:, None]).any(1)], 1).double()
    return ZeroShotResult(
        class_names=names, labels=labels, top=top, scores=torch.zeros(top.shape), hits=hits, rows=range(len(top)),
        **again,
    )  # fmt: skip


def test_per_class_and_confusion():
    result = made(("x", "y", "z"), labels=[0, 0, 0, 2, 2], top=[[0], [1], [1], [2], [0]])
    assert result.confusion().tolist() == [[1, 2, 0], [0, 0, 0], [1, 0, 1]]
    assert result.per_class() == [
        {"name": "x", "n": 3, "top1": pytest.approx(1 / 3), "taken_for": "y"},
        {"name": "z", "n": 2, "top1": 0.5, "taken_for": "x"},
    ]
    found = result.to_json()
    assert found["interval"] == list(wilson(2, 5))
    assert (found["top1"], found["chance"], found["majority"]) == (pytest.approx(0.4), 1 / 3, 0.6)
    assert {"label": "x", "predicted": "y", "n": 2} in found["confusion"]
    assert result.table().row_count == 4


def test_after_re_ranking_everything_says_of_which_it_is(tmp_path):
    result = made(("x", "y"), labels=[0, 0, 1], top=[[1, 0], [1, 0], [1, 0]], reranked=[0, 0, 0])
    assert result.confusion().tolist() == [[0, 2], [0, 1]]
    assert result.confusion(reranked=True).tolist() == [[2, 0], [1, 0]]
    found = result.to_json()
    assert found["per_class"][0] == {"name": "x", "n": 2, "top1": 0.0, "taken_for": "y"}
    assert found["rerank"]["per_class"][0] == {"name": "x", "n": 2, "top1": 1.0, "taken_for": None}
    assert found["confusion"] == [{"label": "x", "predicted": "y", "n": 2}]
    assert found["rerank"]["confusion"] == [{"label": "y", "predicted": "x", "n": 1}]
    result.write_per_class(tmp_path / "c.csv")
    lines = ["name,n,top1,taken_for,rerank_top1,rerank_taken_for", "x,2,0.0,y,1.0,", "y,1,1.0,,0.0,x"]
    assert (tmp_path / "c.csv").read_text().splitlines() == lines
    console = Console(width=120, file=StringIO())
    console.print(result.table())
    text = console.file.getvalue()
    low, high = wilson(2, 3)
    assert f"{low:.1%} to {high:.1%}" in text
    assert "worst after re-ranking: y (1)" in text
    assert "worst: " not in text
    assert (result.named(False), result.named(True)) == ("joint space", "re-ranked top 2")


def test_chance_after_re_ranking_is_of_the_pictures_whose_class_was_found():
    result = made(("x", "y", "z"), labels=[0, 0, 1, 2], top=[[0, 1], [1, 2], [1, 0], [0, 1]], reranked=[0, 1, 1, 0])
    judged = result.judged()
    assert (judged.chance, judged.candidates, judged.n) == (0.25, 2, 4)
    assert judged.after == {1: 0.5}


def test_order_of_equal_scores_is_that_of_the_classes():
    assert sorted_top(torch.tensor([[1.0, 3, 3, 2, 3]]), 4).tolist() == [[1, 2, 4, 3]]


class Labelled(Pictures):
    def __init__(self, label):
        super().__init__(3)
        self.label = label

    def __getitem__(self, i):
        record = super().__getitem__(i)
        record.targets.pop("label")
        return record if self.label is None else type(record)(**{**vars(record), "targets": {"label": self.label}})


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, 'no "label" in any record.*--predictions FILE'),
        ("mauve", "picture 0: label 'mauve' is none of the 11 classes"),
        (11, "label 11 is none of the 11"),
        (-1, 'no "label" in any record'),  # as data sets write it
        (1.5, '"label" must be a class name or a whole number, not 1.5'),
        (True, '"label" must be a class name or a whole number, not true'),
        (float("nan"), r'no "label" \(NaN\)'),
    ],
)
def test_labels_that_fit_no_class_are_named(label, message):
    with pytest.raises(UserError, match=message):
        ZeroShot(source=Labelled(label))(predictor())


def test_a_label_may_be_a_number():
    for label in (1, 1.0, torch.tensor(1.0).item(), "green"):
        assert ZeroShot(source=Labelled(label)).read()[2].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, 'picture 1: no "label"'),
        (-1, "picture 1: label -1 is none of the 11 classes; it often stands for a class that is not known"),
    ],
)
def test_one_picture_without_a_label_among_others(label, message):
    class Some(Pictures):
        def __getitem__(self, i):
            record = super().__getitem__(i)
            record.targets["label"] = label if i == 1 else COLOURS[i]
            return record

    with pytest.raises(UserError, match=message):
        ZeroShot(source=Some(3))(predictor())


def test_templates_are_checked(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("# comment\na {}.\n\n一张{}的图\n", encoding="utf-8")
    assert read_templates(file) == ("a {}.", "一张{}的图")
    file.write_text("no place\n")
    with pytest.raises(UserError, match=r't.txt: "no place" must hold \{\} once'):
        read_templates(file)
    with pytest.raises(UserError, match=r"missing\.txt: no such file; expected templates"):
        read_templates(tmp_path / "missing.txt")
    with pytest.raises(UserError, match="give a list"):
        ZeroShot(source=Pictures(), templates="a {}")
