"""GLIP as a head: what it finds, batches, training, refusals."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Grounds
from mmkit.heads.boxes.objects import Objects
from mmkit.inference.detecting import finder_of
from mmkit.nn.boxes import iou
from mmkit.task import Task
from mmkit.types import Batch, Tokens
from projects.grounding import glip as module
from projects.grounding.glip import GLIP
from projects.grounding.guessing import guessed
from projects.grounding.losses import focal
from projects.grounding.test_head import (
    NAMES,
    batch,
    check_it_learns_scenes_by_heart,
    pictures,
    predictor,
    prompts,
)  # fmt: skip
from projects.grounding.test_head import task as towers_task

ROWS = [["cat", "dog"], ["st. bernard", "red canoe", "cat"], ["dog"]]
BOXES = [[2, 3, 20, 17], [25, 8, 45, 30], [10, 10, 30, 28]]


def task(**more):
    t = towers_task()
    own = {"width": 16, "depth": 1, "heads": 2, "text_heads": 2, "scales": (2.0, 1.0), "anchor": 2.0, **more}
    torch.manual_seed(1)
    return Task(t.model, {"ground": GLIP(t.model.spec, NAMES, **own)}, momentum=None)


def three():
    """Two objects, one, and none."""
    return batch(ROWS, BOXES, [1, 0, 2], [0, 0, 1])


def told(made, pairs):
    return replace(made, targets={**made.targets, "told": torch.tensor(pairs, dtype=torch.int64).view(-1, 2)})


class Seeing(torch.nn.Module):
    """Towers whose image tokens are the patches' own colours, of pictures of any size on a canvas."""

    def __init__(self, towers):
        super().__init__()
        self.towers, self.spec = towers, replace(towers.spec, image_width=12, class_tokens=0)

    def encode_image(self, pixels, pixel_mask=None):
        return Tokens(F.unfold(F.avg_pool2d(pixels, 4), 2, stride=2).mT + 0.5)

    def encode_prompt(self, prompt):
        return self.towers.encode_prompt(prompt)


# ---- what is found -----------------------------------------------------------------------------------------------


def test_it_is_asked_as_every_head_that_grounds():
    t = task(phrases=2).eval()
    assert isinstance(t.heads["ground"], Grounds)
    for one in predictor(t).detect(pictures(2), phrases=NAMES):
        assert set(one.names) <= set(NAMES)
        assert len(one.boxes) <= 100
        assert set(one.names) & {"container", "containernumber"}  # of the last prompt
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


