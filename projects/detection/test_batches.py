"""What stands beside a picture changes nothing, for any head: empty ones, crowds, specks, three hundred objects."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.data.images.transforms import EvalTransform
from mmkit.errors import UserError
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.vision import vision
from mmkit.task import Task
from projects.detection.examples import CLASSES, SCENES, scene, together
from projects.detection.head import DETR
from projects.detection.ssd import SSD
from projects.detection.two_stage import FasterRCNN
from tests.wholes import check_parts_teach_as_the_whole, check_two_processes_are_as_one, taught

HEADS = {
    "detr": lambda spec: DETR(spec, CLASSES, width=32, heads=2, hidden=32, decoder=2, queries=6, groups=2, denoising=2),
    "faster_rcnn": lambda spec: FasterRCNN(
        spec, CLASSES, width=16, hidden=32, anchor=4.0, sampled=(32, 16), proposed=(60, 40), score=0.0
    ),
    "ssd": lambda spec: SSD(spec, CLASSES, width=16, scales=(1.0, 0.5), score=0.0),
}
MANY = scene([[i % 20, i // 20, i % 20 + 1.5, i // 20 + 1.5] for i in range(300)], [i % 3 for i in range(300)])
SPECK = scene([[7, 7, 8, 8]], [1])
HARD = (SCENES[0], SCENES[1], SPECK, MANY)


def task(head):
    torch.manual_seed(0)
    model = vision(image_size=(32, 48), patch=8, depth=1, width=24, heads=2)
    return Task(model, {"detect": HEADS[head](model.spec)}, momentum=None)


@pytest.mark.parametrize("head", HEADS)
def test_a_picture_is_found_as_it_is_alone_and_teaches_what_it_teaches_alone(head):
    t, alone = task(head), [together(one) for one in HARD]
    check_parts_teach_as_the_whole(t, task(head), together(*HARD), alone)
    finder = t.eval().heads["detect"]
    beside = finder.predict(t.features(together(*HARD), 0))
    for i, batch in enumerate(alone):
        own, mine = finder.predict(t.features(batch, 0)), beside.of == i
        assert len(own.boxes)
        torch.testing.assert_close(beside.boxes[mine], own.boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(beside.scores[mine], own.scores, atol=1e-5, rtol=1e-4)
        assert beside.labels[mine].equal(own.labels)


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_without_any_object_gives_every_parameter_a_gradient(head):
    """Where one process has such a batch, the others would wait for what it does not send."""
    t = task(head)
    t(together(SCENES[1], SCENES[1]), 0).loss.backward()
    assert [name for name, p in t.heads.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("key", ["crowd", "ignore"])
@pytest.mark.parametrize("head", HEADS)
def test_crowds_and_what_is_ignored_teach_nothing(head, key):
    t, plain = task(head), together(*SCENES)
    batch = together(SCENES[0], SCENES[1], SCENES[2], scene([*SCENES[3][1], [5, 5, 40, 30]], [*SCENES[3][2], 1]))
    batch = replace(batch, pixels=plain.pixels)
    marked = {key: torch.arange(len(batch.targets["boxes"])) == len(batch.targets["boxes"]) - 1}
    without = t(plain, 0).loss
    assert t(replace(batch, targets={**batch.targets, **marked}), 0).loss.equal(without)
    assert not t(batch, 0).loss.equal(without)


def learned(head, rows):
    """Of some of the pictures: the loss, and the gradients."""
    return taught(task(head), together(*[HARD[i] for i in rows]))


def test_two_processes_are_as_one(tmp_path):
    check_two_processes_are_as_one(tmp_path, HEADS, learned)


@pytest.mark.parametrize("head", HEADS)
def test_pictures_of_unequal_sizes_are_squashed_and_found_as_alone(head):
    t, rng = task(head), np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 30), (1, 9), (20, 80))
    ]
    predictor = Predictor(t.model, dict(t.heads.items()), None, EvalTransform(size=(32, 48)), max_tokens=0, threads=1)
    for picture, one in zip(pictures, predictor.detect(pictures), strict=True):
        (alone,) = predictor.detect([picture])
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-5)
        assert one.boxes[:, 2].max() > 0.5 * picture.width  # its own pixels
    with pytest.raises(UserError, match="pictures of one size"):
        t(together(SCENES[0], scene([[3, 3, 14, 14]], [1], (16, 24))), 0)
