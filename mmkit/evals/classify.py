"""Accuracy of a head that sorts pairs into classes: entailment, true or false statements, any label.

Works with every head that has ``classes`` and ``predict(f) -> logits (B, C)``, so that a project's head needs no
evaluator of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from mmkit.data.collate import Collator
from mmkit.data.loader import PairDataset
from mmkit.data.records import Source
from mmkit.data.targets import make_targets
from mmkit.errors import UserError
from mmkit.evals.common import finite, gather_by_index, make_source, own_units, together
from mmkit.features import Features
from mmkit.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Classifies the records of ``source`` with the head named ``head``.

    targets: as ``Data.targets`` of the run, where the head needs more than picture and text. label: the target that
    holds the class number.
    """

    source: partial[Any] | Source
    head: str = "label"
    targets: partial[Any] | None = None
    label: str = "label"
    batch_size: int = 64

    def check(self, predictor: Predictor) -> None:
        """UserError where the head or the source is missing: what is known before training."""
        self._head(predictor)
        make_source(self.source)

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        """accuracy, n, chance and ``by_class.NAME``; the same on every process.

        A picture that cannot be read is a UserError: numbers over a part of the data are not comparable.
        """
        head = self._head(predictor)
        source = make_source(self.source)
        dataset = PairDataset(
            source=source, transform=_Plain(predictor.transform), tokenizer=predictor.tokenizer,
            max_tokens=predictor.max_tokens,
            targets=make_targets(self.targets, predictor.tokenizer, _Plain(predictor.transform)),
        )  # fmt: skip
        collator = Collator(pad_id=predictor.tokenizer.pad_id, max_tokens=predictor.max_tokens, targets=dataset.targets)

        def share() -> tuple[Tensor, Tensor]:
            rows = [torch.empty(0, 2, dtype=torch.int64)]
            numbers: list[int] = []
            for unit, items in own_units(len(source), self.batch_size):
                samples = [dataset[0, i] for i in items]
                if skipped := [message for sample in samples for message in sample.skipped]:
                    raise UserError(f"evaluation needs every picture: {skipped[0]}")
                batch = collator(samples).to(predictor.device)
                with predictor.inference():
                    features = Features(predictor.model, batch)
                    logits = finite(head.predict(features), "class scores")
                    rows.append(torch.stack([logits.argmax(1), features.target(self.label)], 1).cpu())
                numbers += items
                predictor.progress("pairs", min(len(source), (unit + 1) * self.batch_size), len(source))
            return torch.cat(rows), torch.tensor(numbers, dtype=torch.int64)

        found = gather_by_index(*together(share), len(source), predictor.device)
        return rates(found[:, 0], found[:, 1], head.classes)

    def _head(self, predictor: Predictor) -> Any:
        head = predictor.heads.get(self.head)
        if head is None or not hasattr(head, "predict"):
            able = [name for name, part in predictor.heads.items() if hasattr(part, "predict")]
            raise UserError(f"this model has no head {self.head!r} that predicts classes; such heads: {able or 'none'}")
        return head


def rates(predicted: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Accuracy in all and of each class that occurs. ``chance``: the share of the most frequent class."""
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise UserError(f"labels run from {int(labels.min())} to {int(labels.max())}; the classes are {classes}")
    hits = (predicted == labels).double()
    counts = labels.bincount(minlength=len(classes))
    by_class = {
        f"by_class.{name}": hits[labels == i].mean().item() for i, name in enumerate(classes) if counts[i]
    }  # fmt: skip
    chance = counts.max().item() / len(labels)
    return {"accuracy": hits.mean().item(), "n": float(len(labels)), "chance": chance, **by_class}


@dataclass(frozen=True)
class _Plain:
    """An evaluation transform in the form of a training transform."""

    transform: Any

    def __call__(self, image: Any, caption: str, rng: Random) -> tuple[Tensor, str]:
        return self.transform(image), caption
