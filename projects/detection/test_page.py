"""The demo page's tab: for models that find objects, with what was found drawn and listed."""

import pytest
import torch
from PIL import Image

from mmkit.data.images.transforms import EvalTransform
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.vision import vision

gradio = pytest.importorskip("gradio")

from mmkit.page.projects import tabs_of  # noqa: E402
from projects.detection.examples import CLASSES  # noqa: E402
from projects.detection.head import DETR  # noqa: E402
from projects.detection.page import finds, found_in  # noqa: E402


def predictor(heads=None):
    torch.manual_seed(0)
    model = vision(image_size=32, patch=8, depth=1, width=16, heads=2)
    made = {"detect": DETR(model.spec, CLASSES, width=16, heads=2, queries=3, decoder=1)} if heads is None else heads
    return Predictor(model, made, None, EvalTransform(size=32), max_tokens=0)


def test_a_detector_brings_its_tab_and_others_do_not():
    tabs = tabs_of([predictor()])
    assert [tab.title["en"] for tab in tabs] == ["Objects"]
    assert tabs[0].can(predictor())
    assert not finds(predictor({}))
    assert tabs_of([predictor({})]) == []


def test_what_is_found_is_drawn_and_listed():
    image = Image.new("RGB", (64, 48), "white")
    picture, rows = found_in(predictor(), image, 0.0)
    assert picture.size == (320, 240)
    assert len(rows) == 9
    assert {name for name, _ in rows} == set(CLASSES)
    assert [score for _, score in rows] == sorted((score for _, score in rows), reverse=True)
    bare, none = found_in(predictor(), image, 1.0)
    assert none == []
    assert bare.getcolors() == [(320 * 240, (255, 255, 255))]
