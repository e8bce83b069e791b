"""What GLIP is made of against other programs and plain loops: fusion, alignment, maps, losses; gradients too."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from mmkit.features import Features
from mmkit.heads.boxes.objects import Objects
from mmkit.nn.both_ways import BothWays
from mmkit.types import Batch
from projects.grounding.assigning import centerness
from projects.grounding.cells import Cells
from projects.grounding.glip import wanted
from projects.grounding.glip_layers import Alignment, Levels
from projects.grounding.layers import Words
from projects.grounding.losses import focal
from projects.grounding.test_glip import Seeing, task, three
from projects.grounding.test_head import batch, prompts


def test_the_focal_loss_of_words_is_torchvisions_gradients_too():
    torch.manual_seed(0)
    ours = torch.randn(3, 5, 7, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    true = (torch.rand(3, 5, 7) < 0.3).float()
    a, b = focal(ours, true), sigmoid_focal_loss(theirs, true, alpha=0.25, gamma=2.0)
    torch.testing.assert_close(a, b)
    a.sum().backward()
    b.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_fusion_is_the_published_one_head_by_head_gradients_too():
    """As GLIP has it: cells read real words alone, words all cells; what is added to are the normalised sides."""
    torch.manual_seed(0)
    fusion = BothWays(6, 10, 8, 2, scale=1 / 6)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    image, text = torch.randn(2, 5, 6, requires_grad=True), torch.randn(2, 3, 10, requires_grad=True)
    real = torch.tensor([[True, True, True], [True, True, False]])
    found = fusion(image, text, None, real)
    v, w = fusion.norm_image(image), fusion.norm_text(text)
    read, said = [], []
    for b in range(2):
        cells, words = [], []
        for h in (slice(0, 4), slice(4, 8)):
            scores = fusion.q(v[b])[:, h] / 2 @ fusion.k(w[b])[:, h].T
            cells.append((scores + torch.where(real[b], 0.0, -9e15)).softmax(-1) @ fusion.v_text(w[b])[:, h])
            words.append((scores.T - scores.T.amax(-1, keepdim=True)).softmax(-1) @ fusion.v_image(v[b])[:, h])
        read.append(v[b] + fusion.scale_image * fusion.out_image(torch.cat(cells, -1)))
        said.append(w[b] + fusion.scale_text * fusion.out_text(torch.cat(words, -1)))
    expected = torch.stack(read), torch.stack(said)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    up = [torch.randn_like(one) for one in expected]
    ours = torch.autograd.grad(found, [image, text, *fusion.parameters()], up, retain_graph=True)
    theirs = torch.autograd.grad(expected, [image, text, *fusion.parameters()], up)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_alignment_is_the_published_product_word_by_word():
    torch.manual_seed(0)
    align = Alignment(4, 6)
    for parameter in align.parameters():
        torch.nn.init.normal_(parameter)
    x, words = torch.randn(2, 3, 4), torch.randn(2, 5, 6)
    found = align(x, words)
    for b in range(2):
        for p in range(3):
            for w in range(5):
                word = words[b, w] / words[b, w].norm()
                said = x[b, p] @ (align.project.weight @ (word / 2) + align.project.bias) / align.log_scale.exp()
                torch.testing.assert_close(found[b, p, w], said + word @ align.bias + align.start)
    assert Alignment(4, 6).start.detach().sigmoid().item() == pytest.approx(0.01, rel=1e-2)


def test_words_of_a_phrase_read_the_cells_and_not_other_phrases():
    t = task(depth=2)
    layer = t.heads["ground"].fusion[0].eval()
    assert layer.fusion.scale_image.unique().tolist() == layer.fusion.scale_text.unique().tolist() == [0.5]
    seen = Cells(torch.randn(1, 30, 16), ((4, 6), (2, 3)), None)
    alone, beside = prompts([["dog"]]), prompts([["cat", "dog", "st. bernard"]])
    read = []
    for prompt in (alone, beside):
        words = t.model.encode_prompt(prompt).x
        _, text = layer(seen, Words(words, prompt.mask, prompt.reads, prompt.positions))
        read.append(text.x[0])
    a, b = read[0][alone.phrase[0] == 0], read[1][beside.phrase[0] == 1]
    torch.testing.assert_close(a, b)
    _, other = layer(seen._replace(x=seen.x.flip(-1)), Words(words, prompt.mask, prompt.reads, prompt.positions))
    assert not torch.allclose(other.x[0][beside.phrase[0] == 1], b, atol=1e-3)


@pytest.mark.parametrize(("scale", "row", "column"), [(1.0, 1, 4), (2.0, 3, 9)])
def test_a_cell_stands_where_its_anchor_does(scale, row, column):
    t = task(scales=(scale,))
    model, head = Seeing(t.model), t.heads["ground"]
    torch.manual_seed(0)
    head.levels = Levels(model.spec, 16, (scale,))
    stride = int(8 / scale)
    dark = torch.zeros(1, 3, 32, 48)
    lit = dark.clone()
    lit[:, :, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride] = 5.0
    maps = [
        head.levels(Features(model, Batch(pixels=pixels, image_id=torch.zeros(1)))).maps()[0] for pixels in (dark, lit)
    ]
    changed = ((maps[0] - maps[1]).abs().amax((0, 1)) > 1e-6).nonzero()
    f = Features(model, Batch(pixels=lit, image_id=torch.zeros(1)))
    anchors = head.anchors(f)
    centre = ((anchors[:, :2] + anchors[:, 2:]) / 2).view(*maps[0].shape[2:], 2)[row, column]
    assert centre.tolist() == [(column + 0.5) * stride, (row + 0.5) * stride]
    assert (changed - torch.tensor([row, column])).abs().amax() <= (1 if scale == 1 else 2)
    assert [row, column] in changed.tolist()
    sides = (anchors[:, 2:] - anchors[:, :2]).unique()
    torch.testing.assert_close(sides, torch.full_like(sides, 2.0 * stride))


def test_each_level_has_its_own_size_of_codes():
    t, made = task(), three()
    head = t.heads["ground"]
    before = head.find(t.features(made, 0), made.targets["prompt"]).codes
    head.size.data = torch.tensor([3.0, 0.5])
    codes = head.find(t.features(made, 0), made.targets["prompt"]).codes
    torch.testing.assert_close(codes[:, :96], before[:, :96] * 3)
    torch.testing.assert_close(codes[:, 96:], before[:, 96:] / 2)


def test_parts_are_those_of_a_plain_loop_gradients_too():
    t, made = task(), three()
    head = t.heads["ground"]
    parts = head(t.features(made, 0)).parts
    sum(value for value, _ in parts.values()).backward()
    ours = {name: p.grad.clone() for name, p in head.named_parameters()}
    head.zero_grad()
    dense = head.find(t.features(made, 0), made.targets["prompt"])
    owner = head.owners(t.features(made, 0), Objects(*(made.targets[n] for n in ("boxes", "labels", "box_of"))))
    prompt, labels = made.targets["prompt"], made.targets["labels"]
    label = box = centre = central = 0.0
    for b in range(3):
        for a in range(owner.shape[1]):
            n = int(owner[b, a])
            true = (prompt.phrase[b] == labels[n]).float() if n >= 0 else torch.zeros(prompt.phrase.shape[1])
            label = label + sigmoid_focal_loss(dense.logits[b, a], true, reduction="none")[prompt.mask[b]].sum()
            if n >= 0:
                anchor, wanted = dense.anchors[a], made.targets["boxes"][n]
                side, middle = anchor[2:] - anchor[:2], (anchor[:2] + anchor[2:]) / 2
                code = dense.codes[b, a]
                at, half = middle + code[:2] / 10 * side, (code[2:] / 5).exp() * side / 2
                share = centerness(wanted[None], anchor[None])[0]
                box = box + share * generalized_box_iou_loss(torch.cat([at - half, at + half]), wanted, eps=0.0)
                centre = centre + F.binary_cross_entropy_with_logits(dense.central[b, a], share)
                central = central + share
    count = (owner >= 0).sum(1)
    assert count[2] == 0 < count.min(0).values + count[0]
    expected = {
        "label": (label / (count.sum() + 1), count.sum() + 1), "box": (2 * box / central, central),
        "centre": (centre / count.sum(), count.sum()),
    }  # fmt: skip
    for name, (value, weight) in expected.items():
        torch.testing.assert_close(parts[name][0], value, msg=name, atol=1e-5, rtol=1e-5)
        assert float(parts[name][1]) == pytest.approx(float(weight)), name
    sum(value for value, _ in expected.values()).backward()
    for name, p in head.named_parameters():
        torch.testing.assert_close(p.grad, ours[name], msg=name, atol=1e-5, rtol=1e-4)


def test_a_box_under_two_phrases_is_spelled_by_both():
    boxes = torch.tensor([[1.0, 1, 5, 5], [1.0, 1, 5, 5], [1.0, 1, 5, 5], [1.0, 1, 5, 6]])
    objects = Objects(boxes, torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 1, 0]))
    t, made = task(), batch([["cat", "dog"], ["dog"]], [], [], [])
    prompt = made.targets["prompt"]
    found = wanted(t.features(made, 0), prompt, objects)
    cat, dog = prompt.phrase[0] == 0, prompt.phrase[0] == 1
    assert [row.tolist() for row in found[:2]] == [(cat | dog).tolist()] * 2
    assert found[2].tolist() == (prompt.phrase[1] == 0).tolist()
    assert found[3].tolist() == cat.tolist()
    spells = torch.zeros(2, 2, prompt.ids.shape[1], dtype=torch.bool)
    spells[0, 0, 1:3] = spells[0, 1, 2:5] = spells[1, 0, 7] = True  # a word may be of two phrases
    made = replace(made, targets={**made.targets, "spells": spells})
    found = wanted(t.features(made, 0), prompt, objects)
    assert [row.nonzero()[:, 0].tolist() for row in found] == [[1, 2, 3, 4], [1, 2, 3, 4], [7], [1, 2]]
