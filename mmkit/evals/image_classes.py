"""Classes of pictures by a head that was trained for them: top-1 and top-5, each picture once.

The classes are the head's own, saved with the model; the labels of the pictures are matched with them by name, as
``labels.with_classes`` compares names, and never by their order. Left out: texts (``classification``, ``zeroshot``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmkit.data.records import Source
from mmkit.data.video.opening import open_for, shown_as
from mmkit.data.video.samplers import views_named
from mmkit.data.video.views import check_views
from mmkit.errors import UserError
from mmkit.evals.evaluator import Evaluator
from mmkit.evals.labels import unlabelled, with_classes
from mmkit.evals.predictions import save_predictions
from mmkit.evals.results.zeroshot import RATES, ZeroShotResult
from mmkit.evals.zeroshot import best_of, found_in, labels_at
from mmkit.inference.predictor import Predictor
from mmkit.inference.sorting import chances, seen_in
from mmkit.types import Pixels


@dataclass(frozen=True, kw_only=True)
class ImageClasses(Evaluator):
    """Sorts the pictures of ``source`` into the classes of a head.

    source: a Source, or a partial that makes one; each record's target ``label_key`` is its class, by name, or by the
    number of a name in the source's ``class_names``. Pictures of which none has a label are sorted for ``predictions``
    alone. head: its name; None = the one that sorts pictures. views: of a clip, several of a test whose answers are
    averaged, by name: "4x3", see ``data.video.views``; None = the one that the model's own transform shows.
    """

    head: str | None = None
    label_key: str = "label"
    views: str | None = None

    def names(self) -> tuple[str, ...]:
        """Of labelled pictures."""
        return RATES

    def needs(self, predictor: Predictor) -> tuple[Any, Source, Tensor | None]:
        """The head, the source, and each record's class. UserError where they do not fit."""
        head, source = predictor.sorter(self.head), self.opened()
        if self.views is not None:
            check_views(views_named(self.views), predictor.transform)
        if unlabelled(source, self.label_key):
            if self.predictions is None:
                raise UserError(
                    f'no "{self.label_key}" in any record; accuracy needs the class of each picture. What they are '
                    "taken for without can be written: --predictions FILE"
                )
            return head, source, None
        labelled, _ = with_classes(source, head.classes, self.label_key, by_name=True)
        return head, source, torch.tensor(list(labelled.target(self.label_key)))

    def evaluate(self, predictor: Predictor) -> ZeroShotResult:
        """UserError for a label that is no class, and a picture that cannot be read, unless ``bad`` leaves it out."""
        head, source, labels = self.needs(predictor)
        k, views = min(5, len(head.classes)), None if self.views is None else views_named(self.views)
        transform = predictor.transform

        def seen(row: int) -> list[Pixels]:
            return seen_in(transform, open_for(transform, source[row]), views)

        def work(rows: Sequence[int], made: Sequence[list[Pixels]]) -> dict[str, Tensor]:
            return best_of(chances(predictor, head, made, views), k, labels_at(labels, rows))

        passed = self.passed(self.parts(predictor, len(source), seen, work))
        found = found_in(tuple(head.classes), labels, passed, by="classifier", shown=shown_as(transform))
        found = replace(found, views=self.views)
        save_predictions(self.predictions, lambda: found.predictions(source))
        return found