def test_a_picture_alone_is_as_on_the_canvas_of_a_batch():
    towers = task().model.eval()
    model = Seeing(towers)
    torch.manual_seed(0)
    head = GLIP(
        model.spec, NAMES, width=16, depth=2, heads=2, text_heads=2, scales=(4.0, 2.0, 1.0), anchor=2.0, scale=0.5,
        told=1.0, told_after=0,
    )  # fmt: skip
    small, large = torch.randn(1, 3, 16, 24), torch.randn(1, 3, 32, 48)
    canvas, mask = torch.full((2, 3, 32, 48), 9.0), torch.zeros(2, 32, 48, dtype=torch.bool)
    canvas[0, :, :16, :24], canvas[1], mask[0, :16, :24], mask[1] = small[0], large[0], True, True
    rows = [["cat", "dog", "st. bernard"], ["red canoe"]]
    said = {"box_of": torch.tensor([0, 0, 1]), "labels": torch.tensor([1, 0, 0]), "prompt": prompts(rows)}
    said["told"] = torch.tensor([[0, 2]])
    boxes = torch.tensor([[2.0, 3, 14, 15], [9.0, 1, 23, 15], [20.0, 4, 40, 29]])
    together = Batch(
        pixels=canvas, image_id=torch.arange(2), pixel_mask=mask, targets={**said, "boxes": boxes}
    )  # fmt: skip
    alone = [
        Batch(pixels=one, image_id=torch.zeros(1), targets={
            "boxes": boxes[said["box_of"] == i], "labels": said["labels"][said["box_of"] == i],
            "box_of": torch.zeros(int((said["box_of"] == i).sum()), dtype=torch.int64),
            "prompt": prompts(rows[i : i + 1]), "told": said["told"][: 1 - i],
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


def test_what_is_told_of_is_looked_for_among_central_cells_that_are_about_no_box(monkeypatch):
    t = task(told=1.0, told_after=0, scales=(1.0,))
    made, head, asked = told(batch([["cat", "dog"]], [[2, 3, 20, 17]], [0], [0]), [[0, 1]]), t.heads["ground"], []
    torch.nn.init.normal_(head.centre.weight)
    head.box.bias.data[:2] = 3.0
    monkeypatch.setattr(module, "guessed", lambda *given: asked.append(given) or guessed(*given))
    f = t.features(made, 0)
    head(f)
    ((scores, _, boxes, taken),) = asked
    dense, prompt = head.find(f, made.targets["prompt"]), made.targets["prompt"]
    dog = dense.logits[0][:, prompt.phrase[0] == 1].sigmoid().mean(1)
    torch.testing.assert_close(scores[0], dog * dense.central[0].sigmoid())
    about = iou(boxes[0], made.targets["boxes"])[:, 0] > 0.5
    owned = head.owners(f, Objects(*(made.targets[name] for name in ("boxes", "labels", "box_of"))))[0] >= 0
    assert taken[0].tolist() == (about | owned).tolist()
    assert (about & ~owned).any()
    assert (owned & ~about).any()


def test_what_captions_tell_of_is_learned_where_the_head_finds_it():
    t = task(told=0.5, told_after=5, scales=(1.0,))
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
    with pytest.MonkeyPatch.context() as patch:  # both want what the box has
        patch.setattr(module, "assigned", lambda *_: torch.where(owner >= 0, 0, torch.arange(24) // 22 - 1))
        fewer = head._guesses(f, dense, made.targets["prompt"], objects, owner)
    assert fewer[0].sum(1).nonzero()[:, 0].tolist() == [22, 23]
    torch.testing.assert_close(fewer[..., dog].sum(1), torch.ones(1, 3))
    parts = head(f).parts
    expected = (focal(dense.logits, torch.ones_like(dense.logits)) * guesses).sum()
    torch.testing.assert_close(parts["told"][0], expected / 2)
    before = head(t.features(made, 4)).parts
    assert before["told"][0] == 0
    true = torch.zeros_like(dense.logits)
    true[0, owner[0] >= 0] = (made.targets["prompt"].phrase[0] == 0).float()
    counted = focal(dense.logits, true) * (guesses == 0)  # where it is told of, its words are not denied
    torch.testing.assert_close(parts["label"][0], counted.sum() / (owner >= 0).sum())


@pytest.mark.slow
def test_it_overfits_its_scenes_and_tells_phrases_apart():
    check_it_learns_scenes_by_heart(task(width=32, scales=(1.0,), anchor=2.5), steps=110, sure=0.5)


def test_what_it_refuses():
    spec = task().model.spec
    with pytest.raises(UserError, match="reads pictures alone"):
        GLIP(replace(spec, text_width=0))
    with pytest.raises(UserError, match="depth=-1 at least 0"):
        GLIP(spec, depth=-1)
    with pytest.raises(UserError, match="scales="):
        GLIP(spec, scales=())
    with pytest.raises(UserError, match="each must be a half of the one before"):
        GLIP(spec, scales=(2.0, 0.5), dynamic=True)
    with pytest.raises(UserError, match="width=24 must be a multiple of 16"):
        GLIP(spec, width=24, dynamic=True)
    t = task(scales=(0.125,))
    with pytest.raises(UserError, match=r"too small for a level of 0\.125"):
        t(three(), 0)
    levels = t.heads["ground"].levels
    with pytest.raises(UserError, match="a map of 4x8 tokens"):
        levels.shapes((32, 64))
    assert levels.shapes((64, 72)) == ((1, 1),)


def test_phrases_of_one_prompt_are_located_by_one_look(monkeypatch):
    t, made = task().eval(), three()
    head, looks = t.heads["ground"], []
    plain = head.find
    monkeypatch.setattr(head, "find", lambda f, prompt: looks.append(1) or plain(f, prompt))
    prompt = made.targets["prompt"]
    found = head.locate(t.features(made, 0), prompt)
    assert len(looks) == 1
    for row, phrases in enumerate(ROWS):
        for number in range(len(phrases)):
            own = (found.of == row) & (found.labels == number)
            (boxes, scores, _) = head.said(
                t.features(made, 0), made.targets["prompt"], made.targets["prompt"].spells(1, number)
            )[row]
            torch.testing.assert_close(found.boxes[own], boxes)
            torch.testing.assert_close(found.scores[own], scores)
    assert set(found.labels[found.of == 2].tolist()) == {0}
