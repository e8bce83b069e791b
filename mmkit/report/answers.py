"""A section of the report: questions, the model's answers, and where in the picture it looked for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from PIL import Image

from mmkit.data.records import Record, Source
from mmkit.data.targets import answers_of
from mmkit.data.video.strip import shown as picture_of
from mmkit.data.video.strip import strip
from mmkit.errors import UserError
from mmkit.evals.evaluator import make_source
from mmkit.explanation.explain import explain_pairs
from mmkit.files import write_text
from mmkit.inference.predictor import Predictor
from mmkit.ranks import on_first
from mmkit.report import run_folder
from mmkit.report.page import Page, environment, write_report

log = logging.getLogger(__name__)

BEGIN, END = "<!-- answers -->", "<!-- end of answers -->"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, its right answers, the model's best with their probabilities, and the heat map of the first.

    image: of a clip the frames that the model saw. heat: None for a model that has no maps.
    """

    image: Image.Image
    heat: Image.Image | None
    question: str
    right: tuple[str, ...]
    best: Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class AnswersReport:
    """``report(predictor, folder)`` adds the section to ``page``, a report.html named from the run's folder.

    Where there is none, the run gets a report of its own. source: questions that were not trained on, of which
    ``shown`` are drawn at random. layer: of the heat maps, see ``mmkit.explain``. title: of the section.
    """

    needs_words: ClassVar[bool] = True

    source: partial[Any] | Source
    name: str = "mmkit report"
    title: str = "Questions and answers"
    page: str = "report.html"
    shown: int = 12
    layer: int | None = None
    attribution: str = ""

    def __call__(self, predictor: Predictor, folder: str | Path) -> dict[str, float]:
        """To be called by all processes: the first one writes. No numbers of its own."""
        on_first(lambda: self._write(predictor, Path(folder)))
        return {}

    def _write(self, predictor: Predictor, folder: Path) -> None:
        path = folder / self.page
        if not path.is_file():
            path = write_report(folder, Page(name=self.name, attribution=self.attribution))
        found = run_folder.groups(run_folder.last_metrics(run_folder.read_events(folder)), ("accuracy",))
        rates = next(iter(found.values()), {})
        types = {name.removeprefix("by_type."): rate for name, rate in rates.items() if name.startswith("by_type.")}
        section = environment().get_template("answers.html.j2").render(
            title=self.title, rates=rates, types=types, asked=collect(predictor, self.source, self.shown, self.layer)
        )  # fmt: skip
        place(path, section)


def collect(
    predictor: Predictor, source: partial[Any] | Source, shown: int, layer: int | None = None, seed: int = 0
) -> list[Asked]:
    """Questions at random, so that right and wrong answers stand in their true proportion."""
    records = make_source(source)
    rows = sorted(Random(seed).sample(range(len(records)), min(shown, len(records))))
    chosen: list[Record] = [records[row] for row in rows]
    questions = [record.captions[0] for record in chosen]
    found = predictor.answer(chosen, questions, top=3)
    seen: list[tuple[Image.Image, Image.Image | None]]
    try:
        maps = explain_pairs(
            predictor, chosen, questions, answers=[best[0][0] for best in found], layer=layer, words=False
        )
    except UserError as error:  # of a model that has none; nothing was read yet
        log.warning("the report shows no heat maps: %s", error)
        seen = [(picture_of(record), None) for record in chosen]
    else:
        seen = [(strip(one.frames or [one.picture]), one.overlay(size=192)) for one in maps]
    return [
        Asked(image=image, heat=heat, question=question, right=answers_of(record.targets), best=best)
        for (image, heat), record, question, best in zip(seen, chosen, questions, found, strict=True)
    ]


def place(path: Path, section: str) -> None:
    """Write the section into a page, in the place of an earlier one or at the end."""
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    if not found:
        raise UserError(f"{path}: this page has no place for answers; it was not written by mmkit's report")
    write_text(path, f"{before}{BEGIN}\n{section}\n{END}{after}")
