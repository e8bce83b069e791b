"""Functions of boxes against torchvision's, and where those have no number."""

import pytest
import torch
from torchvision import ops

from mmkit.nn import boxes


def some(n, seed=0):
    corners = torch.rand(n, 2, 2, generator=torch.Generator().manual_seed(seed)) * 50
    return torch.cat([corners.amin(1), corners.amax(1)], -1)


NESTED = torch.tensor([[0, 0, 10, 10], [2, 2, 5, 5], [10, 0, 20, 10], [40, 40, 41, 41.0]])
EMPTY = torch.tensor([[3, 3, 3, 9], [3, 3, 3, 9], [7, 1, 7, 1.0]])


@pytest.mark.parametrize("name", ["iou", "giou"])
def test_overlap_is_that_of_torchvision(name):
    ours, pairs = getattr(boxes, name), getattr(boxes, f"{name}_pairs")
    theirs = {"iou": ops.box_iou, "giou": ops.generalized_box_iou}[name]
    for a, b in [(some(7), some(5, 1)), (NESTED, NESTED), (NESTED, EMPTY), (some(3), torch.zeros(0, 4))]:
        assert torch.allclose(ours(a, b), theirs(a, b), atol=1e-6)
        assert ours(a, b).shape == (len(a), len(b))
    assert torch.allclose(pairs(some(7), some(7, 1)), ours(some(7), some(7, 1)).diagonal())
    half = torch.tensor([[0, 0, 1000, 1000]], dtype=torch.float16)  # whose area overflows
    assert ours(half, half).item() == 1


def test_boxes_without_area_overlap_with_none_and_teach_nothing():
    assert boxes.iou(EMPTY, EMPTY).tolist() == [[0.0] * 3] * 3
    assert boxes.giou(EMPTY, EMPTY).tolist() == [[-1.0] * 3] * 3
    assert boxes.share_inside(EMPTY, NESTED).tolist() == [[0.0] * 4] * 3
    a = EMPTY.clone().requires_grad_()
    (boxes.giou_pairs(a, EMPTY).sum() + boxes.iou_pairs(a, EMPTY).sum() + boxes.giou(a, NESTED).sum()).backward()
    assert a.grad.isfinite().all()


def test_what_is_no_number_stays_none():
    bad = torch.tensor([[0, 0, torch.nan, 1]])
    for found in (boxes.iou(bad, NESTED), boxes.giou(NESTED, bad), boxes.giou_pairs(bad, NESTED[:1])):
        assert found.isnan().all()


def test_gradients_are_those_of_torchvision():
    a, b = (some(6).requires_grad_() for _ in range(2))
    boxes.giou_pairs(a, some(6, 1)).sum().backward()
    (-ops.generalized_box_iou_loss(b, some(6, 1), eps=0)).sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-6)


def test_forms():
    found = boxes.to_centres(torch.tensor([[2, 4, 6, 10]]))
    assert found.tolist() == [[4, 7, 4, 6]]
    assert found.dtype == torch.float32
    assert boxes.to_corners(found).tolist() == [[2, 4, 6, 10]]
    assert boxes.relative(torch.tensor([[2, 4, 6, 10.0]]), torch.tensor([[16, 8]])).tolist() == [
        [0.25, 0.25, 0.75, 0.625]
    ]
    assert boxes.area(torch.tensor([[2, 4, 6, 10], [6, 4, 2, 10], [2, 10, 6, 4]])).tolist() == [24, 0, 0]
    assert boxes.clip(torch.tensor([[-2, 4, 60, 100.0]]), (20, 30)).tolist() == [[0, 4, 30, 20]]


def test_boxes_go_back_to_their_pictures():
    maps = torch.tensor([[[2, 0, 5], [0, 3, -1.0]], [[-1, 0, 40], [0, 1, 0.0]]])
    found = boxes.moved(torch.tensor([[1, 2, 3, 4.0], [10, 2, 30, 4]]), maps)
    assert found.tolist() == [[7, 5, 11, 11], [10, 2, 30, 4]]
    assert boxes.moved(torch.tensor([[5, 2, 30, 4.0]]), maps[1:]).tolist() == [[10, 2, 35, 4]]


def test_crowds_are_counted_by_the_share_that_lies_inside():
    found = boxes.share_inside(torch.tensor([[0, 0, 4, 4.0], [8, 8, 12, 12]]), torch.tensor([[0, 0, 2, 100.0]]))
    assert found.tolist() == [[0.5], [0.0]]


def test_of_two_that_overlap_the_better_one_stays():
    two = torch.tensor([[0, 0, 10, 10.0], [0, 0, 10, 8], [0, 0, 10, 5]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert boxes.nms(two, scores, 0.6).tolist() == [1]  # 0.8 and 0.625 with the best
    assert boxes.nms(two, scores, 0.625).tolist() == [1, 2]
    assert boxes.batched_nms(two, scores, torch.tensor([0, 1, 1]), 0.6).tolist() == [1, 0]
