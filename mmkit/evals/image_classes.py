"""Classes of pictures by a head that was trained for them: top-1 and top-5, each picture once.

The classes are the head's own, saved with the model; the labels of the pictures are matched with them by name, as
``labels.with_classes`` compares names, and never by their order. Left out: texts (``classification``, ``zeroshot``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from mmkit.data.collate import Sample
from mmkit.data.records import Source
from mmkit.data.video.frames import Frames
from mmkit.data.video.opening import open_for
from mmkit.data.video.samplers import Views, views_named
from mmkit.data.video.transforms import ClipTransform
from mmkit.data.video.views import check_views, views_of
from mmkit.errors import UserError
from mmkit.evals.evaluator import Evaluator, finite, pixels_of
from mmkit.evals.labels import unlabelled, with_classes
from mmkit.evals.predictions import save_predictions
from mmkit.evals.results.zeroshot import ZeroShotResult
from mmkit.evals.zeroshot import best_of, found_in, labels_at
from mmkit.inference.predictor import Predictor
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
        k, views = min(5, len(head.classes)), views_named(self.views or "1x1")
        seen = pixels_of(predictor, source) if self.views is None else partial(_seen, predictor, source, views)

        def logits_of(rows: Sequence[int], made: Sequence[Pixels]) -> Tensor:
            samples = [Sample(pixels=pixels, image_id=row, key="") for row, pixels in zip(rows, made, strict=True)]
            with predictor.inference():
                return finite(head.predict(predictor.features(samples)), "class scores").cpu()

        def work(rows: Sequence[int], made: Sequence[Any]) -> dict[str, Tensor]:
            each = [made] if self.views is None else list(zip(*made, strict=True))
            logits = torch.stack([logits_of(rows, one) for one in each])
            chances = logits.softmax(2).mean(0) if views.softmax else logits.mean(0).softmax(1)
            return best_of(chances, k, labels_at(labels, rows))

        passed = self.passed(self.parts(predictor, len(source), seen, work))
        found = replace(found_in(tuple(head.classes), labels, passed, by="classifier"), views=self.views)
        save_predictions(self.predictions, lambda: found.predictions(source))
        return found


def _seen(predictor: Predictor, source: Source, views: Views, row: int) -> list[Pixels]:
    """The views of a clip, or of a picture as a clip of one frame."""
    transform = predictor.transform
    assert isinstance(transform, ClipTransform)
    return views_of(views, transform, cast(Frames, open_for(transform, source[row])))
