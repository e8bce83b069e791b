"""Whole files of DETR, with their ResNet, become models of ours and go back bit for bit."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from mmkit.convert.layouts.layout import Choices
from mmkit.convert.tables.table import read, write
from mmkit.errors import UserError
from projects.detection import layout
from projects.detection.names import COCO, coco_class
from projects.detection.test_tables import DEPTH, OUTPUTS, QUERIES, WIDTH, official
from tests.parity.measure import assert_same_state


@pytest.fixture(scope="module")
def state():
    """As the official file, but for a narrow transformer."""
    torch.manual_seed(0)
    body = {f"backbone.0.body.{n}": v for n, v in resnet50().state_dict().items() if not n.startswith("fc.")}
    head = official().state_dict()
    head["input_proj.weight"] = torch.randn(WIDTH, 2048, 1, 1)
    return {n: v for n, v in body.items() if not n.endswith("num_batches_tracked")} | head


@pytest.mark.parity("DETR, the whole file", "the file")
def test_an_official_file_becomes_a_model_and_goes_back_bit_for_bit(state):
    assert layout.DETR.fits(state)
    assert not layout.TRANSFORMERS.fits(state)
    made = layout.DETR.recipe(state, Choices(image_size=(64, 96)))
    assert made.model.keywords == {"image_size": (64, 96), "backbone": "torchvision:resnet50"}
    head = made.heads["detect"].keywords
    assert (head["queries"], head["encoder"], head["decoder"], head["heads"]) == (QUERIES, DEPTH, DEPTH, 1)
    assert (len(head["classes"]), head["ids"]) == (OUTPUTS - 1, tuple(range(OUTPUTS - 1)))
    ours = read(made.rows, state)
    model = made.model()
    whole = nn.ModuleDict({"model": model, "heads": nn.ModuleDict({"detect": made.heads["detect"](model.spec)})})
    whole.load_state_dict(ours)
    back = write(layout.DETR.back(whole.state_dict()), whole.state_dict())
    assert_same_state(back, state)


def test_other_backbones_and_heads_are_refused(state):
    with pytest.raises(UserError, match="5 blocks in the third stage"):
        layout.DETR.recipe({n: v for n, v in state.items() if ".layer3.5." not in n}, Choices())
    with pytest.raises(UserError, match='form="queries"'):
        layout.DETR.back({"model.image.net.layer3.0.conv1.weight": torch.zeros(1)})


def test_classes_are_cocos_under_their_numbers():
    assert sum(len(names.split()) for names in COCO.values()) == 80
    names = layout.class_names(91, Choices())
    assert (names[1], names[17], names[90], names[12], names[77]) == (
        "person",
        "cat",
        "toothbrush",
        "unused 12",
        "cell phone",
    )
    assert len(set(names)) == 91
    assert (coco_class(13), coco_class(46), coco_class(65), coco_class(67), coco_class(84)) == (
        "stop sign", "wine glass", "bed", "dining table", "book"
    )  # fmt: skip
    said = Choices(config={"id2label": {"0": "N/A", "1": "lamp"}})
    assert layout.class_names(3, said) == ("unused 0", "lamp", "class 2")
