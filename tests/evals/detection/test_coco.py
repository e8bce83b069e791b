"""Average precision against pycocotools on random sets, and what must not change it."""

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmkit.errors import UserError
from mmkit.evals.detection import coco, pictures
from mmkit.evals.detection.coco import CocoAP, interval

CLASSES = 4
BORDERS = (32.0, 96.0, 31.999, 96.001)  # sides of squares at the edges of small, medium and large


def boxes_of(rng, n):
    corner = rng.uniform(0, 150, (n, 2))
    size = rng.uniform(4, 120, (n, 2))
    square = rng.random(n) < 0.3
    size[square] = rng.choice(BORDERS, (square.sum(), 1))
    return np.concatenate([corner, corner + size], 1)


def picture(rng, n, m, label=None):
    """n objects, some of them crowds, and m detections near some of them, with scores that often tie."""
    true = boxes_of(rng, n)
    labels = rng.integers(CLASSES, size=n)
    near = true[rng.integers(n, size=m)] if n else boxes_of(rng, m)
    found = near + rng.normal(0, 6, near.shape) * (rng.random((m, 1)) < 0.8)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    area = (true[:, 2:] - true[:, :2]).prod(1) * np.where(rng.random(n) < 0.5, 1, rng.uniform(0.3, 1, n))
    said = rng.integers(CLASSES, size=m) if label is None else np.full(m, label)
    return (
        {"boxes": found, "scores": (rng.integers(0, 12, m) / 12), "labels": said},
        {"boxes": true, "labels": labels, "area": area, "iscrowd": rng.random(n) < 0.2},
    )  # fmt: skip


def random_set(seed):
    rng = np.random.default_rng(seed)
    sizes = [(5, 9), (0, 0), (3, 0), (0, 4), (8, 30), (1, 1), (12, 20)]
    many = picture(rng, 6, 250, label=1)  # over 100 of one class
    return [picture(rng, n, m) for n, m in sizes] + [many]


def official(samples, most=(1, 10, 100)):
    """The twelve numbers of pycocotools, from what the samples say, numbered from 1."""
    xywh = lambda box: [*box[:2], *(box[2:] - box[:2])]  # noqa: E731
    truth = COCO()
    rows = [(i, one) for i, (_, one) in enumerate(samples, 1)]
    flat = [(i, j, one) for i, one in rows for j in range(len(one["boxes"]))]
    truth.dataset = {
        "images": [{"id": i} for i, _ in rows], "categories": [{"id": c + 1} for c in range(CLASSES)],
        "annotations": [
            {
                "id": number, "image_id": i, "category_id": int(one["labels"][j]) + 1, "bbox": xywh(one["boxes"][j]),
                "area": float(one["area"][j]), "iscrowd": int(one["iscrowd"][j]),
            }
            for number, (i, j, one) in enumerate(flat, 1)
        ],
    }  # fmt: skip
    truth.createIndex()
    found = [
        {"image_id": i, "category_id": int(c) + 1, "bbox": xywh(box), "score": float(score)}
        for i, (one, _) in enumerate(samples, 1)
        for box, c, score in zip(one["boxes"], one["labels"], one["scores"], strict=True)
    ]
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.params.maxDets = list(most)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(6))
def test_the_numbers_are_pycocotools(seed, capsys):
    samples = random_set(seed)
    expected = official(samples).stats
    metric = CocoAP(CLASSES)
    for i in range(0, len(samples), 3):
        metric.update(*zip(*samples[i : i + 3], strict=True))
    found = metric.compute()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")
    for name, value in zip(names, expected, strict=False):
        assert found.get(name, -1) == pytest.approx(value, abs=1e-9), name
    assert 0 < found["ap"] < found["ap50"] < 1


def test_other_numbers_of_detections_have_precisions_of_their_own(capsys):
    samples = random_set(1)
    metric = CocoAP(CLASSES, most=(5, 200))
    metric.update(*zip(*samples, strict=True))
    found, precision = metric.compute(), official(samples, (1, 5, 200)).eval["precision"][:, :, :, 0, -1]
    assert found["ap"] == pytest.approx(precision[precision > -1].mean(), abs=1e-9)
    assert found["ap"] != pytest.approx(measured(samples)["ap"], abs=1e-9)
    assert {"ar_5", "ar_200"} <= found.keys()
    assert "ar_100" not in found


