"""GLIP as a head: its parts against other programs and plain loops, what it finds, batches, training, refusals."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from mmkit.data.images.transforms import EvalTransform
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Grounds
from mmkit.heads.boxes.objects import Objects
from mmkit.inference.detecting import finder_of
from mmkit.inference.predictor import Predictor
from mmkit.nn.both_ways import BothWays
from mmkit.nn.boxes import iou
from mmkit.task import Task
from mmkit.types import Batch, Tokens
from projects.grounding.assigning import centerness
from projects.grounding.glip import GLIP, wanted
from projects.grounding.glip_layers import Alignment, Cells, Levels
from projects.grounding.layers import Words
from projects.grounding.losses import focal
from projects.grounding.test_head import NAMES, Letters, batch, pictures, prompts
from projects.grounding.test_head import task as towers_task

ROWS = [["cat", "dog"], ["st. bernard", "red canoe", "cat"], ["dog"]]
BOXES = [[2, 3, 20, 17], [25, 8, 45, 30], [10, 10, 30, 28]]


def task(**more):
    t = towers_task()
    own = {"width": 16, "depth": 1, "heads": 2, "text_heads": 2, "scales": (2.0, 1.0), "anchor": 2.0, **more}
    torch.manual_seed(1)
    return Task(t.model, {"ground": GLIP(t.model.spec, NAMES, **own)}, momentum=None)


def predictor(t):
    return Predictor(t.model, dict(t.heads.items()), Letters(), EvalTransform(size=(32, 48)), max_tokens=20, threads=1)


def three():
    """Two objects, one, and none."""
    return batch(ROWS, BOXES, [1, 0, 2], [0, 0, 1])


def told(made, pairs):
    return replace(made, targets={**made.targets, "told": torch.tensor(pairs, dtype=torch.int64).view(-1, 2)})


# ---- pieces ------------------------------------------------------------------------------------------------------


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


# ---- what is found -----------------------------------------------------------------------------------------------


def test_it_is_asked_as_every_head_that_grounds():
    t = task(phrases=2).eval()
    assert isinstance(t.heads["ground"], Grounds)
    for one in predictor(t).detect(pictures(2), phrases=NAMES):
        assert set(one.names) <= set(NAMES)
        assert len(one.boxes) <= 100
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
    data = predictor(t).detect(pictures(1))[0]
    assert set(data.names) <= set(NAMES)
    with pytest.raises(UserError, match="say what, by --text or --classes"):
        t.heads["ground"].predict(t.features(three(), 0))


def test_a_score_is_the_root_of_what_the_phrases_tokens_say_and_centrality():
    t = task(scales=(1.0,), overlap=1.0).eval()
    made, head = three(), t.heads["ground"]
    finder = finder_of(predictor(t), phrases=["dog", "red canoe"])
    with torch.no_grad():
        found = finder.predict(t.features(made, 0))
        dense = head.find(t.features(made, 0), finder.prompts[0])
    phrase = finder.prompts[0].phrase[0]
    p, central = dense.logits.sigmoid(), dense.central.sigmoid()
    expected = torch.stack([(p[..., phrase == i].mean(-1) * central).sqrt() for i in (0, 1)], -1)
    for row in range(3):
        own = found.of == row
        torch.testing.assert_close(found.scores[own], expected[row].flatten().sort(descending=True).values[: own.sum()])
    head.score = float(p[..., phrase == 0].mean(-1).max())
    assert (finder.predict(t.features(made, 0)).labels == 1).all()


def test_of_one_phrase_the_better_box_stays_and_of_two_both():
    t = task().eval()
    head, codes = t.heads["ground"], torch.zeros(3, 4)
    anchors = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10], [30.0, 0, 40, 10]])
    scores = torch.tensor([[0.5, 0.1], [0.6, 0.0], [0.3, 0.2]])
    said = head._said(scores, codes, anchors)
    assert [(round(float(s), 1), int(p)) for s, p in zip(said.scores, said.phrases, strict=True)] == [
        (0.6, 0), (0.3, 0), (0.2, 1), (0.1, 1),
    ]  # fmt: skip
    assert said.boxes[0].tolist() == [1, 0, 11, 10]
    head.candidates, head.most = 3, 1
    assert head._said(scores, codes, anchors).scores.tolist() == [pytest.approx(0.6)]


class Seeing(torch.nn.Module):
    """Towers whose image tokens are the patches' own colours, of pictures of any size on a canvas."""

    def __init__(self, towers):
        super().__init__()
        self.towers, self.spec = towers, replace(towers.spec, image_width=12, class_tokens=0)

    def encode_image(self, pixels, pixel_mask=None):
        return Tokens(F.unfold(F.avg_pool2d(pixels, 4), 2, stride=2).mT + 0.5)

    def encode_prompt(self, prompt):
        return self.towers.encode_prompt(prompt)


