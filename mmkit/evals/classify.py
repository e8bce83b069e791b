"""Accuracy of a head that sorts pairs into classes: entailment, true or false statements, any label.

Works with every head that has ``classes`` and ``predict(f) -> logits (B, C)``, so that a project's head needs no
evaluator of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from mmkit.data.collate import Collator
from mmkit.data.labels import Label, label_in, some, tidy
from mmkit.data.loader import PairDataset
from mmkit.data.records import Source, described
from mmkit.data.targets import make_targets
from mmkit.errors import UserError
from mmkit.evals.classes import targets_of
from mmkit.evals.common import finite, gather_by_index, make_source, own_units, together
from mmkit.evals.intervals import wilson
from mmkit.evals.predictions import check_predictions, save_predictions
from mmkit.evals.recall import hits_at
from mmkit.features import Features
from mmkit.inference.predictor import Predictor

UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class ClassificationResult:
    """labels, predicted: (n,) int64, numbers of ``classes``; hits: (n,) float64, see ``hits_at``; scores: (n, C).

    labels None: the records have none, and nothing is claimed.
    """

    classes: tuple[str, ...]
    labels: Tensor | None
    predicted: Tensor
    hits: Tensor
    scores: Tensor

    def metrics(self) -> dict[str, float]:
        """What ``rates`` gives; without labels ``n`` alone."""
        if self.labels is None:
            return {"n": float(len(self.predicted))}
        return rates(self.hits, self.labels, self.classes)

    def rows(self, source: Source) -> list[Mapping[str, Any]]:
        """Of each record, in order: its ``identifier`` (else image_id), ``label`` as predicted, ``scores``, ``record``.

        scores: the probability of each class.
        """
        names = targets_of(source, "identifier")
        out: list[Mapping[str, Any]] = []
        for (row, name), (key, image_id, _) in zip(enumerate(names), described(source), strict=True):
            scores = dict(zip(self.classes, self.scores[row].tolist(), strict=True))
            out.append({
                "identifier": image_id if name is None else name, "label": self.classes[int(self.predicted[row])],
                "scores": scores, "record": key,
            })  # fmt: skip
        return out


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Classifies the records of ``source`` with the head named ``head``.

    targets: as ``Data.targets`` of the run, where the head needs more than picture and text. label: the target that
    holds the class, a number from 0 or a name. predictions: a file for what was predicted; then no record need have a
    label.
    """

    source: partial[Any] | Source
    head: str = "label"
    targets: partial[Any] | None = None
    label: str = "label"
    batch_size: int = 64
    predictions: str | Path | None = None

    def check(self, predictor: Predictor) -> None:
        """UserError where the head or the source is missing: what is known before training."""
        self._head(predictor)
        check_predictions(self.predictions)
        make_source(self.source)

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        """The metrics by dotted name; the same on every process."""
        return self.evaluate(predictor).metrics()

    def evaluate(self, predictor: Predictor) -> ClassificationResult:
        """UserError for a picture that cannot be read (numbers over a part of the data are not comparable), for a label
        that is no class, and where some records have labels and others do not.
        """
        head = self._head(predictor)
        check_predictions(self.predictions)
        source = make_source(self.source)
        dataset = PairDataset(
            source=source, transform=_Plain(predictor.transform), tokenizer=predictor.tokenizer,
            max_tokens=predictor.max_tokens,
            targets=make_targets(self.targets, predictor.tokenizer, _Plain(predictor.transform)),
        )  # fmt: skip
        collator = Collator(pad_id=predictor.tokenizer.pad_id, max_tokens=predictor.max_tokens, targets=dataset.targets)

        def share() -> tuple[Tensor, Tensor]:
            rows = [torch.empty(0, 3 + len(head.classes), dtype=torch.float64)]
            numbers: list[int] = []
            for unit, items in own_units(len(source), self.batch_size):
                samples = [dataset[0, i] for i in items]
                if skipped := [message for sample in samples for message in sample.skipped]:
                    raise UserError(f"evaluation needs every picture: {skipped[0]}")
                batch = collator(samples).to(predictor.device)
                labels = self._labels(batch.targets.get(self.label), head.classes, source, items)
                with predictor.inference():
                    logits = finite(head.predict(Features(predictor.model, batch)), "class scores").float().cpu()
                known = torch.tensor(labels)
                hits = hits_at(logits, known.clamp(min=0))
                found = torch.stack([logits.argmax(1), known, hits], 1).double()
                rows.append(torch.cat([found, logits.softmax(1).double()], 1))
                numbers += items
                predictor.progress("pairs", min(len(source), (unit + 1) * self.batch_size), len(source))
            return torch.cat(rows), torch.tensor(numbers, dtype=torch.int64)

        found = gather_by_index(*together(share), len(source), predictor.device)
        labels = self._known(found[:, 1].long(), source)
        result = ClassificationResult(
            classes=tuple(head.classes), labels=labels, predicted=found[:, 0].long(), hits=found[:, 2],
            scores=found[:, 3:],
        )  # fmt: skip
        save_predictions(self.predictions, lambda: result.rows(source))
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

    def _known(self, labels: Tensor, source: Source) -> Tensor | None:
        """The labels; None where there are none. UserError where only some have one."""
        missing = labels == UNKNOWN
        if not missing.any():
            return labels
        first = source[int(missing.nonzero()[0])].key
        if not missing.all():
            raise UserError(f"{first}: no {self.label!r}, though other records have one; measure those that have it")
        if self.predictions is None:
            raise UserError(
                f"{first}: no {self.label!r}; accuracy needs one for each record. What the model says of records "
                "without can be written: predictions=FILE"
            )
        return None

    def _head(self, predictor: Predictor) -> Any:
        head = predictor.heads.get(self.head)
        if head is None or not hasattr(head, "predict"):
            able = [name for name, part in predictor.heads.items() if hasattr(part, "predict")]
            raise UserError(f"this model has no head {self.head!r} that predicts classes; such heads: {able or 'none'}")
        return head


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


@dataclass(frozen=True)
class _Plain:
    """An evaluation transform in the form of a training transform."""

    transform: Any

    def __call__(self, image: Any, caption: str, rng: Random) -> tuple[Tensor, str]:
        return self.transform(image), caption