def measured(samples, classes=CLASSES):
    metric = CocoAP(classes)
    metric.update(*zip(*samples, strict=True))
    return metric.compute()


def test_perfect_boxes_score_one_and_none_score_nothing():
    truth = {"boxes": torch.tensor([[0.0, 0, 10, 10], [5, 5, 50, 60]]), "labels": torch.tensor([0, 2])}
    found = {**truth, "scores": torch.tensor([0.9, 0.8])}
    nothing = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64), "scores": torch.empty(0)}
    perfect = measured([(found, truth)])
    assert perfect["ap"] == perfect["ap50"] == perfect["ar_100"] == 1.0  # not so where a box is numbered 0
    assert "ap_large" not in perfect
    assert measured([(nothing, truth)])["ap"] == 0.0
    assert measured([(found, truth), (nothing, {**nothing})])["ap"] == 1.0


def test_an_empty_picture_with_a_detection_lowers_it():
    truth = {"boxes": np.array([[0.0, 0, 10, 10]]), "labels": np.array([0])}
    found = {**truth, "scores": np.array([0.5])}
    wrong = {**truth, "scores": np.array([0.9])}
    assert measured([(found, truth), (wrong, {"boxes": np.empty((0, 4)), "labels": np.empty(0)})])["ap"] == 0.5


def test_two_processes_are_as_one_and_what_both_saw_counts_once(monkeypatch):
    samples = [(found, {**truth, "image_id": i}) for i, (found, truth) in enumerate(random_set(2))]
    whole = measured(samples)
    first, second = CocoAP(CLASSES), CocoAP(CLASSES)
    first.update(*zip(*samples[1::2], strict=True))
    second.update(*zip(*samples[0::2], samples[1], strict=True))  # a sampler fills the last batch up
    monkeypatch.setattr(pictures.ranks, "gather_objects", lambda own: [first.own, second.own])
    assert first.compute() == whole
    first.sync_on_compute = False
    assert first.compute() != whole


def test_lvis_counts_a_class_only_where_it_is_known_and_so_many_in_all():
    truth = {"boxes": np.array([[0.0, 0, 10, 10]]), "labels": np.array([0])}
    other = [[20.0, 20, 30, 30]]
    found = {"boxes": np.array([*truth["boxes"], *other]), "labels": np.array([0, 1]), "scores": np.array([0.5, 0.9])}
    second = ({**truth, "labels": np.array([1]), "scores": np.array([0.1])}, {**truth, "labels": np.array([1])})

    def lvis(most=(300,), **known):
        metric = CocoAP(2, most=most, kind="lvis", frequency=("r", "f"))
        metric.update(*zip((found, {**truth, **known}), second, strict=True))
        return metric.compute()

    unknown, negative = lvis(), lvis(negative=(1,))
    assert unknown["ap"] == 1.0
    assert (negative["ap_r"], negative["ap_f"]) == (1.0, 0.5)
    assert lvis(negative=(1,), unfinished=(1,))["ap_f"] == 1.0
    assert lvis(most=(1,))["ap_r"] == 0.0  # the better one of the picture is of the other class


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("scores for 1 boxes", {"scores": np.array([0.1, 0.2])}),
        ("not finite", {"scores": np.array([np.nan])}),
        ("not finite", {"boxes": np.array([[0, 0, np.inf, 1]])}),
        ("labels from 9 to 9, and 4 classes", {"labels": np.array([9])}),
        ("labels from -1 to -1", {"labels": np.array([-1])}),
    ],
)
def test_what_it_refuses(said, change):
    truth = {"boxes": np.array([[0.0, 0, 10, 10]]), "labels": np.array([0])}
    with pytest.raises(UserError, match=said):
        CocoAP(CLASSES).update([{**truth, "scores": np.array([0.5]), **change}], [truth])


def test_it_refuses_unequal_batches_and_data_without_a_box():
    nothing = {"boxes": np.empty((0, 4)), "labels": np.empty(0), "scores": np.empty(0)}
    with pytest.raises(UserError, match="of 1 pictures, and 0 truths"):
        CocoAP(CLASSES).update([nothing], [])
    with pytest.raises(UserError, match="1 pictures, and none of them has a box"):
        measured([(nothing, nothing)])
    with pytest.raises(UserError, match="larger than the one before"):
        CocoAP(CLASSES, most=(10, 1))