def test_a_picture_alone_is_as_on_the_canvas_of_a_batch():
    towers = task().model.eval()
    model = Seeing(towers)
    torch.manual_seed(0)
    head = GLIP(
        model.spec, NAMES, width=16, depth=2, heads=2, text_heads=2, scales=(4.0, 2.0, 1.0), anchor=2.0, scale=0.5
    )
    small, large = torch.randn(1, 3, 16, 24), torch.randn(1, 3, 32, 48)
    canvas, mask = torch.full((2, 3, 32, 48), 9.0), torch.zeros(2, 32, 48, dtype=torch.bool)
    canvas[0, :, :16, :24], canvas[1], mask[0, :16, :24], mask[1] = small[0], large[0], True, True
    rows = [["cat", "dog", "st. bernard"], ["red canoe"]]
    said = {"box_of": torch.tensor([0, 0, 1]), "labels": torch.tensor([1, 0, 0]), "prompt": prompts(rows)}
    boxes = torch.tensor([[2.0, 3, 14, 15], [9.0, 1, 23, 15], [20.0, 4, 40, 29]])
    together = Batch(
        pixels=canvas, image_id=torch.arange(2), pixel_mask=mask, targets={**said, "boxes": boxes}
    )  # fmt: skip
    alone = [
        Batch(pixels=one, image_id=torch.zeros(1), targets={
            "boxes": boxes[said["box_of"] == i], "labels": said["labels"][said["box_of"] == i],
            "box_of": torch.zeros(int((said["box_of"] == i).sum()), dtype=torch.int64),
            "prompt": prompts(rows[i : i + 1]),
        })
        for i, one in enumerate((small, large))
    ]  # fmt: skip
    whole, parts = head(Features(model, together)), [head(Features(model, one)) for one in alone]
    for name, (value, count) in whole.parts.items():
        own = [one.parts[name] for one in parts]
        torch.testing.assert_close(count, own[0][1] + own[1][1], msg=name)
        torch.testing.assert_close(value * count, sum(v * c for v, c in own), atol=1e-4, rtol=1e-4, msg=name)
    finder = head.asked([prompts([["dog", "cat"]])], ["dog", "cat"])
    found = finder.predict(Features(model, together))
    for i, one in enumerate(alone):
        single = finder.predict(Features(model, one))
        torch.testing.assert_close(found.boxes[found.of == i], single.boxes, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.scores[found.of == i], single.scores, atol=1e-5, rtol=1e-4)
    head.levels.scales = (1.0, 0.5)
    with pytest.raises(UserError, match="coarser than the patches need pictures of one size"):
        head(Features(model, together))


# ---- what is learned ---------------------------------------------------------------------------------------------


