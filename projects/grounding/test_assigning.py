"""Which anchor answers for which box, against a plain loop; where told phrases are taken to be."""

import pytest
import torch

from mmkit.nn.boxes import iou
from projects.grounding.assigning import anchors_of, assigned, centerness
from projects.grounding.guessing import guessed, near_any

SHAPES, STRIDES = ((4, 6), (2, 3)), ((8.0, 8.0), (16.0, 16.0))
LEVELS = [24, 6]
ANCHORS = anchors_of(SHAPES, STRIDES, 2.0, torch.device("cpu"))


def looped(boxes, anchors, levels, nearest):
    """One picture, as ATSS's own code has it: anchor by anchor and box by box."""
    owner, best = [-1] * len(anchors), [-1.0] * len(anchors)
    overlap = iou(anchors, boxes)
    for n, box in enumerate(boxes.tolist()):
        chosen, start = [], 0
        for count in levels:
            away = []
            for a in range(start, start + count):
                left, top, right, bottom = anchors[a].tolist()
                x, y = (left + right) / 2, (top + bottom) / 2
                away.append((((box[0] + box[2]) / 2 - x) ** 2 + ((box[1] + box[3]) / 2 - y) ** 2, a))
            chosen += [a for _, a in sorted(away)[:nearest]]
            start += count
        values = torch.tensor([overlap[a, n] for a in chosen])
        least = values.mean() + values.std()
        for a in chosen:
            left, top, right, bottom = anchors[a].tolist()
            x, y = (left + right) / 2, (top + bottom) / 2
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlap[a, n] >= least and inside and overlap[a, n] > best[a]:
                owner[a], best[a] = n, float(overlap[a, n])
    return owner


def drawn(count, seed):
    draw = torch.Generator().manual_seed(seed)
    left, top = torch.rand(count, generator=draw) * 36, torch.rand(count, generator=draw) * 22
    wide, high = torch.rand(2, count, generator=draw) * 20 + 3
    return torch.stack([left, top, (left + wide).clamp(max=48), (top + high).clamp(max=32)], 1)


def test_anchors_are_squares_around_the_centres_of_cells():
    assert len(ANCHORS) == 30
    assert ANCHORS[0].tolist() == [-4, -4, 12, 12]
    assert ANCHORS[1].tolist() == [4, -4, 20, 12]  # row-major
    assert ANCHORS[24].tolist() == [-8, -8, 24, 24]
    tall = anchors_of(((1, 1),), ((4.0, 9.0),), 1.0, torch.device("cpu"))
    assert tall.tolist() == [[1.5, -1, 7.5, 5]]


@pytest.mark.parametrize("nearest", [3, 9])
def test_assignment_is_that_of_a_plain_loop_for_several_pictures_at_once(nearest):
    each = [drawn(5, 1), drawn(0, 2), drawn(9, 3)]
    of = torch.tensor([i for i, own in enumerate(each) for _ in own])
    found = assigned(torch.cat(each), of, ANCHORS, LEVELS, torch.ones(3, 30, dtype=torch.bool), nearest)
    first = 0
    for row, boxes in zip(found, each, strict=True):
        expected = torch.tensor(looped(boxes, ANCHORS, LEVELS, nearest))
        assert torch.where(row >= 0, row - first, row).tolist() == expected.tolist()
        first += len(boxes)
    assert (found[0] >= 0).sum() > 3


def test_an_anchor_that_two_boxes_want_goes_to_the_one_it_overlaps_more_and_of_equal_ones_to_the_first():
    large, small = [0.0, 0.0, 16.0, 16.0], [2.0, 2.0, 15.0, 15.0]
    real = torch.ones(1, 30, dtype=torch.bool)
    of = torch.zeros(2, dtype=torch.int64)
    overlap = iou(ANCHORS, torch.tensor([large, small]))
    for boxes, better in ((torch.tensor([large, small]), 0), (torch.tensor([small, large]), 1)):
        found = assigned(boxes, of, ANCHORS, LEVELS, real)[0]
        for a in (found >= 0).nonzero()[:, 0].tolist():
            if overlap[a, 0] > overlap[a, 1]:
                assert found[a] == better
    twice = assigned(torch.tensor([large, large]), of, ANCHORS, LEVELS, real)[0]
    assert set(twice.tolist()) == {-1, 0}