@pytest.mark.parametrize(("at_once", "options"), [(1, {}), (1_000_000, {"most": (5,), "kind": "lvis"})])
def test_drawn_pictures_are_measured_as_if_they_were_the_data(at_once, options, monkeypatch):
    monkeypatch.setattr(coco, "AT_ONCE", at_once)
    samples = [(found, {**truth, "negative": [1], "unfinished": [2]}) for found, truth in random_set(4)]
    metric, again = CocoAP(CLASSES, **options), CocoAP(CLASSES, **options)
    metric.update(*zip(*samples, strict=True))
    order = [3, 3, 0, 7, 1, 4, 4, 3]
    again.update(*zip(*[samples[i] for i in order], strict=True))
    found = metric.drawn([range(len(samples)), order])
    for own, expected in zip(found, (metric, again), strict=True):
        np.testing.assert_allclose(own, expected.curves()[0][..., 0].mean(1), atol=1e-12)
    assert (found[1] != found[0]).any()


def test_the_interval_holds_the_number_and_is_wider_for_fewer_pictures():
    sets = [one for seed in range(3) for one in random_set(seed)]

    def ends(samples):
        metric = CocoAP(CLASSES)
        metric.update(*zip(*samples, strict=True))
        metric.sync_on_compute = False
        return interval(metric, 15), metric.compute()

    (many, whole), (few, _) = ends(sets), ends(sets[:8])
    for name in ("ap", "ap50"):
        assert many[name][0] < whole[name] < many[name][1]
        assert few[name][1] - few[name][0] > many[name][1] - many[name][0]
    assert ends(sets)[0] == many
    with pytest.raises(UserError, match="at least two"):
        interval(CocoAP(CLASSES), 40)


def test_the_interval_of_some_classes_is_that_of_a_metric_without_the_others():
    sets = [one for seed in range(2) for one in random_set(seed)]

    def only(one, own):
        rows = np.isin(np.asarray(one["labels"]), own)
        return {name: np.asarray(value)[rows] for name, value in one.items()}

    def made(samples):
        metric = CocoAP(CLASSES)
        metric.update(*zip(*samples, strict=True))
        metric.sync_on_compute = False
        return metric

    whole = made(sets)
    found = interval(whole, 9, groups={"some": (0, 2), "none": ()})
    assert {name for name in found if "." in name} == {"some.ap", "some.ap50"}
    assert {name: ends for name, ends in found.items() if "." not in name} == interval(whole, 9)
    alone = made([(only(said, (0, 2)), only(truth, (0, 2))) for said, truth in sets])
    for name in ("ap", "ap50"):
        assert whole.of_classes((0, 2))[name] == pytest.approx(alone.compute()[name], abs=1e-12)
        assert found[f"some.{name}"][0] < alone.compute()[name] < found[f"some.{name}"][1]
    assert whole.of_classes(range(CLASSES))["ap"] == whole.compute()["ap"]
    assert whole.of_classes(()) == {}


def test_an_interval_ends_where_precision_does():
    box = np.array([[0.0, 0, 10, 10]])
    metric = CocoAP(1)
    metric.sync_on_compute = False
    for i in range(12):  # one of twelve is found, by the least sure
        said = {"boxes": box if i == 0 else box + 30, "scores": np.array([0.5 + i / 100]), "labels": np.array([0])}
        metric.update([said], [{"boxes": box, "labels": np.array([0]), "area": np.array([100.0])}])
    one, two = np.array([0]), np.array([0, 1])
    both = CocoAP(2)
    both.sync_on_compute = False
    for i in range(6):  # the second class is in one picture alone: draws without it say nothing of it
        labels = one if i else two
        at = np.repeat(box, len(labels), 0)
        said = {"boxes": at, "scores": np.full(len(labels), 0.5), "labels": labels}
        both.update([said], [{"boxes": at, "labels": labels, "area": np.full(len(labels), 100.0)}])
    assert interval(both, 20)["ap"] == pytest.approx((1.0, 1.0))
    low, high = interval(metric, 50)["ap"]
    assert (low, high) == (0.0, pytest.approx(0.09997, abs=1e-4))
