"""VOC's average precision against numbers worked out by hand."""

import numpy as np
import pytest

from mmkit.errors import UserError
from mmkit.evals.detection.voc import VocAP

TRUE = np.array([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60], [80, 80, 90, 90]])


def measured(found, scores, year=2010, classes=1, **truth):
    metric = VocAP(classes, year)
    labels = np.zeros(len(found), int)
    metric.update(
        [{"boxes": np.array(found, float), "scores": np.array(scores), "labels": labels}],
        [{"boxes": TRUE, "labels": np.zeros(4, int), **truth}],
    )
    return metric.compute()["map"]


def test_both_areas_of_a_curve_known_by_hand():
    found = [TRUE[0], [0, 50, 10, 60], TRUE[1], TRUE[1], TRUE[2]]  # right, wrong, right, a second time, right
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]
    # precisions at the hits: 1, 2/3, 3/5; recalls 1/4, 2/4, 3/4
    assert measured(found, scores) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert measured(found, scores, 2007) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)


def test_difficult_objects_neither_count_nor_are_wrong_to_find():
    difficult = np.array([False, True, False, False])
    found, scores = [TRUE[1], TRUE[1], TRUE[0], TRUE[2], TRUE[3]], [0.9, 0.8, 0.7, 0.6, 0.5]
    assert measured(found, scores, difficult=difficult) == 1.0
    assert measured(found, scores) < 1.0


def test_an_overlap_of_exactly_a_half_is_one():
    assert measured([[5, 0, 10, 10]], [0.9]) == pytest.approx(1 / 4)
    assert measured([[5.1, 0, 10, 10]], [0.9]) == 0.0
    assert measured([[0, 0, 0, 0]], [0.9]) == 0.0


def test_crowds_are_as_difficult_ones():
    crowd = np.array([True, False, False, False])
    assert measured([TRUE[0], *TRUE[1:]], [0.9, 0.8, 0.7, 0.6], iscrowd=crowd) == 1.0


def test_a_class_without_objects_is_left_out():
    metric = VocAP(3)
    metric.update(
        [{"boxes": TRUE[:1], "scores": np.array([0.5]), "labels": np.array([2])}],
        [{"boxes": TRUE[:2], "labels": np.array([2, 0])}],
    )
    assert metric.by_class() == [0.0, None, 1.0]
    assert metric.compute() == {"map": 0.5}
    with pytest.raises(UserError, match="2007, or 2010"):
        VocAP(1, 2012)