def test_a_box_that_no_centre_lies_in_has_no_anchor():
    real = torch.ones(1, 30, dtype=torch.bool)
    of = torch.zeros(1, dtype=torch.int64)
    assert (assigned(torch.tensor([[7.5, 7.5, 8.5, 8.5]]), of, ANCHORS, LEVELS, real) < 0).all()
    assert (assigned(torch.tensor([[3.5, 3.5, 4.5, 4.5]]), of, ANCHORS, LEVELS, real) >= 0).sum() == 1


def test_a_centre_on_the_edge_is_not_inside_and_the_deviation_is_unbiased():
    real, of = torch.ones(1, 24, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)
    for left, found in ((4.0, 0), (3.995, 0), (3.98, 1)):  # the nearest centre is (4, 4)
        box = torch.tensor([[left, 0.0, 10.0, 8.0]])
        assert (assigned(box, of, ANCHORS[:24], [24], real, 1) >= 0).sum() == found
    box = torch.tensor([[1.0, 1.0, 17.0, 9.0]])  # of two the better is below mean + deviation, of four it is not
    assert (assigned(box, of, ANCHORS[:24], [24], real, 2) < 0).all()
    assert (assigned(box, of, ANCHORS[:24], [24], real, 4) >= 0).any()


def test_a_picture_on_a_larger_canvas_has_the_anchors_that_it_has_alone():
    small = ((2, 3), (1, 2))
    alone = anchors_of(small, STRIDES, 2.0, torch.device("cpu"))
    boxes = torch.tensor([[1.0, 2, 13, 14], [9.0, 1, 47, 15], [0.0, 0, 48, 32], [14.0, 1, 32, 15]])
    of, real = torch.zeros(4, dtype=torch.int64), torch.zeros(1, 30, dtype=torch.bool)
    for level, (high, wide), start in ((0, small[0], 0), (1, small[1], 24)):
        real[0, start : start + LEVELS[level]].view(SHAPES[level])[:high, :wide] = True
    for nearest in (2, 3, 9):  # of these the nearest stand beyond the picture
        expected = assigned(boxes, of, alone, [6, 2], torch.ones(1, 8, dtype=torch.bool), nearest)
        found = assigned(boxes, of, ANCHORS, LEVELS, real, nearest)
        assert found[real].tolist() == expected[0].tolist()
        assert (found[~real] < 0).all()
        assert (expected >= 0).any()


def test_centrality_is_one_in_the_middle_and_falls_to_the_edges():
    boxes = torch.tensor([[0.0, 0, 8, 8], [0.0, 0, 16, 8], [0.0, 0, 10, 40], [6.0, 0, 10, 8]])
    anchors = torch.tensor([[0.0, 0, 8, 8]] * 4)  # their centres are (4, 4)
    expected = [1.0, (4 / 12) ** 0.5, (4 / 6 * 4 / 36) ** 0.5, 0.0]
    torch.testing.assert_close(centerness(boxes, anchors), torch.tensor(expected))


# ---- told of, and not boxed --------------------------------------------------------------------------------------


def test_the_surest_phrase_takes_its_best_cell_and_others_of_the_picture_the_next():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10], [20.0, 0, 30, 10], [40.0, 0, 50, 10]]).repeat(2, 1, 1)
    scores = torch.tensor([[0.5, 0.2, 0.3, 0.1], [0.9, 0.8, 0.4, 0.1], [0.1, 0.1, 0.2, 0.3]])
    free = torch.zeros(2, 4, dtype=torch.bool)
    of = torch.tensor([0, 0, 1])
    assert guessed(scores, of, boxes, free).tolist() == [2, 0, 3]
    taken = free.clone()
    taken[0, 2:] = True
    assert guessed(scores, of, boxes, taken).tolist() == [-1, 0, 3]  # cell 1 is about cell 0's object
    assert not taken[0, :2].any()
    assert guessed(scores[:0], of[:0], boxes, free).tolist() == []
    assert guessed(scores[[1, 1]], of[:2], boxes, free).tolist() == [0, 2]


def test_cells_whose_boxes_are_about_a_true_one_are_not_to_be_had():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 4], [20.0, 0, 30, 10]]).repeat(2, 1, 1)
    true = torch.tensor([[0.0, 0, 10, 9], [19.0, 0, 30, 10]])
    assert near_any(boxes, true, torch.tensor([1, 1])).tolist() == [[False] * 3, [True, False, True]]
    assert not near_any(boxes, true[:0], torch.tensor([], dtype=torch.int64)).any()
