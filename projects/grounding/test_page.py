"""The demo page's tab: for models that can be asked, with what was found drawn and listed."""

import pytest
from PIL import Image

from mmkit.errors import UserError

gradio = pytest.importorskip("gradio")

from mmkit.page.parts import Given  # noqa: E402
from mmkit.page.projects import tabs_of  # noqa: E402
from mmkit.page.words import ENGLISH  # noqa: E402
from projects.grounding.page import asks, found_in  # noqa: E402
from projects.grounding.test_glip import predictor, task  # noqa: E402
from projects.grounding.test_head import NAMES  # noqa: E402
from projects.grounding.test_head import task as grounding_dino  # noqa: E402


def test_a_head_that_can_be_asked_brings_its_tab():
    for t in (task(), grounding_dino()):
        (tab,) = tabs_of([predictor(t)])
        assert tab.title["en"] == "Words and boxes"
        assert tab.can(predictor(t))
    bare = predictor(task())
    bare.heads = {}
    assert not asks(bare)
    with gradio.Blocks():
        tab.build(Given(predictor=predictor(task()), words=ENGLISH))


def test_what_words_mean_is_drawn_and_listed():
    model, image = predictor(task()), Image.new("RGB", (64, 48), "white")
    picture, rows = found_in(model, image, "a dog. a red canoe", 0.0)
    assert picture.size == (320, 240)
    assert {name for name, _ in rows} == {"a dog", "a red canoe"}
    scores = [float(score) for _, score in rows]
    assert scores == sorted(scores, reverse=True)
    assert {name for name, _ in found_in(model, image, "  ", 0.0)[1]} == set(NAMES)
    bare, none = found_in(model, image, "a dog", 1.0)
    assert none == []
    assert bare.getcolors() == [(320 * 240, (255, 255, 255))]
    with pytest.raises(UserError, match=r"^what to look for: 'A dog' is asked for twice"):
        found_in(model, image, "a dog. A dog", 0.0)
