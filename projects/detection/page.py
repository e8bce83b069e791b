"""The tab of ``mmkit demo`` for detectors: what is found in a visitor's picture, drawn and listed."""

from __future__ import annotations

import gradio as gr
from PIL import Image

from mmkit.explanation.objects import drawn
from mmkit.heads.base import Detects
from mmkit.inference.predictor import Predictor
from mmkit.page.parts import Given, Tab, on_click, upload

THRESHOLD = 0.3
WORDS = {"threshold": {"en": "Least score", "zh": "最低分"}, "found": {"en": "Objects", "zh": "物体"}}
"""What this tab says beside the page's own words; both languages stand side by side."""


def finds(model: Predictor) -> bool:
    """Whether a model has one head that finds objects."""
    return sum(isinstance(head, Detects) for head in model.heads.values()) == 1


def build(given: Given) -> None:
    """A picture, the least score, and what is found."""
    picture = upload(given.words["picture"], height=260)
    least = gr.Slider(0, 1, value=THRESHOLD, step=0.05, label=" / ".join(WORDS["threshold"].values()))
    button = gr.Button(given.words["try"], variant="primary")
    shown = gr.Image(label=" / ".join(WORDS["found"].values()), interactive=False, format="png")
    names = gr.Dataframe(headers=["", ""], interactive=False)

    @given.told
    def work(path: str | None, threshold: float) -> tuple[Image.Image, list[list[str]]]:
        return found_in(given.predictor, given.picture(path), threshold)

    on_click(button, work, [picture, least], [shown, names])


def found_in(predictor: Predictor, image: Image.Image, threshold: float) -> tuple[Image.Image, list[list[str]]]:
    """The picture with what is found drawn over it, and a row of name and score for each object."""
    found = predictor.detect([image])[0].above(threshold)
    rows = [[name, f"{score:.2f}"] for name, score in zip(found.names, found.scores.tolist(), strict=True)]
    return drawn(image, found), rows


def tab() -> Tab:
    """For ``mmkit/page/projects.py``."""
    return Tab(title={"en": "Objects", "zh": "物体"}, can=finds, build=build)
