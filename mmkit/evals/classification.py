"""Accuracy of a head that sorts pairs into classes: entailment, true or false statements, any label.

Works with every head that has ``classes`` and ``predict(f) -> logits (B, C)``, so that a project's head needs no
evaluator of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmkit.data.labels import Label, label_in, some, tidy
from mmkit.data.records import Source, described, targets_of
from mmkit.errors import UserError
from mmkit.evals.evaluator import counted
from mmkit.evals.intervals import wilson
from mmkit.evals.metrics import Evaluation, computed
from mmkit.evals.predictions import save_predictions
from mmkit.evals.recall import hits_at
from mmkit.heads.base import Classifies
from mmkit.inference.predictor import Predictor

UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class ClassificationResult:
    """labels, predicted: (n,) int64, numbers of ``classes``; hits: (n,) float64, see ``hits_at``; scores: (n, C).

    labels None: the records have none, and nothing is claimed. rows: the numbers of the n records in their source.
    more: further metrics by name.
    """

    classes: tuple[str, ...]
    labels: Tensor | None
    predicted: Tensor
    hits: Tensor
    scores: Tensor
    rows: Sequence[int]
    more: Mapping[str, float] = field(default_factory=dict)
    left_out: int | None = None

    def metrics(self) -> dict[str, float]:
        """What ``rates`` gives; without labels ``n`` alone."""
        if self.labels is None:
            return {"n": float(len(self.predicted))} | counted(self.left_out)
        return rates(self.hits, self.labels, self.classes) | counted(self.left_out) | dict(self.more)

    def predictions(self, source: Source) -> list[Mapping[str, Any]]:
        """Of each record, in order: its ``identifier`` (else image_id), ``label`` as predicted, ``scores``, ``record``.

        scores: the probability of each class.
        """
        names, told = list(targets_of(source, "identifier")), list(described(source))
        out: list[Mapping[str, Any]] = []
        for row, number in enumerate(self.rows):
            name, (key, image_id, _) = names[number], told[number]
            scores = dict(zip(self.classes, self.scores[row].tolist(), strict=True))
            out.append({
                "identifier": image_id if name is None else name, "label": self.classes[int(self.predicted[row])],
                "scores": scores, "record": key,
            })  # fmt: skip
        return out


@dataclass(frozen=True, kw_only=True)
class Classification(Evaluation):
    """Classifies the records of ``source`` with the head named ``head``.

    targets: as ``Data.targets`` of the run, where the head needs more than picture and text. label: the target that
    holds the class, a number from 0 or a name. metrics: further ones, of the logits (B, C) float32 and the labels (B,)
    int64. predictions: a file for what was predicted; then no record need have a label.
    """

    can = Classifies

    head: str = "label"
    label: str = "label"

    def names(self) -> tuple[str, ...]:
        """Of labelled records, and what further metrics say."""
        return ("accuracy", "interval_low", "interval_high", "by_class.*", *super().names())

    def evaluate(self, predictor: Predictor) -> ClassificationResult:
        """UserError for a label that is no class, and where some records have labels and others do not.

        And for a picture that cannot be read, unless ``bad`` leaves it out.
        """
        head, source = self.needs(predictor)

        def known(targets: Mapping[str, Any], rows: Sequence[int]) -> Tensor:
            return torch.tensor(self._labels(targets.get(self.label), head.classes, source, rows))

        passed, metrics = self.passed(self.predicted(predictor, head, source, known)), self.made()
        logits, own = (torch.cat(parts) for parts in zip(*passed.found, strict=True))
        labels = self._known(own, passed.rows, source)
        for found in passed.found if labels is not None else ():
            for metric in metrics.values():
                metric.update(*found)
        result = ClassificationResult(
            classes=tuple(head.classes), labels=labels, rows=passed.rows, predicted=logits.argmax(1),
            hits=hits_at(logits, own.clamp(min=0)), scores=logits.softmax(1).double(),
            more={} if labels is None else computed(metrics), left_out=passed.left_out,
        )  # fmt: skip
        save_predictions(self.predictions, lambda: result.predictions(source))
        return result

    def _labels(self, given: Any, classes: Sequence[str], source: Source, items: Sequence[int]) -> list[int]:
        """The class number of each record of a batch, ``UNKNOWN`` for none; UserError for what is no class."""
        values = [None] * len(items) if given is None else given.tolist() if isinstance(given, Tensor) else given
        number: dict[Label, int] = {tidy(str(name)): i for i, name in enumerate(classes)}
        number |= {i: i for i in range(len(classes))}
        out = []
        for value, item in zip(values, items, strict=True):
            if value is None or value == UNKNOWN:
                out.append(UNKNOWN)
                continue
            label = label_in(value, source[item].key, self.label)
            found = number.get(tidy(label) if isinstance(label, str) else label)
            if found is None:
                raise UserError(
                    f"{source[item].key}: {self.label} {label!r} is none of the {len(classes)} classes of this head: "
                    f"{some(classes)}"
                )
            out.append(found)
        return out

    def _known(self, labels: Tensor, rows: Sequence[int], source: Source) -> Tensor | None:
        """The labels; None where there are none. UserError where only some have one."""
        missing = labels == UNKNOWN
        if not missing.any():
            return labels
        first = source[rows[int(missing.nonzero()[0])]].key
        if not missing.all():
            raise UserError(f"{first}: no {self.label!r}, though other records have one; measure those that have it")
        if self.predictions is None:
            raise UserError(
                f"{first}: no {self.label!r}; accuracy needs one for each record. What the model says of records "
                "without can be written: predictions=FILE"
            )
        return None


def rates(hits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Accuracy in all, with its interval, and of each class that occurs. ``chance``: the share of the most frequent.

    hits: (n,) float64, how far each is right; labels: (n,) int64.
    """
    counts = labels.bincount(minlength=len(classes))
    by_class = {
        f"by_class.{name}": hits[labels == i].mean().item() for i, name in enumerate(classes) if counts[i]
    }  # fmt: skip
    low, high = wilson(hits.sum().item(), len(labels))
    return {
        "accuracy": hits.mean().item(), "n": float(len(labels)), "chance": counts.max().item() / len(labels),
        "interval_low": low, "interval_high": high, **by_class,
    }  # fmt: skip
