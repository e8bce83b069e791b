"""DETR as a head: what it learns, what padding, micro-batches and empty pictures change, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from mmkit.errors import UserError
from mmkit.evals.detection.coco import CocoAP
from mmkit.features import Features
from mmkit.heads.boxes.truth import truth_of
from mmkit.nn.boxes import overlaps, to_corners
from mmkit.task import Task
from projects.detection.decoders import Found
from projects.detection.examples import CLASSES, SCENES, Given, scene, together
from projects.detection.head import DETR
from projects.detection.matching import match

SMALL = {"width": 32, "heads": 2, "hidden": 32, "decoder": 2, "queries": 6}
FORMS = {
    "queries": {"form": "queries", "encoder": 1},
    "anchors": {},
    "all": {"groups": 2, "denoising": 2, "encoder": 1},
}


def task(form="anchors", seed=0, **more):
    torch.manual_seed(seed)
    model = Given()
    return Task(model, {"detect": DETR(model.spec, CLASSES, **SMALL, **FORMS[form], **more)}, momentum=None)


@pytest.mark.parametrize("form", FORMS)
def test_parts_are_finite_and_reach_every_parameter_with_an_empty_picture_among_them(form):
    t = task(form)
    out = t(together(*SCENES), 0)
    assert out.loss.isfinite()
    assert out.loss.dtype == torch.float32
    assert {name for name in out.losses if "." in name} == {"detect.label", "detect.box", "detect.giou"}
    out.loss.backward()
    for name, parameter in t.heads["detect"].named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    still = {name for name, p in t.heads["detect"].named_parameters() if not p.grad.abs().sum()}
    # the last box layer starts at zero; contents that are all zero say nothing to each other; a key needs no bias
    excused = ("box.layers.", "decoder.layers.0.attn.", ".k.bias")
    assert not {name for name in still if not any(part in name for part in excused)}


@pytest.mark.parametrize("form", FORMS)
def test_pictures_without_any_box_teach_that_there_is_nothing(form):
    t = task(form)
    out = t(together(SCENES[1], SCENES[1]), 0)
    assert out.losses["detect.box"] == 0 == out.losses["detect.giou"]
    assert out.losses["detect.label"] > 0
    out.loss.backward()
    assert t.heads["detect"].decoder.classes.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
def test_what_is_counted_is_known_from_the_batch_alone(form):
    t = task(form)
    several = [together(*SCENES), together(SCENES[1], SCENES[2])]
    told = t.count(several, 0, torch.device("cpu"))
    assert not any(told.differ([t(batch, 0).counts for batch in several]).values())
    assert told.totals["detect.box"] == 7


def test_micro_batches_give_the_gradients_of_the_joined_batch():
    batches = [together(*SCENES[:2]), together(*SCENES[2:])]
    whole, parts = task("all"), task("all")
    whole(together(*SCENES), 5).loss.backward()
    totals = parts.count(batches, 5, torch.device("cpu")).totals
    for i, batch in enumerate(batches):
        parts(batch, 5, 2 * i, totals).loss.backward()
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_alone_is_as_in_a_padded_batch(form):
    t = task(form).eval()
    head, small = t.heads["detect"], scene([[3, 3, 14, 14]], [1], (16, 24))
    alone = head.predict(t.features(together(small), 0))
    beside = head.predict(t.features(together(SCENES[0], small), 0))
    mine = beside.of == 1
    torch.testing.assert_close(beside.boxes[mine], alone.boxes, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(beside.scores[mine], alone.scores, atol=1e-6, rtol=1e-5)
    one = t(together(small), 0)
    padded = t(together(small, padded=(32, 48)), 0)
    torch.testing.assert_close(one.loss, padded.loss, atol=1e-5, rtol=1e-5)


def test_more_objects_than_queries_and_boxes_of_one_pixel():
    boxes = [[i % 20, i // 20, i % 20 + 1, i // 20 + 1] for i in range(300)]
    out = task("all")(together(scene(boxes, [i % 3 for i in range(300)]), SCENES[0]), 0)
    assert out.loss.isfinite()
    assert out.counts["detect.box"] == 302


@pytest.mark.slow
@pytest.mark.parametrize(("form", "steps"), [("queries", 250), ("anchors", 120), ("all", 110)])
def test_it_overfits_its_scenes(form, steps):
    """The original needs the most steps."""
    t = task(form)
    optimiser = torch.optim.AdamW(t.parameters(), lr=3e-3, weight_decay=0)
    batch = together(*SCENES)
    for step in range(steps):
        optimiser.zero_grad()
        t(batch, step).loss.backward()
        torch.nn.utils.clip_grad_norm_(t.parameters(), 0.5)
        optimiser.step()
    t.eval()
    found = t.heads["detect"].predict(t.features(batch, 0))
    metric = CocoAP(len(CLASSES))
    for i in range(len(SCENES)):
        mine, own = found.of == i, batch.targets["box_of"] == i
        metric.update(
            [{"boxes": found.boxes[mine], "scores": found.scores[mine], "labels": found.labels[mine]}],
            [{"boxes": batch.targets["boxes"][own], "labels": batch.targets["labels"][own]}],
        )
    numbers = metric.compute()
    assert numbers["ar_100"] > 0.5
    assert numbers["ap50"] > 0.8  # of one box of a single pixel among six


def test_predictions_stand_by_picture_best_first_in_pixels():
    t = task("anchors", most=5).eval()
    found = t.heads["detect"].predict(t.features(together(*SCENES), 0))
    assert found.of.tolist() == [i for i in range(4) for _ in range(5)]
    for i in range(4):
        scores = found.scores[found.of == i]
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert found.boxes.dtype == torch.float32
    assert (found.boxes[:, 2] > found.boxes[:, 0]).all()
    assert found.boxes[:, 2].max() > 32  # of 48, and not of 1


def test_a_query_whose_box_has_shrunk_to_nothing_says_something_still():
    t = task("all")
    decoder = t.heads["detect"].decoder
    with torch.no_grad():
        decoder.anchors[:, 2:] = -100.0
    out = t(together(*SCENES), 0)
    out.loss.backward()
    assert out.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in t.parameters() if p.grad is not None)


def test_what_is_logged_is_of_the_last_layer():
    t = task("all")
    batch = together(*SCENES)
    head, f = t.heads["detect"], t.features(together(*SCENES), 0)
    out = head(f)
    found, truth = head.find(f, head._noised(f, truth_of(f))[1]), truth_of(f)
    own = Found(found.logits[-1:, :, :12], found.boxes[-1:, :, :12])
    matches = match(own, truth, head.costs, "focal", 2)
    pairs = own.boxes[0, matches.picture, matches.query], truth.boxes[matches.picture, matches.box]
    iou = overlaps(*map(to_corners, pairs))[0]
    assert out.logs["iou"][1] == len(iou) == 2 * len(batch.targets["boxes"])
    torch.testing.assert_close(out.logs["iou"][0], iou.mean())


def test_the_loss_does_not_depend_on_the_order_of_boxes_and_pictures():
    t = task("queries")
    batch = together(*SCENES)
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    mixed = replace(batch, targets={name: value[order] for name, value in batch.targets.items()})
    torch.testing.assert_close(t(mixed, 0).loss, t(batch, 0).loss)


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("at least one, and each once", {"classes": ("cat", "cat")}),
        ("at least one, and each once", {"classes": ()}),
        ("3 names, 2 ids", {"ids": (1, 2)}),
        ("an id of its own", {"ids": (1, 2, 2)}),
        ("-1 to 2; give whole numbers from 0 to 1,000,000", {"ids": (1, 2, -1)}),
        ("multiple of 4", {"width": 30}),
        ('need form="anchors"', {"form": "queries", "denoising": 2}),
        ('needs loss="focal"', {"loss": "softmax", "denoising": 2}),
    ],
)
def test_what_it_refuses(said, arguments):
    with pytest.raises(UserError, match=said):
        DETR(Given().spec, **{"classes": CLASSES, **arguments})


def test_targets_that_are_not_there():
    t = task()
    with pytest.raises(UserError, match="needs the target 'boxes'"):
        t(replace(together(*SCENES), targets={}), 0)


def test_noise_is_the_same_in_any_batch():
    """The draws of a sample are its own: a larger neighbour adds queries, and changes none."""
    head = task("all").heads["detect"]

    def noise(*scenes):
        f = Features(Given(), together(*scenes))
        return head._noised(f, truth_of(f))[0]

    alone, beside = noise(SCENES[0]), noise(SCENES[0], SCENES[3])
    own = alone.real[0]
    n = len(own)
    assert own.sum() == 2 * 2 * 2
    assert torch.equal(beside.boxes[0, :n], alone.boxes[0])
    assert torch.equal(beside.labels[0, :n], alone.labels[0])
    assert not beside.real[0, n:].any()
