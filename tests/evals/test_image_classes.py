"""Classes of pictures by a head: the rates by hand, any batch, and classes matched by name."""

from dataclasses import replace

import pytest
import torch

from mmkit.data.images.transforms import EvalTransform
from mmkit.errors import UserError
from mmkit.evals.classification import Classification
from mmkit.evals.image_classes import ImageClasses
from mmkit.heads.classify import Classify
from mmkit.heads.image_classify import ImageClassify
from mmkit.inference.predictor import Predictor
from tests.evals.parts import COLOURS, Pictures, alike, predictor
from tests.sizes import vision_tiny

CLASSES = tuple(reversed(COLOURS))


class Named(Pictures):
    """The pictures of a source, with other names."""

    def __init__(self, source, name):
        super().__init__(len(source))
        self.source, self.name = source, name

    def __getitem__(self, i):
        record = self.source[i]
        return replace(record, targets={"label": self.name(record.targets["label"])})


def sorting(heads=("class",)) -> Predictor:
    torch.manual_seed(4)
    model = vision_tiny()
    made = {name: ImageClassify(model.spec, CLASSES) for name in heads}
    with torch.no_grad():
        for part in (model, *made.values()):
            for parameter in part.parameters():
                parameter.mul_(4) if parameter.ndim > 1 else None
    return Predictor(model, made, None, EvalTransform(size=32), 0)


def test_the_rates_are_those_of_the_heads_own_order():
    model, source = sorting(), Pictures(23)
    result = ImageClasses(source=source, batch_size=5).evaluate(model)
    best = model.classify([source[i].image for i in range(23)], batch_size=4)
    right = [source[i].targets["label"] for i in range(23)]
    assert len({names[0][0] for names in best}) > 1
    top1 = sum(found[0][0] == name for found, name in zip(best, right, strict=True)) / 23
    top5 = sum(name in dict(found) for found, name in zip(best, right, strict=True)) / 23
    assert (result.top1, result.top5) == (pytest.approx(top1), pytest.approx(top5))
    assert 0 < result.top5 < 1
    shown = result.to_json()
    assert (shown["n"], shown["classes"], shown["by"]) == (23, 11, "classifier")
    assert shown["chance"] == pytest.approx(1 / 11)
    other = ImageClasses(source=source, batch_size=23)
    assert other(model) == pytest.approx(result.metrics())
    assert alike(other, result.metrics()) == {"chance", "chance_top5", "majority", "n", "classes"}
    rows = result.predictions(source)
    for row, found in zip(rows, best, strict=True):
        assert list(row["scores"]) == [name for name, _ in found]
        assert list(row["scores"].values()) == pytest.approx([value for _, value in found], abs=1e-6)


def test_scores_that_are_no_numbers_and_no_classes_at_all_are_refused():
    model = sorting()
    with pytest.raises(UserError, match="top=0: must be at least 1"):
        model.classify([Pictures()[0].image], top=0)
    assert model.classify([]) == []
    next(iter(model.heads["class"].parameters())).data.fill_(float("nan"))
    with pytest.raises(UserError, match="class scores hold values that are not finite"):
        model.classify([Pictures()[0].image])


def test_which_head_sorts():
    two = sorting(heads=("a", "b"))
    with pytest.raises(UserError, match=r"needs one head that .* heads are: a \(ImageClassify\), b"):
        ImageClasses(source=Pictures(3)).check(two)
    assert ImageClasses(source=Pictures(3), head="b").evaluate(two).n == 3
    assert [len(found) for found in two.classify([Pictures()[0].image], head="a", top=20)] == [11]
    with pytest.raises(UserError, match="needs a head 'c' that sorts pictures alone"):
        ImageClasses(source=Pictures(3), head="c").check(two)
    words = predictor()
    words.heads["label"] = Classify(words.model.spec, CLASSES)  # of pairs, so no head of pictures
    with pytest.raises(UserError, match="needs one head that sorts pictures alone"):
        ImageClasses(source=Pictures(3)).check(words)


def test_a_head_of_pictures_beside_words_needs_no_captions():
    words = predictor()
    words.heads["class"] = ImageClassify(words.model.spec, CLASSES)
    assert ImageClasses(source=Pictures(5)).evaluate(words).n == 5


def test_a_model_without_words_is_measured_by_any_evaluation_of_such_a_head():
    model, source = sorting(), Pictures(11)
    found = Classification(source=source, head="class", batch_size=4)(model)
    assert found["accuracy"] == pytest.approx(ImageClasses(source=source)(model)["top1"])
    assert found["n"] == 11
    few = Classification(source=Pictures(5), head="class")(model)
    assert {name for name in few if name.startswith("by_class.")} == {f"by_class.{name}" for name in COLOURS[:5]}
    model.heads["class"].classes = tuple(f"Very_{name.upper()}" for name in CLASSES)  # names compare as elsewhere
    named = Named(source, lambda name: f"very {name}")
    assert Classification(source=named, head="class")(model)["accuracy"] == found["accuracy"]
