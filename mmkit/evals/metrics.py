"""What is measured of a head: metrics over what it predicts, with torchmetrics' convention, each sample once.

A metric has ``update(prediction, targets)`` for a batch and ``compute()`` for the end; those of torchmetrics can be
given as they are. Every process gets all batches, in the order of the data, so metrics share nothing themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from mmkit.data.images.transforms import look, view_of
from mmkit.data.loader import encoded, kind_of
from mmkit.data.records import Record, Source
from mmkit.data.targets import Given, make_targets
from mmkit.data.video.opening import open_for
from mmkit.errors import UserError
from mmkit.evals.evaluator import Evaluator, Part, counted
from mmkit.heads.base import Predicts, reads_words
from mmkit.inference.finite import finite
from mmkit.inference.predictor import Predictor
from mmkit.ranks import world_size
from mmkit.types import Pixels


class Metric(Protocol):
    """What a metric is; it begins with no samples."""

    def update(self, prediction: Any, targets: Any) -> None:
        """Takes in a batch: rows of both belong together."""

    def compute(self) -> Any:
        """A number, a tensor, or a mapping of such by name."""


@runtime_checkable
class Shares(Protocol):
    """A metric that would gather between processes by itself, as those of torchmetrics do."""

    sync_on_compute: bool


class Opened(NamedTuple):
    """A record whose picture was read. caption: what is asked, if anything; targets: as their encoder made them."""

    record: Record
    pixels: Pixels
    caption: str | None
    targets: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Evaluator):
    """Runs ``predict`` of the head named ``head`` over ``source``, and feeds ``metrics`` (by name; or what makes them).

    target: what metrics get beside the prediction, by its name in the batch; None = all targets, by name. targets: as
    ``Data.targets`` of the run, where the head or the metrics need more than records say.
    """

    can: ClassVar[Any] = Predicts

    head: str
    metrics: Mapping[str, Metric | partial[Any] | type[Any]] = field(default_factory=dict)
    target: str | None = "label"
    targets: partial[Any] | None = None

    def names(self) -> tuple[str, ...]:
        """Those of the metrics, each of which may say several."""
        return tuple(told for name in self.metrics for told in (name, f"{name}.*"))

    def needs(self, predictor: Predictor) -> tuple[Any, Source]:
        """The head and the source."""
        return self.named_head(predictor), self.opened()

    def evaluate(self, predictor: Predictor) -> Any:
        """``Measured``; UserError where a picture cannot be read, or the batch lacks the target."""
        (head, source), metrics = self.needs(predictor), self.made()
        n = left = 0
        for part in self.predicted(predictor, head, source, self._target):
            n, left = n + len(part.rows), left + len(part.bad)
            if part.rows:
                for metric in metrics.values():
                    metric.update(*part.found)
        return Measured(values=computed(metrics), n=n, left_out=None if self.bad is None else left)

    def made(self) -> dict[str, Metric]:
        """The metrics, without samples. They get the batches of all processes, so they must gather none."""
        found = {name: m() if isinstance(m, partial | type) else deepcopy(m) for name, m in self.metrics.items()}
        for metric in found.values():
            if world_size() > 1 and isinstance(metric, Shares):
                metric.sync_on_compute = False
        return found

    def named_head(self, predictor: Predictor) -> Any:
        """The head; UserError where there is none of this name that can do what is measured."""
        head = predictor.heads.get(self.head)
        if not isinstance(head, self.can):
            able = [name for name, part in predictor.heads.items() if isinstance(part, self.can)]
            does = self.can.__name__.lower()
            raise UserError(f"this model has no head {self.head!r} that {does}; such heads: {able or 'none'}")
        return head

    def predicted(
        self, predictor: Predictor, head: Any, source: Source, target: Callable[[Mapping[str, Any], Sequence[int]], Any]
    ) -> Iterator[Part[tuple[Any, Any]]]:
        """Of each batch, in order: what the head predicts (B, ...) on the CPU, and what ``target`` makes of the batch.

        target: called with the batch's targets and the numbers of its records.
        """
        asked, words = reads_words(head), predictor.tokenizer if predictor.reads_words else None
        given = Given(tokenizer=words, transform=lambda image, caption, rng: (predictor.transform(image), caption))
        targets = make_targets(self.targets, given)

        def opened(row: int) -> Opened:
            record = source[row]
            if asked and not record.captions:
                raise UserError(f"{record.key}: no caption, and this head reads picture and text")
            rng = Random(f"0 0 {row}")
            caption = rng.choice(record.captions) if asked else None
            picture = open_for(predictor.transform, record)
            view = view_of(predictor.transform, picture.size) if getattr(targets, "reads_view", False) else None
            return Opened(record, look(predictor.transform, picture), caption, encoded(targets, record, rng, view=view))

        def work(rows: Sequence[int], made: Sequence[Opened]) -> tuple[Any, Any]:
            samples = [
                predictor.sample(one.pixels, one.caption, one.record, kind_of(one.record), one.targets) for one in made
            ]
            with predictor.inference():
                f = predictor.features(samples, targets)
                prediction = on_cpu(head.predict(f), f"predictions of head {self.head!r}")
            return prediction, target(f.batch.targets, rows)

        with predictor.encoder.counting():
            yield from self.parts(predictor, len(source), opened, work, "records")

    def _target(self, targets: Mapping[str, Any], rows: Sequence[int]) -> Any:
        found = on_cpu(targets, "targets")
        if self.target is None:
            return found
        if self.target not in found:
            raise UserError(f"the metrics need the target {self.target!r}, and the records have: {', '.join(found)}")
        return found[self.target]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The numbers of an ``Evaluation`` over n samples."""

    values: Mapping[str, float]
    n: int
    left_out: int | None = None

    def metrics(self) -> dict[str, float]:
        """By dotted name, with ``n``, and ``left_out`` where pictures may be."""
        return {**self.values, "n": float(self.n)} | counted(self.left_out)


def on_cpu(value: Any, what: str) -> Any:
    """Tensors, and lists and mappings of such, on the CPU, numbers as float32; UserError for one that is not finite."""
    if isinstance(value, Tensor):
        return finite(value.float() if value.is_floating_point() else value, what).cpu()
    if isinstance(value, Mapping):
        return {name: on_cpu(inner, what) for name, inner in value.items()}
    return [on_cpu(inner, what) for inner in value] if isinstance(value, list | tuple) else value


def computed(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """What the metrics say, as numbers by dotted name: ``name``, ``name.key``, or ``name.0`` of several."""
    return {
        place: number for name, metric in metrics.items() for place, number in _numbers(name, metric.compute())
    }  # fmt: skip


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name}.{key}", inner)
    elif isinstance(value, Tensor) and value.numel() > 1:
        for number, inner in enumerate(value.flatten().tolist()):
            yield f"{name}.{number}", float(inner)
    else:
        yield name, float(value)
