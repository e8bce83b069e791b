"""The one way through an evaluation: a source is read once, on any number of processes, and each sample counts once.

Work is cut into units (a batch of pictures, of texts, a chunk of queries) whose borders do not depend on the number of
processes; unit u belongs to rank u modulo ranks. So the same arithmetic happens on any number of them, and metrics are
equal to the last bit. Pictures are opened by ``data.reading`` alone; what came of each unit is seen by all processes,
in the order of the units.

Every function here is called by all processes or by none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mmkit import ranks
from mmkit.data.images.transforms import look
from mmkit.data.reading import check_share, reading
from mmkit.data.records import Source
from mmkit.data.video.opening import open_for
from mmkit.errors import Unreadable, UserError
from mmkit.evals.predictions import check_predictions
from mmkit.inference.finite import finite
from mmkit.inference.predictor import Predictor
from mmkit.ranks import rank, world_size
from mmkit.types import Pixels

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)

T = TypeVar("T")
Made = TypeVar("Made")
Work = Callable[[tuple[int, ...], list[Made]], T]
"""From the numbers of the items of a unit, and what was made of each when its picture was opened."""

EVERY_PICTURE = (
    "An evaluation reads every picture, so that its numbers can be compared: mend this one or take its record out. "
    "Pictures are left out, and it is said how many, with --max-bad SHARE (bad= in Python)"
)


class Result(Protocol):
    """What an evaluator's ``evaluate`` returns."""

    def metrics(self) -> dict[str, float]:
        """The numbers by dotted name, for logs."""

    def to_json(self) -> dict[str, Any]:
        """The numbers as nested JSON-able values, for programs."""

    def table(self) -> Table:
        """A short table for people."""


