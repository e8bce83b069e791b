"""How good a frozen image tower is: heads on its features, trained on some pictures and measured on others.

Nearest neighbours, a grid of linear heads and an attentive head. What there is to choose (how many neighbours, which
token, which learning rate) is chosen on a part of the training pictures that the heads have not seen; then they are
trained anew on all of them. The test pictures are looked at once, at the end. The published programs choose on the
pictures that they report.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkit.data.records import Source, described
from mmkit.data.sources.classes import labels_in
from mmkit.data.video.opening import shown_as
from mmkit.errors import UserError
from mmkit.evals.evaluator import Evaluator, make_source, pixels_of
from mmkit.evals.labels import with_classes
from mmkit.evals.predictions import save_predictions
from mmkit.evals.probe import linear
from mmkit.evals.probe.attentive import attentive
from mmkit.evals.probe.knn import knn
from mmkit.evals.probe.result import ProbeResult, Reading
from mmkit.inference.finite import finite
from mmkit.inference.predictor import Predictor
from mmkit.nn.pool import pooled
from mmkit.ranks import rank
from mmkit.types import Pixels

log = logging.getLogger(__name__)

SHARE = 0.2  # of each class, for choosing, and for the test where none is given
ROOM = 4.0  # GiB for the tokens that the attentive head reads


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a tower says of n labelled pictures. pooled: (n, D) float32 by token, "cls" or "mean". tokens: (n, P, D)."""

    pooled: Mapping[str, Tensor]
    tokens: Tensor | None
    labels: Tensor
    rows: tuple[int, ...]

    def part(self, rows: Tensor) -> Seen:
        """Those of the pictures."""
        tokens = None if self.tokens is None else self.tokens[rows]
        own = tuple(self.rows[i] for i in rows.tolist())
        return Seen(
            pooled={k: x[rows] for k, x in self.pooled.items()}, tokens=tokens, labels=self.labels[rows], rows=own
        )


