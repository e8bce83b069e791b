import math
from io import StringIO

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from mmkit.errors import UserError
from mmkit.evals.text_bank import class_bank
from mmkit.evals.zeroshot import ZeroShot, ZeroShotResult, bootstrap, read_templates, sorted_top
from tests.evals.parts import COLOURS, Pictures, predictor

TEMPLATES = ("a {} box", "{}", "the {} square here")


def test_equals_the_definition():
    model, source = predictor(), Pictures(26)
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
    result = ZeroShot(
        source=source, templates=TEMPLATES, rerank_top=k, rerank_templates=templates_read, batch_size=5
    ).evaluate(model)
    for i in range(14):

        def score(c, image=source[i].image):
            texts = [t.replace("{}", COLOURS[c]) for t in TEMPLATES[:templates_read]]
            return model.match([image] * len(texts), texts).logit().mean().item()

        assert result.reranked[i] == max(result.top[i, :k].tolist(), key=score)
    hits = (result.reranked == torch.arange(14) % len(COLOURS)).double().mean().item()
    found = result.to_json()["rerank"]
    assert (found["top1"], found["top"]) == (pytest.approx(hits), 4)
    low, high = found["interval"]
    assert (low, high) == bootstrap(round(14 * hits), 14)
    assert result.metrics()["rerank.interval_low"] == low
    assert result.metrics()["rerank.interval_high"] == high


def test_of_classes_that_match_alike_the_first_is_taken():
    model = predictor()
    torch.nn.init.zeros_(model.heads["itm"].classify.weight)
    result = ZeroShot(source=Pictures(14), rerank_top=4).evaluate(model)
    assert torch.equal(result.reranked, result.top[:, :4].min(1).values)


def test_per_class_and_confusion():
    labels, top = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([[0], [1], [1], [2], [0]])
    result = ZeroShotResult(
        class_names=("x", "y", "z"), labels=labels, top=top, top1=0.4, top5=1.0, interval=(0.1, 0.9)
    )
    assert result.confusion().tolist() == [[1, 2, 0], [0, 0, 0], [1, 0, 1]]
    assert result.per_class() == [
        {"name": "x", "n": 3, "top1": pytest.approx(1 / 3), "taken_for": "y"},
        {"name": "z", "n": 2, "top1": 0.5, "taken_for": "x"},
    ]
    found = result.to_json()
    assert found["interval"] == [0.1, 0.9]
    assert {"label": "x", "predicted": "y", "n": 2} in found["confusion"]
    assert result.table().row_count == 4


def test_after_re_ranking_everything_says_of_which_it_is(tmp_path):
    labels, top = torch.tensor([0, 0, 1]), torch.tensor([[1, 0], [1, 0], [1, 0]])
    result = ZeroShotResult(
        class_names=("x", "y"), labels=labels, top=top, top1=1 / 3, top5=1.0, interval=(0.0, 0.9),
        rerank_top=2, reranked=torch.tensor([0, 0, 0]), rerank_interval=(0.1, 1.0),
    )  # fmt: skip
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
    assert "10.0% to 100.0%" in text
    assert "worst after re-ranking: y (1)" in text
    assert "worst: " not in text
    assert (result.named(False), result.named(True)) == ("joint space", "re-ranked top 2")


def test_interval_is_seeded_and_as_wide_as_it_should_be():
    assert bootstrap(60, 100) == bootstrap(60, 100) != bootstrap(60, 100, seed=1)
    low, high = bootstrap(600, 1000)
    error = 1.96 * math.sqrt(0.6 * 0.4 / 1000)
    assert low == pytest.approx(0.6 - error, abs=0.004)
    assert high == pytest.approx(0.6 + error, abs=0.004)
    assert bootstrap(10, 10) == (1.0, 1.0)


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
        (None, 'picture 0: no "label"'),
        ("mauve", 'label "mauve" is none of the 11'),
        (11, "label 11 must be"),
        (True, "label True must be"),
    ],
)
def test_labels_that_fit_no_class_are_named(label, message):
    with pytest.raises(UserError, match=message):
        ZeroShot(source=Labelled(label))(predictor())


def test_a_label_may_be_a_number():
    assert ZeroShot(source=Labelled(1))(predictor())["n"] == 3


def test_templates_are_checked(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("# comment\na {}.\n\n一张{}的图\n", encoding="utf-8")
    assert read_templates(file) == ("a {}.", "一张{}的图")
    file.write_text("no place\n")
    with pytest.raises(UserError, match=r't.txt: "no place" must hold \{\} once'):
        read_templates(file)
    with pytest.raises(UserError, match=r"missing\.txt: cannot read the templates"):
        read_templates(tmp_path / "missing.txt")
    with pytest.raises(UserError, match="give a list"):
        ZeroShot(source=Pictures(), templates="a {}")
