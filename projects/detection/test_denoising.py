"""Noised truth: how many, how far, who reads whom; the mask beside RT-DETR's of transformers."""

import pytest
import torch
from transformers.models.rt_detr.modeling_rt_detr import get_contrastive_denoising_training_group

from mmkit.draws import Draws
from mmkit.heads.boxes.truth import Truth
from mmkit.nn.boxes import to_corners
from projects.detection.denoising import NOISE, RELABELLED, noised, who_reads_whom


def truth_of(counts, classes=50, seed=0):
    g = torch.Generator().manual_seed(seed)
    most = max(counts)
    boxes = torch.rand(len(counts), most, 4, generator=g) * 0.1 + 0.45
    boxes[..., 2:] = torch.rand(len(counts), most, 2, generator=g) * 0.2 + 0.2
    labels = torch.randint(classes, (len(counts), most), generator=g)
    return Truth(boxes, labels, torch.tensor(counts), torch.empty(0, dtype=torch.int64))


def draws(rows, step=0):
    return Draws((0, step, "denoising"), torch.arange(rows))


def test_each_picture_has_as_many_groups_as_its_own_boxes_allow():
    noise = noised(truth_of([3, 0, 40, 200]), draws(4), 50, groups=5, most=100)
    per = noise.real.sum(1).tolist()
    assert per == [2 * 5 * 3, 0, 2 * 2 * 40, 2 * 1 * 200]
    assert noise.share.tolist() == pytest.approx([1 / 5, 1, 1 / 2, 1])
    assert noise.positive.sum(1).tolist() == [15, 0, 80, 200]
    assert noise.pairs.T.equal(noise.positive.nonzero())
    for i, (n, groups) in enumerate(((3, 5), (40, 2), (200, 1))):
        row = (0, 2, 3)[i]
        mine = noise.real[row]
        for group in range(groups):
            own = mine & (noise.group[row] == group)
            for wanted in (True, False):
                assert noise.box[row][own & (noise.positive[row] == wanted)].tolist() == list(range(n))


def test_corners_move_by_less_than_the_noise_or_by_up_to_twice_as_much():
    truth = truth_of([20] * 30)
    noise = noised(truth, draws(30), 50, groups=5)
    was = truth.boxes.gather(1, noise.box[..., None].expand(-1, -1, 4))
    moved = (to_corners(noise.boxes) - to_corners(was)).abs() / (was[..., 2:].repeat(1, 1, 2) / 2)
    near, far = moved[noise.positive], moved[noise.real & ~noise.positive]
    assert near.max() <= NOISE + 1e-4
    assert far.min() >= NOISE - 1e-4
    assert far.max() <= 2 * NOISE + 1e-4
    assert near.mean() == pytest.approx(NOISE / 2, abs=0.01)
    assert far.mean() == pytest.approx(1.5 * NOISE, abs=0.01)
    outward = to_corners(noise.boxes)[..., 0] < to_corners(was)[..., 0]
    assert outward[noise.real].float().mean() == pytest.approx(0.5, abs=0.03)


def test_a_quarter_of_the_labels_is_drawn_anew():
    truth = truth_of([20] * 30)
    noise = noised(truth, draws(30), 50, groups=5)
    other = noise.labels != truth.labels.gather(1, noise.box)
    assert other[noise.real].float().mean() == pytest.approx(RELABELLED * 49 / 50, abs=0.02)
    assert noise.labels.min() >= 0
    assert noise.labels.max() < 50
    again = noised(truth, draws(30), 50, groups=5)
    assert torch.equal(again.boxes, noise.boxes)
    assert not torch.equal(noised(truth, draws(30, step=1), 50, groups=5).boxes, noise.boxes)


def test_boxes_stay_in_the_picture_and_have_a_size():
    truth = truth_of([3])
    truth.boxes[0, 0] = torch.tensor([0.001, 0.999, 0.002, 0.002])
    noise = noised(truth, draws(1), 50, groups=5)
    assert noise.boxes[..., 2:].min() >= 1e-3
    assert to_corners(noise.boxes).min() >= -1e-3
    assert to_corners(noise.boxes).max() <= 1 + 1e-3
    assert (
        noised(
            Truth(torch.empty(2, 0, 4), torch.empty(2, 0, dtype=torch.int64), torch.tensor([0, 0]), torch.empty(0)),
            draws(2),
            50,
            5,
        )
        is None
    )


def test_who_reads_whom_is_as_in_rt_detr():
    n, queries, groups = 4, 6, 3
    truth = truth_of([n])
    embed = torch.nn.Embedding(51, 8)
    target = [{"class_labels": truth.labels[0], "boxes": truth.boxes[0]}]
    _, _, theirs, meta = get_contrastive_denoising_training_group(target, 50, queries, embed, n * groups)
    noise = noised(truth, draws(1), 50, groups=groups)
    total = 2 * n * groups
    assert meta["dn_num_group"] == groups
    assert theirs.shape == (total + queries,) * 2
    ours = who_reads_whom(noise, queries, queries)[0]
    order = [*range(queries, queries + total), *range(queries)]  # theirs begins with the noised ones
    assert torch.equal(ours[order][:, order], theirs == 0)


def test_copies_of_the_queries_do_not_read_each_other_and_padding_reads_only_padding():
    noise = noised(truth_of([1, 2]), draws(2), 50, groups=1)
    seen = who_reads_whom(noise, 6, 3)
    assert torch.equal(seen[0, :6, :6], torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).bool())
    assert not seen[:, :6, 6:].any()
    first = seen[0]
    assert first[6:8, :3].all()
    assert not first[6:8, 3:6].any()
    assert not first[8:, :8].any()  # of the smaller picture, two of four are padding
    assert first[8:, 8:].all()
    assert seen.any(2).all()
