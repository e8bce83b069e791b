"""The tab of ``mmkit demo`` for heads that can be asked: what a visitor's words mean in a visitor's picture."""

from __future__ import annotations

import gradio as gr
from PIL import Image

from mmkit.data.texts.prompts import SEPARATOR, checked
from mmkit.explanation.objects import drawn
from mmkit.heads.base import Grounds
from mmkit.inference.predictor import Predictor
from mmkit.page.parts import Given, Tab, on_click, picture_and_words

THRESHOLD = 0.3
WORDS = {
    "asked": {"en": 'What to look for: "a dog. a red canoe."', "zh": "要找的东西，用句点分开"},
    "threshold": {"en": "Least score", "zh": "最低分"},
    "found": {"en": "Objects", "zh": "物体"},
}
"""What this tab says beside the page's own words; both languages stand side by side."""


def asks(model: Predictor) -> bool:
    """Whether a model has one head that finds objects, and it can be asked."""
    heads = [head for head in model.heads.values() if isinstance(head, Grounds)]
    return len(heads) == 1


def build(given: Given) -> None:
    """A picture, words, the least score, and what is found."""
    picture, words, button = picture_and_words(given, " / ".join(WORDS["asked"].values()))
    least = gr.Slider(0, 1, value=THRESHOLD, step=0.05, label=" / ".join(WORDS["threshold"].values()))
    shown = gr.Image(label=" / ".join(WORDS["found"].values()), interactive=False, format="png")
    names = gr.Dataframe(headers=["", ""], interactive=False)

    @given.told
    def work(path: str | None, text: str, threshold: float) -> tuple[Image.Image, list[list[str]]]:
        return found_in(given.predictor, given.picture(path), text, threshold)

    on_click(button, work, [picture, words, least], [shown, names], words)


def found_in(
    predictor: Predictor, image: Image.Image, text: str, threshold: float
) -> tuple[Image.Image, list[list[str]]]:
    """The picture with what is found drawn over it, and a row of phrase and score for each object.

    text: phrases with full stops between them; nothing = the classes that the model was trained on.
    """
    phrases = checked(text.split(SEPARATOR), "what to look for") if text.strip() else None
    found = predictor.detect([image], phrases=phrases)[0].above(threshold)
    rows = [[name, f"{score:.2f}"] for name, score in zip(found.names, found.scores.tolist(), strict=True)]
    return drawn(image, found), rows


def tab() -> Tab:
    """For ``mmkit/page/projects.py``."""
    return Tab(title={"en": "Words and boxes", "zh": "按文字找物体"}, can=asks, build=build)