def test_parts_are_finite_and_reach_every_parameter():
    t, made = task(told=0.5, told_after=0), told(three(), [[1, 1]])
    out = t(made, 0)
    assert {n for n in out.losses if "." in n} == {"ground.label", "ground.box", "ground.centre", "ground.told"}
    out.loss.backward()
    still = {n for n, p in t.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not {n for n in still if not n.startswith("model.image.norm")}
    told_ = t.count([made], 0, torch.device("cpu"))
    assert not any(told_.differ([out.counts]).values())


def test_crowds_and_boxes_without_area_teach_nothing_and_pictures_without_any_that_there_is_nothing():
    t = task()
    made = three()
    more = {**made.targets, "crowd": torch.tensor([False, True, False])}
    more["boxes"] = torch.tensor([[2.0, 3, 20, 17], [25, 8, 45, 30], [10, 10, 10, 28]])
    one = t(replace(made, targets=more), 0)
    alone = {**made.targets, "boxes": more["boxes"][:1], "labels": made.targets["labels"][:1]}
    other = t(replace(made, targets={**alone, "box_of": made.targets["box_of"][:1]}), 0)
    torch.testing.assert_close(one.loss, other.loss)
    nothing = {name: made.targets[name][:0] for name in ("boxes", "labels", "box_of")}
    none = t(replace(made, targets={**made.targets, **nothing}), 0)
    assert none.loss.isfinite()
    assert float(none.counts["ground.label"]) == 3
    assert float(none.counts["ground.box"]) == 0
    tiny = t.heads["ground"](t.features(batch(ROWS[:1], [[7, 7, 8, 8], [2, 3, 20, 17]], [0, 1], [0, 0]), 0))
    assert tiny.logs["missed"] == (0.5, 2)


def test_under_bfloat16_logits_and_losses_are_float32():
    t, made = task(), three()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = t(made, 0)
        dense = t.heads["ground"].find(t.features(made, 0), made.targets["prompt"])
    assert dense.logits.dtype == dense.codes.dtype == dense.central.dtype == out.loss.dtype == torch.float32
    assert out.loss.isfinite()


def test_what_captions_tell_of_is_learned_where_the_head_finds_it():
    t = task(told=1.0, told_after=5, scales=(1.0,))
    made, head = told(batch([["cat", "dog"]], [[2, 3, 20, 17]], [0], [0]), [[0, 1]]), t.heads["ground"]
    f = t.features(made, 5)
    dense = head.find(f, made.targets["prompt"])
    objects = Objects(*(made.targets[name] for name in ("boxes", "labels", "box_of")))
    owner = head.owners(f, objects)
    guesses = head._guesses(f, dense, made.targets["prompt"], objects, owner)
    dog = made.targets["prompt"].phrase[0] == 1
    assert guesses[..., ~dog].sum() == 0
    assert guesses[0, owner[0] >= 0].sum() == 0
    torch.testing.assert_close(guesses[..., dog].sum(1), torch.ones(1, 3))  # each token counts 1 in all
    parts = head(f).parts
    expected = (focal(dense.logits, torch.ones_like(dense.logits)) * guesses).sum()
    torch.testing.assert_close(parts["told"][0], expected)
    before = head(t.features(made, 4)).parts
    assert before["told"][0] == 0
    true = torch.zeros_like(dense.logits)
    true[0, owner[0] >= 0] = (made.targets["prompt"].phrase[0] == 0).float()
    counted = focal(dense.logits, true) * (guesses == 0)  # where it is told of, its words are not denied
    torch.testing.assert_close(parts["label"][0], counted.sum() / (owner >= 0).sum())


@pytest.mark.slow
def test_it_overfits_its_scenes_and_tells_phrases_apart():
    t = task(width=32, scales=(1.0,), anchor=2.5)
    rows = [["cat", "dog", "red canoe"], ["dog", "red canoe", "cat"], ["red canoe", "cat", "dog"]]
    boxes = [[2, 3, 20, 17], [25, 8, 45, 30], [10, 10, 30, 28], [4, 2, 30, 14]]
    made = batch(rows, boxes, [1, 0, 1, 2], [0, 0, 1, 2])
    optimiser = torch.optim.AdamW(t.parameters(), lr=3e-3, weight_decay=0)
    for step in range(200):
        optimiser.zero_grad()
        t(made, step).loss.backward()
        torch.nn.utils.clip_grad_norm_(t.parameters(), 0.5)
        optimiser.step()
    t.eval()
    finder = finder_of(predictor(t), phrases=["cat", "dog", "red canoe"])
    found = finder.predict(t.features(made, 0))
    sure = found.scores > 0.5
    said = [(int(of), finder.classes[label]) for of, label in zip(found.of[sure], found.labels[sure], strict=True)]
    assert sorted(set(said)) == [(0, "cat"), (0, "dog"), (1, "red canoe"), (2, "dog")]
    assert (iou(found.boxes[sure], torch.tensor(boxes).float()).amax(1) > 0.6).all()


def test_what_it_refuses():
    spec = task().model.spec
    with pytest.raises(UserError, match="reads pictures alone"):
        GLIP(replace(spec, text_width=0))
    with pytest.raises(UserError, match="depth=-1 at least 0"):
        GLIP(spec, depth=-1)
    with pytest.raises(UserError, match="scales="):
        GLIP(spec, scales=())
    t = task(scales=(0.125,))
    with pytest.raises(UserError, match=r"too small for a level of 0\.125"):
        t(three(), 0)
