"""The dynamic head's layer against plain convolutions and loops written out."""

import pytest
import torch
import torch.nn.functional as F

from mmkit.errors import UserError
from mmkit.task import Task
from projects.grounding.cells import Cells, flat
from projects.grounding.dynamic import DynamicLayer, DynamicReLU
from projects.grounding.glip import GLIP
from projects.grounding.test_glip import three
from projects.grounding.test_head import NAMES
from projects.grounding.test_head import task as towers_task

SHAPES = ((7, 9), (3, 4), (1, 2))  # odd sides: the last row and column of the finer map say nothing to the coarser


def layer(away=0.0):
    """One that looks at nine places as they are, moved by ``away`` cells across, each counting a half."""
    torch.manual_seed(0)
    made = DynamicLayer(16)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.zeros_(made.places.weight)
    torch.nn.init.zeros_(made.places.bias)
    made.places.bias.data[1:18:2] = away
    return made


def seen():
    torch.manual_seed(1)
    return Cells(torch.randn(2, sum(high * wide for high, wide in SHAPES), 16), SHAPES, None)


def plain(part, x, stride=1):
    return part.norm(0.5 * F.conv2d(x, part.conv.weight, None, stride, 1) + part.conv.bias[:, None, None])


def test_each_level_reads_itself_and_its_neighbours_and_bends():
    made, cells = layer(), seen()
    found, maps = made(cells), cells.maps()
    levels = []
    for i, own in enumerate(maps):
        read = [plain(made.own, own)]
        if i > 0:
            read.append(plain(made.finer, maps[i - 1][..., : 2 * own.shape[2], : 2 * own.shape[3]], 2))
        if i < 2:
            larger = F.interpolate(maps[i + 1], size=own.shape[2:], mode="bilinear", align_corners=False)
            read.append(plain(made.coarser, larger))
        total = torch.zeros_like(own)
        for one in read:
            for b in range(2):
                said = (made.says.weight[0, :, 0, 0] @ one[b].mean((1, 2)) + made.says.bias).item()
                total[b] += one[b] * min(1.0, (max(0.0, said) + 3) / 6) / len(read)
        levels.append(made.bend(total))
    torch.testing.assert_close(found.x, flat(levels), atol=1e-5, rtol=1e-4)
    assert found.shapes == SHAPES


def test_places_that_are_moved_by_a_cell_read_the_next_one():
    cells = Cells(seen().x[:, :63], SHAPES[:1], None)
    (own,) = cells.maps()
    made = layer(1.0)
    made.own.norm = torch.nn.Identity()
    for part in (made.says, made.bend.fc1, made.bend.fc2):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    moved = F.pad(own[..., 1:], (0, 1))  # beyond the edge there is nothing
    expected = (plain(made.own, moved) / 2).relu()  # a level that says 0 counts a half
    found = made(cells).maps()[0]
    torch.testing.assert_close(found[..., 1:], expected[..., 1:])  # left of the first is a cell now, and no edge
    assert not torch.allclose(found[..., 1:], (plain(made.own, own) / 2).relu()[..., 1:], atol=0.1)


def test_a_channel_takes_the_larger_of_two_lines_and_is_a_relu_at_rest():
    bend, x = DynamicReLU(8), torch.randn(2, 8, 3, 4)
    for part in (bend.fc1, bend.fc2):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    torch.testing.assert_close(bend(x), x.relu())
    torch.nn.init.normal_(bend.fc1.weight)
    torch.nn.init.normal_(bend.fc2.weight)
    found = bend(x)
    for b in range(2):
        hidden = (bend.fc1.weight @ x[b].mean((1, 2))).clamp(min=0)
        gates = ((bend.fc2.weight @ hidden + 3).clamp(0, 6) / 6 - 0.5).view(4, 8)
        for c in range(8):
            lines = x[b, c] * (2 * gates[0, c] + 1) + gates[1, c], x[b, c] * 2 * gates[2, c] + gates[3, c]
            torch.testing.assert_close(found[b, c], torch.maximum(*lines))


def test_the_head_learns_with_it_in_either_precision_and_refuses_padding():
    t = towers_task()
    own = {"width": 16, "depth": 2, "heads": 2, "text_heads": 2, "scales": (2.0, 1.0), "anchor": 2.0, "dynamic": True}
    t = Task(t.model, {"ground": GLIP(t.model.spec, NAMES, **own)}, momentum=None)
    out = t(three(), 0)
    out.loss.backward()
    still = {n for n, p in t.heads.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not still
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = t(three(), 0).loss
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, out.loss, atol=0.1, rtol=0.05)
    with pytest.raises(UserError, match="reads pictures of one size"):
        layer()(seen()._replace(real=torch.ones(2, 77, dtype=torch.bool)))
