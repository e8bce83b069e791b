"""What it costs to answer for a box, by hand, and who then answers."""

import math

import pytest
import torch

from mmkit.heads.boxes.matching import Costs, cost_of, focal_cost, match
from mmkit.heads.boxes.truth import Truth


def truth(boxes, counts):
    made = torch.tensor(boxes).view(len(counts), len(boxes) and len(boxes[0]), 4)
    none = torch.zeros(made.shape[:2], dtype=torch.int64)
    return Truth(boxes=made, labels=none, counts=torch.tensor(counts), flat=none[0])


def test_the_cost_of_a_probability_is_that_of_the_focal_loss():
    for p in (0.02, 0.5, 0.9):
        wanted = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
        assert focal_cost(torch.tensor(p)).item() == pytest.approx(wanted, rel=1e-5)
    assert focal_cost(torch.tensor([0.0, 1.0])).isfinite().all()


def test_the_cost_of_a_box_is_its_distance_less_its_overlap():
    there = truth([[[0.5, 0.5, 0.4, 0.4]]], [1])
    found = torch.tensor([0.5, 0.5, 0.4, 0.2]).view(1, 1, 1, 4)
    label = torch.full((1, 1, 1, 1), 3.0)
    assert cost_of(label, found, there, Costs(label=2.0)).item() == pytest.approx(2 * 3 + 5 * 0.2 - 2 * 0.5)
    costs = Costs(label=0.0, box=1.0, giou=10.0)
    assert cost_of(label, found, there, costs).item() == pytest.approx(0.2 - 10 * 0.5, rel=1e-5)


def test_each_group_answers_for_every_box_once():
    corner, centre = [0.2, 0.2, 0.2, 0.2], [0.6, 0.6, 0.2, 0.2]
    found = torch.tensor([centre, corner, corner, centre] * 2).view(1, 2, 4, 4)
    there = truth([[corner, centre], [centre, [0.0] * 4]], [2, 1])
    label = torch.zeros(1, 2, 4, 2)
    matches = match(label, found, there, Costs(label=1.0), groups=2)
    assert [part.tolist() for part in matches] == [[0] * 6, [0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 0, 3], [1, 0, 0, 1, 0, 0]]
    label[0, 0, 0, 1] = torch.nan  # a cost that is no number is chosen last
    assert match(label, found, there, Costs(label=1.0)).query.tolist()[:2] == [1, 3]


def test_where_no_picture_has_a_box_nobody_answers():
    matches = match(torch.zeros(1, 2, 3, 0), torch.rand(1, 2, 3, 4), truth([], [0, 0]), Costs(label=1.0))
    assert [(part.dtype, len(part)) for part in matches] == [(torch.int64, 0)] * 4
