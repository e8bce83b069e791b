"""What tabs are built of: the fields of the page, and answers to a visitor's click that tell what is wrong in words.

A file that a visitor gives is opened here, by mmkit: Gradio's own picture field would end in an error of Pillow's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from PIL import Image

from mmkit.data.clip import Clip
from mmkit.data.images.opening import BadImage, max_megapixels
from mmkit.data.records import Record
from mmkit.data.video.opening import reads_clips
from mmkit.data.video.strip import shown
from mmkit.errors import UserError
from mmkit.inference.predictor import Predictor
from mmkit.page.shelf import Shelf
from mmkit.page.tasks import TooLarge, opened

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def upload(label: str, **settings: Any) -> gr.Image:
    """A field for a picture, which gives the path of the file as it came, unopened, or None."""
    field = gr.Image(label=label, type="filepath", sources=["upload", "clipboard"], **settings)
    field.preprocess = _path_of  # type: ignore[method-assign]  # a class of ours would have Gradio write files beside it
    return field


def _path_of(payload: Any) -> str | None:
    return None if payload is None else payload.path


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a tab is built with. words: of its language. shelf: the pictures of ``--images``, or None."""

    predictor: Predictor
    words: Mapping[str, str]
    shelf: Shelf | None = None

    @property
    def clips(self) -> bool:
        """Whether the model reads clips."""
        return reads_clips(self.predictor.transform)

    def upload(self) -> gr.Image | gr.File:
        """A field for what the model reads: a picture; or a video, or an animated picture."""
        if self.clips:
            return gr.File(label=self.words["clip"], file_types=["video", "image"], type="filepath", height=120)
        return upload(self.words["picture"], height=260)

    def picture(self, path: str | None) -> Any:
        """A visitor's picture as RGB, or a ``Clip`` for a model that reads clips.

        gr.Error in words where there is none, or it cannot be read.
        """
        if path is None:
            raise gr.Error(self.words["no_picture"], print_exception=False)
        try:
            if self.clips:
                self.shown(path)
                return Clip(Path(path))
            return opened(path)
        except TooLarge as error:
            raise gr.Error(self.words["huge"].format(most=round(max_megapixels())), print_exception=False) from error
        except BadImage as error:
            said = self.words["broken_clip" if self.clips else "broken"]
            raise gr.Error(said, print_exception=False) from error

    def shown(self, path: str) -> Image.Image:
        """What visitors see of a file that was found: the picture, or some frames of a clip side by side."""
        if not self.clips:
            image: Image.Image = self.picture(path)
            return image
        return shown(Record(image=Clip(Path(path)), captions=(), image_id=path, key=Path(path).name))

    def needed(self, text: str | None) -> str:
        """A visitor's words; gr.Error where there are none."""
        if not text or not text.strip():
            raise gr.Error(self.words["no_words"], print_exception=False)
        return text.strip()

    def told(self, work: Callable[P, R]) -> Callable[P, R]:
        """The same, with a UserError told to the visitor: without the visitor's own file names."""

        @wraps(work)
        def tell(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return work(*args, **kwargs)
            except UserError as error:
                log.info("%s", error)
                raise gr.Error(self.words["failed"].format(why=error), print_exception=False) from error

        return tell


@dataclass(frozen=True, kw_only=True)
class Tab:
    """A tab of the page. title: by language. can: whether a model has it. build: its fields, within an open Gradio tab.

    A project adds one: a function ``tab`` without arguments in its ``page.py`` that gives it.
    """

    title: Mapping[str, str]
    can: Callable[[Predictor], bool]
    build: Callable[[Given], None]


def picture_and_words(
    given: Given, label: str, lines: int = 1
) -> tuple[gr.Image | gr.File, gr.Textbox, gr.Button]:  # fmt: skip
    """Fields for a picture or clip and words beside it, and the button."""
    picture = given.upload()
    words = gr.Textbox(label=label, lines=lines, max_lines=max(lines, 4))
    return picture, words, gr.Button(given.words["try"], variant="primary")


def on_click(button: gr.Button, work: Callable[..., Any], inputs: list[Any], output: Any, *texts: gr.Textbox) -> None:
    """Run ``work`` by the button, and where Enter is pressed in one of ``texts``."""
    gr.on([button.click, *(text.submit for text in texts)], work, inputs, output)


def paths_of(files: list[str] | None) -> tuple[Path, ...]:
    """The files of an upload."""
    return tuple(map(Path, files or ()))