@dataclass(frozen=True, kw_only=True)
class Part(Generic[T]):
    """What came of one unit. rows: the numbers of its items, in order; found: what was made of them.

    bad: of the items whose picture could not be read, the messages by number.
    """

    rows: tuple[int, ...]
    found: T
    bad: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Passed(Generic[T]):
    """What came of all units, in order. bad: the items left out; left_out: how many, None where none may be."""

    rows: tuple[int, ...]
    found: list[T]
    bad: tuple[int, ...]
    left_out: int | None


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """What every evaluation is given, and how it reads.

    source: a Source, or a partial that makes one. batch_size: pictures per forward. predictions: a file for what was
    found. bad: the share of the pictures, 0 to 1, that may be left out because they cannot be read; it is counted and
    said. None: the first of them ends the evaluation.
    """

    source: partial[Any] | Source
    batch_size: int = 64
    predictions: str | Path | None = None
    bad: float | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size}: must be at least 1")
        if self.bad is not None and not 0 <= self.bad < 1:
            raise UserError(f"bad={self.bad} (--max-bad): give a share of at least 0 and below 1, such as 0.01")

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        """The metrics by dotted name, the same on every process."""
        return self.evaluate(predictor).metrics()

    def check(self, predictor: Predictor) -> None:
        """UserError where this evaluation is sure to fail with this model: what is known before training."""
        self.needs(predictor)

    def needs(self, predictor: Predictor) -> Any:
        """What ``evaluate`` works on, such as the source and a head; UserError where something is missing."""
        return self.opened()

    def names(self) -> tuple[str, ...] | None:
        """The numbers by which it compares models, by dotted name, known before any; * = what data or models name.

        None: nobody knows them before.
        """
        return None

    def evaluate(self, predictor: Predictor) -> Any:
        """A ``Result``; UserError for what cannot be measured."""
        raise NotImplementedError

    def opened(self) -> Source:
        """The source; UserError where it holds nothing, or what is found could not be written."""
        check_predictions(self.predictions)
        return make_source(self.source)

    def parts(
        self, predictor: Predictor, total: int, make: Callable[[int], Made], work: Work[Made, T],
        what: str = "pictures", shows: Callable[[int], int] | None = None,
    ) -> Iterator[Part[T]]:  # fmt: skip
        """The units of items 0 to ``total`` of all processes, in order, each as soon as all of its round are done.

        make: opens the picture of an item, and raises Unreadable where it cannot; runs in threads. work: makes of what
        was read what each process shall see; not called for a unit of which nothing was read. what: the items, for
        messages. shows: an item of the same unit whose picture this one shows; a bad one takes them all with it.
        """

        def units() -> Iterator[Part[Any]]:
            """Those of this process."""
            own = (row for _, items in own_units(total, self.batch_size) for row in items)
            for read in reading(
                own, lambda row, _: make(row), batch_size=self.batch_size, threads=predictor.threads,
                bad="raise" if self.bad is None else "leave out",
            ):  # fmt: skip
                bad = dict(zip(read.left, read.bad, strict=True))
                if shows is not None:
                    bad |= {row: bad[shows(row)] for row in read.items if shows(row) in bad}
                good = [(row, made) for row, made in zip(read.items, read.made, strict=True) if row not in bad]
                rows = tuple(row for row, _ in good)
                yield Part(rows=rows, found=work(rows, [made for _, made in good]) if rows else None, bad=bad)

        own = units()
        seen: dict[int, str] = {}
        done = 0
        for _ in range(0, -(-total // self.batch_size), world_size()):
            mine = together(lambda: next(own, None))
            for part in ranks.gather_objects(mine):
                if part is None:
                    continue
                seen |= part.bad
                done += len(part.rows) + len(part.bad)
                predictor.progress(what, done, total)
                if self.bad is not None:
                    check_share(list(seen.values()), total, self.bad, "--max-bad, bad=")
                yield part
        if done != total:
            raise RuntimeError(f"evaluation lost or repeated items: {done} results for {total} items")
        if seen and rank() == 0:
            shown = "\n  ".join([*seen.values()][:5]) + ("\n  ..." if len(seen) > 5 else "")
            log.warning("left out %d of %d %s for pictures that cannot be read:\n  %s", len(seen), total, what, shown)

    def passed(self, parts: Iterator[Part[T]]) -> Passed[T]:
        """All ``parts`` together."""
        found = list(parts)
        bad = tuple(row for part in found for row in part.bad)
        return Passed(
            rows=tuple(row for part in found for row in part.rows), found=[part.found for part in found if part.rows],
            bad=bad, left_out=None if self.bad is None else len(bad),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reranks(Evaluator):
    """One in which the matching head may put the best ``rerank_top`` in order again; None = it does not."""

    needs_words: ClassVar[bool] = True

    rerank_top: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rerank_top is not None and self.rerank_top < 1:
            raise UserError(f"rerank_top={self.rerank_top}: must be at least 1, or None for no re-ranking")

    def check_model(self, predictor: Predictor) -> None:
        """UserError for a model that can neither compare nor match, or not re-rank.

        There is nothing to re-rank without a joint space, as the matching head judges everything in the first place.
        """
        joint = predictor.model.spec.embed_dim
        if self.rerank_top is not None or not joint:
            predictor.matcher()
        if self.rerank_top is not None and not joint:
            raise UserError(
                "re-ranking (--rerank, rerank_top) has no meaning for this model: it has no joint space of image and "
                "text, and its matching head judges every pair as it is; leave it out"
            )


def pixels_of(predictor: Predictor, source: Source) -> Callable[[int], Pixels]:
    """Opens the picture or clip of a record, by its number, as ``Predictor.pixels`` gives it."""
    return lambda row: look(predictor.transform, open_for(predictor.transform, source[row]))


def own_units(items: int, size: int) -> Iterator[tuple[int, range]]:
    """The units of this rank, of at most ``size`` of ``items``: (unit number, its items)."""
    for unit in range(rank(), -(-items // size), world_size()):
        yield unit, range(unit * size, min(items, (unit + 1) * size))


def joined(own: Sequence[tuple[int, tuple[Tensor, ...]]], total: int) -> tuple[Tensor, ...]:
    """(unit number, tensors of a row for each of its items, on the CPU) of this rank -> those of all, in order.

    RuntimeError unless there are ``total`` rows and every unit came once.
    """
    found = sorted((unit for share in ranks.gather_objects(list(own)) for unit in share), key=itemgetter(0))
    rows = sum(len(values[0]) for _, values in found)
    if rows != total or len({number for number, _ in found}) < len(found):
        raise RuntimeError(f"evaluation lost or repeated items: {rows} results for {total} items")
    return tuple(torch.cat(parts) for parts in zip(*(values for _, values in found), strict=True))


def together(work: Callable[[], T]) -> T:
    """Run this rank's share. What stops one rank stops all of them, with its message, instead of a wait for ever."""

    def share() -> T:
        try:
            return work()
        except Unreadable as error:
            raise UserError(f"{error}. {EVERY_PICTURE}") from error

    return ranks.together(share)


def encode_texts(predictor: Predictor, texts: Sequence[str], batch_size: int, what: str = "texts") -> Tensor:
    """``Predictor.encode_text`` with the batches shared between processes; all embeddings (n, E) on each of them.

    Texts that are equal, letter for letter, are encoded once and get the same embedding.
    """
    distinct = list(dict.fromkeys(texts))
    row = {text: i for i, text in enumerate(distinct)}

    def share() -> list[tuple[int, tuple[Tensor]]]:
        parts: list[tuple[int, tuple[Tensor]]] = []
        for unit, items in own_units(len(distinct), batch_size):
            parts.append((unit, (predictor.encode_text([distinct[i] for i in items], batch_size),)))
            predictor.progress(what, min(len(distinct), (unit + 1) * batch_size), len(distinct))
        return parts

    (embeddings,) = joined(together(share), len(distinct))
    return finite(embeddings, "text embeddings")[[row[text] for text in texts]]


def counted(left_out: int | None) -> dict[str, float]:
    """``left_out`` for a result's numbers, where items may be left out."""
    return {} if left_out is None else {"left_out": float(left_out)}


def make_source(source: partial[Any] | Source) -> Source:
    """A source as it is, or made by a partial."""
    made = source() if isinstance(source, partial) else source
    if not len(made):
        raise UserError("the evaluation's source holds no records")
    return made
