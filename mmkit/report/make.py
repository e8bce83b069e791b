"""``Report``: what an Experiment names to get a ``report.html`` at the end of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmkit.data.records import Source
from mmkit.data.video.opening import shown_as
from mmkit.evals.evaluator import make_source
from mmkit.evals.zeroshot import ZeroShot
from mmkit.inference.predictor import Predictor
from mmkit.ranks import on_first, rank
from mmkit.report.collect import collect_classified, collect_examples, collect_objects
from mmkit.report.page import Page, ZeroShotSection, write_report


@dataclass(frozen=True, kw_only=True)
class Report:
    """``report(predictor, folder)`` writes ``folder/report.html`` and returns the numbers of its own evaluations.

    source: pictures with captions for the examples, or None. zeroshot: evaluations by name, each shown with
    pictures and its worst classes, and measured here (leave them out of the run's own evaluations). titles: what the
    page calls evaluations and heads. attribution: of the data's makers. shown: pictures and captions with their
    nearest among ``pool`` records. rerank_top: how many of these the matching head puts in order; None = it is not
    asked, as one that has hardly learned does harm. classified: pictures of each zero-shot evaluation. objects:
    pictures with boxes, of which ``classified`` are shown with what the model finds in them.
    """

    name: str
    source: partial[Any] | Source | None = None
    zeroshot: Mapping[str, partial[ZeroShot] | ZeroShot] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    attribution: str = ""
    shown: int = 6
    classified: int = 16
    objects: partial[Any] | Source | None = None
    pool: int = 500
    rerank_top: int | None = 16

    def __call__(self, predictor: Predictor, folder: str | Path) -> dict[str, float]:
        """To be called by all processes: the evaluations are shared, the first one writes."""
        sections: list[ZeroShotSection] = []
        metrics: dict[str, float] = {}
        for name, made in self.zeroshot.items():
            evaluator = made() if isinstance(made, partial) else made
            result = evaluator.evaluate(predictor)
            metrics |= {f"{name}.{key}": value for key, value in result.metrics().items()}
            if rank() == 0:
                pictures = collect_classified(make_source(evaluator.source), result, shown=self.classified)
                sections.append(ZeroShotSection(title=self.titles.get(name, name), result=result, shown=pictures))
        on_first(lambda: write_report(folder, self._page(predictor, sections), metrics))
        return metrics

    def _page(self, predictor: Predictor, sections: Sequence[ZeroShotSection]) -> Page:
        examples = None
        if self.source is not None:
            examples = collect_examples(
                predictor, make_source(self.source), shown=self.shown, pool=self.pool, rerank_top=self.rerank_top
            )
        objects = None if self.objects is None else make_source(self.objects)
        found = [] if objects is None else collect_objects(predictor, objects, shown=self.classified)
        return Page(
            name=self.name, titles=self.titles, examples=examples, zeroshot=sections, objects=found,
            attribution=self.attribution, shown=shown_as(predictor.transform),
        )  # fmt: skip
