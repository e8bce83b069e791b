"""What stands beside a picture changes nothing, for both heads: empty ones, specks, many objects, processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.data.images.transforms import EvalTransform
from mmkit.inference.detecting import finder_of
from mmkit.inference.predictor import Predictor
from mmkit.task import Task
from mmkit.types import Batch
from projects.grounding.glip import GLIP
from projects.grounding.head import GroundingDINO
from projects.grounding.test_head import NAMES, Letters, prompts
from projects.grounding.test_head import task as towers_task
from tests.wholes import check_parts_teach_as_the_whole, check_two_processes_are_as_one, taught

DINO = {
    "width": 16, "heads": 2, "hidden": 16, "enhancer": 1, "decoder": 2, "queries": 4, "scale": 0.5, "groups": 2,
    "told": True,
}  # fmt: skip
DENSE = {"width": 16, "depth": 1, "heads": 2, "text_heads": 2, "scales": (2.0, 1.0), "anchor": 2.0, "told": 0.5}
HEADS = {
    "grounding_dino": lambda spec: GroundingDINO(spec, NAMES, **DINO),
    "glip": lambda spec: GLIP(spec, NAMES, **DENSE, told_after=0),
}
MANY = [[i % 20, i // 20, i % 20 + 9, i // 20 + 8] for i in range(300)]
HARD = (
    (["cat", "dog"], [[2, 3, 20, 17], [25, 8, 45, 30]], [1, 0], []),
    (["st. bernard", "red canoe", "cat"], [], [], [1]),
    (["dog"], [[7, 7, 8, 8]], [0], []),
    (["container", "containernumber"], MANY, [i % 2 for i in range(300)], [1, 0]),
)
"""Phrases, boxes, the phrase of each, and phrases that are told of."""


def together(rows):
    """Some of these pictures as a batch."""
    each = [HARD[i] for i in rows]
    pixels = [torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(i)) for i in rows]
    told = [(place, number) for place, one in enumerate(each) for number in one[3]]
    return Batch(
        pixels=torch.stack(pixels), image_id=torch.tensor(list(rows)),
        targets={
            "boxes": torch.tensor([box for one in each for box in one[1]], dtype=torch.float32).view(-1, 4),
            "labels": torch.tensor([label for one in each for label in one[2]], dtype=torch.int64),
            "box_of": torch.tensor([i for i, one in enumerate(each) for _ in one[1]], dtype=torch.int64),
            "prompt": prompts([one[0] for one in each]), "told": torch.tensor(told, dtype=torch.int64).view(-1, 2),
        },
    )  # fmt: skip


def task(head):
    t = towers_task()
    torch.manual_seed(1)
    return Task(t.model, {"ground": HEADS[head](t.model.spec)}, momentum=None)


@pytest.mark.parametrize("head", HEADS)
def test_a_picture_is_found_as_it_is_alone_and_teaches_what_it_teaches_alone(head):
    t, alone = task(head), [together([i]) for i in range(4)]
    check_parts_teach_as_the_whole(t, task(head), together(range(4)), alone)
    finder = t.eval().heads["ground"].asked([prompts([["dog", "cat"]])], ["dog", "cat"])
    beside = finder.predict(t.features(together(range(4)), 0))
    for i, batch in enumerate(alone):
        own, mine = finder.predict(t.features(batch, 0)), beside.of == i
        assert len(own.boxes)
        torch.testing.assert_close(beside.boxes[mine], own.boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(beside.scores[mine], own.scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("key", ["crowd", "ignore"])
def test_crowds_and_what_is_ignored_teach_nothing(key):
    """Of Grounding DINO; GLIP's are in its own tests."""
    t, plain = task("grounding_dino"), together([0])
    more = {
        "boxes": torch.cat([plain.targets["boxes"], torch.tensor([[5.0, 5, 40, 30]])]),
        "labels": torch.tensor([1, 0, 1]), "box_of": torch.zeros(3, dtype=torch.int64),
    }  # fmt: skip
    batch = replace(plain, targets={**plain.targets, **more})
    marked = {**batch.targets, key: torch.tensor([False, False, True])}
    without = t(plain, 0).loss
    assert t(replace(batch, targets=marked), 0).loss.equal(without)
    assert not t(batch, 0).loss.equal(without)


def learned(head, rows):
    """Of some of the pictures: the loss, and the gradients."""
    return taught(task(head), together(rows))


def test_two_processes_are_as_one(tmp_path):
    check_two_processes_are_as_one(tmp_path, HEADS, learned)


@pytest.mark.parametrize("head", HEADS)
def test_pictures_of_unequal_sizes_are_squashed_and_found_as_alone(head):
    t, rng = task(head), np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 30), (1, 9), (20, 80))
    ]
    predictor = Predictor(
        t.model, dict(t.heads.items()), Letters(), EvalTransform(size=(32, 48)), max_tokens=20, threads=1
    )
    assert finder_of(predictor).classes == NAMES
    for picture, one in zip(pictures, predictor.detect(pictures), strict=True):
        (alone,) = predictor.detect([picture])
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-5)
        assert one.boxes[:, 2].max() > 0.1 * picture.width  # its own pixels
