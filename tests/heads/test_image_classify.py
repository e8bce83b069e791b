"""Classes of pictures alone: the loss by hand, the teacher, and what is refused. Contracts: test_contracts.py."""

from dataclasses import replace

import pytest
import torch

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Classifies, Scores
from mmkit.heads.image_classify import ImageClassify
from mmkit.task import Task
from mmkit.types import Batch
from tests.examples import batch
from tests.sizes import vision_tiny

NAMES = ("a", "b", "c", "d")


def pictures(size=6) -> Batch:
    return replace(batch(size), ids=None, mask=None, caption_id=None, masked=None)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_by_hand(smoothing):
    torch.manual_seed(0)
    model = vision_tiny()
    head, b = ImageClassify(model.spec, NAMES, smoothing=smoothing), pictures()
    states = model.encode_image(b.pixels).x[:, 0]
    log_probs = (states @ head.out.weight.T + head.out.bias).log_softmax(1)
    wanted = torch.full((6, 4), smoothing / 4)
    wanted[torch.arange(6), b.targets["label"]] += 1 - smoothing
    out = head(Features(model, b))
    torch.testing.assert_close(out.loss, -(wanted * log_probs).sum(1).mean())
    assert out.count == 6
    assert out.logs["accuracy"] == (log_probs.argmax(1) == b.targets["label"]).float().mean()


def test_the_mean_of_the_patches():
    model = vision_tiny()
    head, b = ImageClassify(model.spec, NAMES, mean=True), pictures()
    wanted = head.out(model.encode_image(b.pixels).x[:, 1:].mean(1))
    torch.testing.assert_close(head.predict(Features(model, b)), wanted)


def test_the_teachers_answer_beside_the_label():
    torch.manual_seed(0)
    model = vision_tiny()
    task = Task(model, {"class": ImageClassify(model.spec, NAMES)}, momentum=0.9, alpha=0.4)
    with torch.no_grad():
        task.heads["class"].out.weight.mul_(5)
    b = pictures()
    f = task.features(b, 0)
    own, theirs = task.heads["class"].predict(f), f.twin(task.heads["class"]).predict(f.teacher)
    assert not torch.allclose(own, theirs)
    hard = torch.nn.functional.cross_entropy(own, b.targets["label"])
    soft = -(theirs.softmax(1) * own.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(task(b, 0).losses["class"], (0.6 * hard + 0.4 * soft).detach())


def test_what_it_can_do():
    head = ImageClassify(vision_tiny().spec, NAMES)
    assert isinstance(head, Classifies)
    assert not isinstance(head, Scores)  # it scores no text
    assert head.classes == NAMES
    assert not head.needs_words


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": ("a",)}, "1 classes; give at least two"),
        ({"classes": ("a", "b", "a")}, "each once"),
        ({"classes": NAMES, "smoothing": 1.0}, "smoothing=1.0: a share"),
        ({"classes": NAMES, "smoothing": -0.1}, "smoothing=-0.1"),
    ],
)
def test_what_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        ImageClassify(vision_tiny().spec, **options)


def test_words_are_missed_by_name():
    f = Features(vision_tiny(), Batch(pixels=torch.zeros(2, 3, 32, 32), image_id=torch.arange(2)))
    for name in ("ids", "mask", "caption_id"):
        with pytest.raises(UserError, match="reads words, and this run has pictures alone: give it a tokenizer"):
            getattr(f, name)
    assert f.same.tolist() == f.same_image.tolist() == torch.eye(2).bool().tolist()
