"""Detection over a source: boxes find their way back, classes and pictures keep their published names, chance."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.records import ByNumber, Record
from mmkit.data.text_files import stable_id
from mmkit.data.video.samplers import Sampler
from mmkit.data.video.transforms import ClipTransform
from mmkit.errors import UserError
from mmkit.evals.detection.evaluate import Detection, by_chance, by_random_names
from mmkit.evals.detection.phrases import Phrases
from mmkit.heads.base import Detections, Detects
from mmkit.inference.detecting import Found, detector
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.vision import vision
from tests.evals.parts import alike

CLASSES = ("cat", "dog", "canoe")
ID0 = stable_id("7")
SIZES = ((64, 32), (48, 48), (40, 80))  # width, height


@dataclass(frozen=True)
class Scenes(ByNumber):
    """A red rectangle of a size of its own in each picture; the last has none."""

    labels: tuple = ("dog", "Cat", None)
    object_names: tuple = field(default=CLASSES)

    def __len__(self):
        return 3

    def box(self, index):
        wide, high = SIZES[index]
        return [wide / 8 + 2 * index, high / 4, wide / 2, high * 3 / 4]

    def _at(self, index):
        picture = Image.new("RGB", SIZES[index])
        label = self.labels[index]
        if label is not None:
            left, top, right, bottom = self.box(index)
            picture.paste((255, 0, 0), (round(left), round(top), round(right), round(bottom)))
        boxes = [] if label is None else [{"name": label, "box": self.box(index), "area": 30.0}]
        return Record(
            image=picture, captions=(), image_id=f"{7 + index}", key=f"scene {index}", targets={"boxes": boxes}
        )


class Knows(nn.Module):
    """Finds what is red in the view, to a pixel: a dog in picture "7", else a cat; and a canoe, less surely."""

    needs_words = False

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.classes, self.ids = classes, (18, 17, 90)

    def predict(self, f):
        rows, boxes, labels = [], [], []
        for i, picture in enumerate(f.batch.pixels):
            red = picture[0] > 0
            if red.any():
                y, x = red.any(1).nonzero(), red.any(0).nonzero()
                box = [float(x.min()), float(y.min()), float(x.max()) + 1, float(y.max()) + 1]
                boxes += [box, box]
                label = 1 if int(f.batch.image_id[i]) == ID0 else 0
                labels += [2, label]
                rows += [i, i]
        scores = torch.tensor([0.2, 0.9]).repeat(len(rows) // 2)
        return Detections(
            torch.tensor(boxes).reshape(-1, 4),
            scores,
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(rows, dtype=torch.int64),
        )


def predictor(transform=None, heads=None):
    model = vision(image_size=32, patch=8, depth=1, width=16, heads=2)
    heads = {"detect": Knows()} if heads is None else heads
    return Predictor(model, heads, None, transform or EvalTransform(size=(64, 128)), max_tokens=0)


def test_perfect_boxes_of_squashed_pictures_score_one(tmp_path):
    file = tmp_path / "found.json"
    result = Detection(source=Scenes(), batch_size=2, predictions=file).evaluate(predictor())
    numbers = result.metrics()
    assert numbers["ap"] == pytest.approx(1.0)
    assert (numbers["n"], numbers["boxes"], numbers["classes"]) == (3, 2, 2)
    assert result.by_class == {"cat": pytest.approx(1.0), "dog": pytest.approx(1.0), "canoe": None}
    assert "ap_small" in numbers  # by the area that the records say, not that of the box
    assert "ap_medium" not in numbers
    assert 0 < numbers["chance_ap"] < 1
    said = json.loads(file.read_text())
    assert [(row["image_id"], row["category_id"], row["score"]) for row in said] == [
        (7, 17, 0.9), (7, 90, 0.2), (8, 18, 0.9), (8, 90, 0.2)
    ]  # fmt: skip
    assert said[0]["bbox"] == [8, 8, 24, 16]  # left, top, width, height in the picture's own pixels


def test_boxes_come_back_from_a_crop_and_are_cut_at_the_picture():
    whole = predictor(CentreCrop(size=(48, 48)))
    found = whole.detect([Scenes()[0].image])[0]
    assert found.names == ["cat", "canoe"]  # the best first; which class it is, this head reads from the data
    np.testing.assert_allclose(found.boxes[0], [16, 8, 32, 24], atol=1.0)  # of the middle square of 64 x 32


@pytest.mark.parametrize(
    ("said", "source", "heads"),
    [
        ("scene 0: a box has the class 'cow', which is none of the 3", Scenes(("cow", "cat", None), ()), None),
        ("finds no objects; its heads: none", Scenes(), {}),
        ("several heads that find objects: name one of a, b", Scenes(), {"a": Knows(), "b": Knows()}),
    ],
)
def test_what_it_refuses(said, source, heads):
    object.__setattr__(source, "object_names", None) if not source.object_names else None
    with pytest.raises(UserError, match=said):
        Detection(source=source).evaluate(predictor(heads=heads))


def test_a_broken_model_and_a_transform_that_does_not_tell():
    class Broken(Knows):
        def predict(self, f):
            return super().predict(f)._replace(scores=torch.tensor([torch.nan] * 2))

    with pytest.raises(UserError, match="not finite"):
        predictor(heads={"detect": Broken()}).detect([Scenes()[0].image])
    with pytest.raises(UserError, match="does not say what it shows"):
        Detection(source=Scenes()).check(predictor(lambda image: torch.zeros(3, 32, 32)))
    clips = ClipTransform(frame=EvalTransform(size=32), sampler=Sampler(how="linear", frames=2))
    for evaluator in (Detection(source=Scenes()), Phrases(source=Scenes())):
        with pytest.raises(UserError, match="boxes are of pictures, and this model reads clips"):
            evaluator.check(predictor(transform=clips))
    assert isinstance(Knows(), Detects)
    assert detector({"a": Knows(), "b": object()}).classes == CLASSES


def test_chance_is_the_mean_relative_box_of_each_class():
    found = [Found(boxes=np.empty((0, 4)), scores=np.empty(0), labels=np.empty(0), size=size, classes=CLASSES)
             for size in ((100, 50), (10, 10))]  # fmt: skip
    truth = [
        {
            "boxes": np.array([[0, 0, 50, 50.0], [0, 0, 1, 1]]),
            "labels": np.array([2, 0]),
            "iscrowd": np.array([0, 1], bool),
            "difficult": np.zeros(2, bool),
        },
        {
            "boxes": np.array([[0, 0, 10, 10.0], [5, 5, 10, 10]]),
            "labels": np.array([2, 1]),
            "iscrowd": np.zeros(2, bool),
            "difficult": np.zeros(2, bool),
        },
    ]
    first, second = by_chance(found, truth)
    assert first.labels.tolist() == [2, 1]
    np.testing.assert_allclose(first.scores, [2 / 3, 1 / 3])
    np.testing.assert_allclose(first.boxes, [[0, 0, 75, 50], [50, 25, 100, 50]])
    np.testing.assert_allclose(second.boxes[0], [0, 0, 7.5, 10])


def test_other_rules_by_name():
    voc = Detection(source=Scenes(), rule="voc2007").evaluate(predictor()).metrics()
    assert voc["map"] == 1.0
    assert 0 <= voc["chance_map"] <= 1
    assert alike(Detection(source=Scenes(), rule="voc2007"), voc) == {"n", "boxes", "classes", "chance_map"}
    assert "ap" not in voc
    with pytest.raises(UserError, match="interval is of ap, which VOC"):
        Detection(source=Scenes(), rule="voc2007", rounds=5).evaluate(predictor())
    evaluator = Detection(source=Scenes(), rounds=5)
    drawn = evaluator.evaluate(predictor()).metrics()
    assert alike(evaluator, drawn) == {"n", "boxes", "classes", "chance_ap"}
    assert {"ap_low", "ap50_high"} <= alike(Detection(source=Scenes()), drawn)
    assert drawn["ap_low"] <= drawn["ap"] <= drawn["ap_high"]
    with pytest.raises(UserError, match="there are coco, lvis, voc2007, voc2010"):
        Detection(source=Scenes(), rule="voc").evaluate(predictor())


def test_lvis_knows_what_is_surely_absent_by_published_numbers():
    """This head also says "canoe", number 90, in both pictures, where nobody looked for one unless it is said."""

    class LVIS(Scenes):
        object_ids, frequencies = (18, 17, 90), ("f", "r", "c")

        def _at(self, index):
            record = super()._at(index)
            record.targets.update({"neg_category_ids": [90, 1203], "not_exhaustive_category_ids": []})
            if index == 1:
                record.targets["boxes"].append({"name": "canoe", "box": [40, 40, 48, 48]})
            return record

    evaluator = Detection(source=LVIS(), rule="lvis")
    numbers = evaluator.evaluate(predictor()).metrics()
    assert alike(evaluator, numbers) == {"n", "boxes", "classes", "chance_ap"}
    assert (numbers["ap_f"], numbers["ap_r"]) == (1.0, 1.0)
    assert numbers["ap_c"] == 0.0
    assert numbers["ar_300"] == pytest.approx(2 / 3)
    source = LVIS()
    source.__dict__["frequencies"] = ("f", "r", None)  # not of all classes
    assert not {"ap_f", "ap_r", "ap_c"} & Detection(source=source, rule="lvis").evaluate(predictor()).metrics().keys()


def test_crowds_and_what_is_ignored_are_none_of_the_boxes_that_are_counted():
    class Beside(Scenes):
        def _at(self, index):
            record = super()._at(index)
            beside = [{"name": "dog", "box": [1, 1, 9, 9], key: True} for key in ("crowd", "ignore")]
            return replace(record, targets={"boxes": [*record.targets["boxes"], *beside]})

    assert Detection(source=Beside()).evaluate(predictor()).boxes == 2


def test_classes_that_the_head_has_not_are_told_before_anything_is_looked_at():
    with pytest.raises(UserError, match="classes that are none of the 3: spoon"):
        Detection(source=Scenes(object_names=("cat", "spoon"))).check(predictor())


def test_groups_of_classes_are_measured_apart():
    whole = Detection(source=Scenes(), batch_size=2).evaluate(predictor()).metrics()
    evaluator = Detection(
        source=Scenes(), batch_size=2, groups={"tame": ("dog", "Canoe"), "none": ("canoe",), "all": ("cat", "dog")}
    )
    found = evaluator.evaluate(predictor())
    numbers = found.metrics()
    chances = {"chance_ap", "all.chance_ap", "tame.chance_ap"}
    assert alike(evaluator, numbers) == {"n", "boxes", "classes", *chances}
    assert "al.ap" in alike(evaluator, {"al.ap": 1.0})
    assert numbers["tame.ap50"] == pytest.approx(1.0)
    assert numbers["all.ap"] == whole["ap"]
    assert numbers["all.chance_ap"] == whole["chance_ap"] != numbers["tame.chance_ap"]
    assert not {"none.ap", "none.chance_ap"} & numbers.keys()
    with pytest.raises(UserError, match="groups='tame': lamp: no class of this model"):
        Detection(source=Scenes(), groups={"tame": ("dog", "lamp")}).evaluate(predictor())
    with pytest.raises(UserError, match="which rule='voc2010' does not give"):
        Detection(source=Scenes(), rule="voc2010", groups={"tame": ("dog",)}).evaluate(predictor())


def test_random_names_are_the_same_boxes_with_any_class():
    rng = np.random.default_rng(1)
    found = [
        Found(
            boxes=rng.random((n, 4)), scores=rng.random(n), labels=np.zeros(n, np.int64), size=(9, 9),
            classes=("cat", "dog", "canoe"),
        )
        for n in (400, 0, 200)
    ]  # fmt: skip
    named = by_random_names(found)
    assert [len(one.labels) for one in named] == [400, 0, 200]
    assert named[0].boxes is found[0].boxes
    assert named[2].scores is found[2].scores
    counts = np.bincount(np.concatenate([one.labels for one in named]), minlength=3)
    assert (counts > 150).all()
    assert (named[0].labels == by_random_names(found)[0].labels).all()
    numbers = Detection(source=Scenes(), batch_size=2).evaluate(predictor()).metrics()
    assert "random_names_ap50" not in numbers  # a model with classes of its own knows no names
