"""The page's own tabs: find pictures, name them, ask, caption, explain, and sort into the classes of the model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gradio as gr

from mmkit.page import tasks
from mmkit.page.parts import Given, Tab, on_click, paths_of, picture_and_words
from mmkit.page.shelf import Shelf
from mmkit.page.words import LANGUAGES

MOST = 200
"""So many pictures of a visitor's are looked through at a time."""


def find(given: Given) -> None:
    """Pictures of a folder, or a visitor's own, by words."""
    words, shelf = given.words, given.shelf
    files = None
    if shelf is None:
        kinds = ["image", "video"] if given.clips else ["image"]
        files = gr.File(label=words["pictures"], file_count="multiple", file_types=kinds, height=160)
    else:
        gr.Markdown(words["folder"].format(count=len(shelf.paths), folder=shelf.name))
    asked = gr.Textbox(label=words["words"])
    button = gr.Button(words["try"], variant="primary")
    gallery = gr.Gallery(label=words["found"], columns=3, height="auto", object_fit="contain")

    @given.told
    def work(text: str, uploaded: list[str] | None = None) -> list[tuple[object, str]]:
        text = given.needed(text)
        looked = shelf
        if looked is None:
            paths = paths_of(uploaded)
            if not paths:
                raise gr.Error(words["no_pictures"], print_exception=False)
            if len(paths) > MOST:
                raise gr.Error(words["many"].format(most=MOST), print_exception=False)
            for path in paths:
                given.picture(str(path))
            looked = Shelf(paths)
        found = tasks.find(given.predictor, looked, text)
        return [(given.shown(str(path)), f"{score:.2f}  {Path(path).name}") for path, score in found]

    on_click(button, work, [asked] if files is None else [asked, files], gallery, asked)


def name(given: Given) -> None:
    """Names that a visitor types, and how likely each is."""
    picture, names, button = picture_and_words(given, given.words["names"], lines=4)
    chances = gr.Label(label=given.words["chances"])

    @given.told
    def work(path: str | None, text: str) -> dict[str, float]:
        image, found = given.picture(path), tasks.split_names(text or "")
        if len(found) < 2:
            raise gr.Error(given.words["two_names"], print_exception=False)
        return tasks.name(given.predictor, image, found)

    on_click(button, work, [picture, names], chances)


def ask(given: Given) -> None:
    """A question, and the best answers."""
    picture, question, button = picture_and_words(given, given.words["question"])
    answers = gr.Label(label=given.words["answers"], elem_id="answers")

    @given.told
    def work(path: str | None, text: str) -> dict[str, float]:
        return tasks.ask(given.predictor, given.picture(path), given.needed(text))

    on_click(button, work, [picture, question], answers, question)


def caption(given: Given) -> None:
    """What the model writes."""
    picture = given.upload()
    button = gr.Button(given.words["try"], variant="primary")
    written = gr.Textbox(label=given.words["written"], interactive=False)

    @given.told
    def work(path: str | None) -> str:
        return tasks.caption(given.predictor, given.picture(path))

    on_click(button, work, [picture], written)


def explain(given: Given) -> None:
    """Heat maps of a text and each of its words."""
    picture, text, button = picture_and_words(given, given.words["text"])
    maps = gr.Gallery(label=given.words["maps"], columns=3, height="auto", object_fit="contain")

    @given.told
    def work(path: str | None, words: str) -> list[tuple[object, str]]:
        return list(tasks.heat_maps(given.predictor, given.picture(path), given.needed(words)))

    on_click(button, work, [picture, text], maps, text)


def sort(given: Given) -> None:
    """The classes that the model was trained for."""
    picture = given.upload()
    button = gr.Button(given.words["try"], variant="primary")
    chances = gr.Label(label=given.words["chances"])

    @given.told
    def work(path: str | None) -> dict[str, float]:
        return tasks.sort(given.predictor, given.picture(path))

    on_click(button, work, [picture], chances)


OWN = (find, name, ask, caption, explain, sort)
TABS: tuple[Tab, ...] = tuple(
    Tab(
        title={language: words[task.__name__] for language, words in LANGUAGES.items()},
        can=partial(tasks.can, task.__name__), build=task,
    )
    for task in OWN
)  # fmt: skip
HELP = {f"{task.__name__}_help" for task in OWN}