@dataclass(frozen=True, kw_only=True)
class Probe(Evaluator):
    """Probes the image tower of a model with the labelled pictures of ``source``.

    test: pictures to be measured on, with the same classes; None = a fifth of each class of ``source``, at random.
    steps: of the linear heads. seed: of what is held out, the order and the beginnings. attentive: whether the head
    that reads all tokens is trained too, for which they must fit into memory.
    """

    test: partial[Any] | Source | None = None
    steps: int = 1000
    seed: int = 0
    attentive: bool = True
    label_key: str = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise UserError(f"steps={self.steps}: must be at least 1")

    def names(self) -> tuple[str, ...]:
        """Of each kind of head, and of each token."""
        kinds = ("knn", "linear", *(("attentive",) if self.attentive else ()))
        own = tuple(f"{kind}.{name}" for kind in kinds for name in ("top1", "interval_low", "interval_high"))
        return (*own, "knn.*.top1", "linear.*.top1")

    def evaluate(self, predictor: Predictor) -> ProbeResult:
        """UserError for classes with too few pictures, and for labels of the test that no training picture has."""
        source = self.opened()
        classes = [str(label) for label in labels_in(source, self.label_key)]
        if len(classes) < 2:
            raise UserError(f"a probe needs pictures of two classes or more; there is {', '.join(classes) or 'none'}")
        test_source = source if self.test is None else make_source(self.test)
        counts = len(source) + (0 if self.test is None else len(test_source))
        seen = self._seen(predictor, source, classes, counts, "training pictures")
        if self.test is None:
            rest, held = apart(seen.labels, len(classes), self.seed)
            train, test = seen.part(rest), seen.part(held)
        else:
            try:
                with_classes(test_source, classes, self.label_key, by_name=True)
            except UserError as error:
                raise UserError(f"the test pictures: {error}") from error
            train, test = seen, self._seen(predictor, test_source, classes, counts, "test pictures")
        fit, choose = apart(train.labels, len(classes), self.seed + 1)
        if not len(choose) or not len(test.labels):
            raise UserError(
                "too few pictures: choosing (and the test, where none is given) needs some of each class that are not "
                "trained on, so five or more of one class; give more, or a --test"
            )
        chosen = {name: self._chosen(train, fit, choose, name, len(classes)) for name in train.pooled}
        result = self._measured(train, test, chosen, tuple(classes))
        result = replace(result, shown=shown_as(predictor.transform))
        save_predictions(self.predictions, lambda: _predictions(result, test, test_source))
        return result

    def _seen(self, predictor: Predictor, source: Source, classes: list[str], counts: int, what: str) -> Seen:
        labelled, _ = with_classes(source, classes, self.label_key, by_name=True)
        labels = torch.tensor(list(labelled.target(self.label_key)))
        spec = predictor.model.spec
        first, has_class = spec.class_tokens, spec.class_tokens > 0 and spec.pooling == "first"
        fits = self.attentive

        def work(rows: Sequence[int], made: Sequence[Pixels]) -> dict[str, Tensor]:
            nonlocal fits
            image = predictor.encode_pixels(made)
            found = {"mean": pooled(image, first, mean=True)} | ({"cls": image.x[:, 0]} if has_class else {})
            gib = counts * image.x[0].numel() * 4 / 2**30
            if fits and (gib > ROOM or image.mask is not None):
                fits = False
                why = (
                    "pictures of unequal size" if image.mask is not None else f"tokens of {gib:.1f} GiB, above {ROOM:g}"
                )
                if rank() == 0:
                    log.warning("the attentive head is left out: %s", why)
            found = {name: finite(x.float(), "image features").cpu() for name, x in found.items()}
            return found | ({"tokens": image.x.float().cpu()} if fits else {})

        passed = self.passed(self.parts(predictor, len(source), pixels_of(predictor, source), work, what))
        names = set.intersection(*(set(found) for found in passed.found)) if passed.found else set()
        found = {name: torch.cat([part[name] for part in passed.found]) for name in sorted(names)}
        tokens = found.pop("tokens", None)
        return Seen(pooled=found, tokens=tokens, labels=labels[list(passed.rows)], rows=passed.rows)

    def _chosen(self, train: Seen, fit: Tensor, choose: Tensor, name: str, classes: int) -> dict[str, Reading]:
        """For one token the best of each kind on pictures that were not trained on.

        Of equal neighbours the fewest, of equal heads the one with the lowest loss.
        """
        x, wanted = train.pooled[name], train.labels[choose]
        near = knn(x[fit], train.labels[fit], x[choose], classes)
        best = {k: _rate(found, wanted) for k, found in near.items()}
        k = max(best, key=lambda k: best[k])
        readings = []
        for standard in (False, True):
            scale = linear.Scale.of(x[fit], standard)
            heads = linear.train(scale(x[fit]), train.labels[fit], classes, steps=self.steps, seed=self.seed)
            for rate, logits in zip(linear.RATES, heads.logits(scale(x[choose])), strict=True):
                loss = F.cross_entropy(logits, wanted).item()
                right = _rate(logits.argmax(1), wanted)
                readings.append(Reading(held_out=right, loss=loss, rate=rate, standard=standard))
        return {"knn": Reading(held_out=best[k], k=k), "linear": max(readings, key=Reading.order)}

    def _measured(
        self, train: Seen, test: Seen, chosen: Mapping[str, Mapping[str, Reading]], classes: tuple[str, ...]
    ) -> ProbeResult:
        found: dict[str, dict[str, tuple[Reading, Tensor]]] = {"knn": {}, "linear": {}}
        for name, x in train.pooled.items():
            reading = chosen[name]["knn"]
            near = knn(x, train.labels, test.pooled[name], len(classes), (reading.k or 1,))
            found["knn"][name] = reading, next(iter(near.values()))
            reading = chosen[name]["linear"]
            scale = linear.Scale.of(x, reading.standard)
            heads = linear.train(
                scale(x), train.labels, len(classes), rates=(reading.rate,), steps=self.steps, seed=self.seed
            )
            found["linear"][name] = reading, heads(scale(test.pooled[name]))[0]
        read = None
        if train.tokens is not None and test.tokens is not None:
            read = attentive(train.tokens, train.labels, test.tokens, len(classes), seed=self.seed)
        return ProbeResult(classes=classes, labels=test.labels, trained_on=len(train.labels), by=found, attentive=read)


def apart(labels_N: Tensor, classes: int, seed: int, share: float = SHARE) -> tuple[Tensor, Tensor]:
    """Rows to keep and rows to hold out, ascending: at random a share of each class, rounded down."""
    noise_N = torch.rand(len(labels_N), generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in range(classes):
        own = (labels_N == label).nonzero().flatten()
        held[own[noise_N[own].argsort()[: int(share * len(own))]]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _rate(found_N: Tensor, wanted_N: Tensor) -> float:
    return (found_N == wanted_N).double().mean().item()


def _predictions(result: ProbeResult, test: Seen, source: Source) -> list[Mapping[str, Any]]:
    told = list(described(source))
    best = {kind: result.best(kind)[2] for kind in result.by}
    if result.attentive is not None:
        best["attentive"] = result.attentive
    out: list[Mapping[str, Any]] = []
    for i, row in enumerate(test.rows):
        key, image_id, _ = told[row]
        said = {kind: result.classes[int(found[i])] for kind, found in best.items()}
        out.append({"file": image_id, "record": key, "label": result.classes[int(test.labels[i])], **said})
    return out
