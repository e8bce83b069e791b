"""How evaluators share their work between processes, and what every result can do.

Work is cut into units (a batch of pictures, of texts, a chunk of queries) whose borders do not depend on the number
of processes; unit u belongs to rank u modulo ranks. So the same arithmetic happens on any number of them, and metrics
are equal to the last bit. Results come back keyed by index; each index must be there exactly once.

Every function here is called by all processes or by none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from mmkit import ranks
from mmkit.data import text_files
from mmkit.data.images.opening import BadImage
from mmkit.data.records import Record, Source
from mmkit.data.texts.answers.lists import SEEMS_JSON
from mmkit.errors import UserError
from mmkit.inference.predictor import Predictor
from mmkit.ranks import gather, rank, world_size

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")

EVERY_PICTURE = (
    "An evaluation reads every picture, so that its numbers can be compared: mend this one or take its record out. "
    "The commands leave pictures out, and say how many, with --max-bad SHARE"
)


class Result(Protocol):
    """What an evaluator's ``evaluate`` returns."""

    def metrics(self) -> dict[str, float]:
        """The numbers by dotted name, for logs."""

    def to_json(self) -> dict[str, Any]:
        """The numbers as nested JSON-able values, for programs."""

    def table(self) -> Table:
        """A short table for people."""


def own_units(items: int, size: int) -> Iterator[tuple[int, range]]:
    """The units of this rank, of at most ``size`` of ``items``: (unit number, its items)."""
    for unit in range(rank(), -(-items // size), world_size()):
        yield unit, range(unit * size, min(items, (unit + 1) * size))


def gather_by_index(values: Tensor, index: Tensor, total: int, device: torch.device | str = "cpu") -> Tensor:
    """Each rank's rows (n, ...) with their numbers (n,) int64 -> all rows (total, ...) in order, on the CPU.

    ``device``: where the processes talk (the model's). RuntimeError unless every number came exactly once.
    """
    if world_size() > 1:
        most = int(gather(torch.tensor([len(index)], device=device)).max())
        rows = values.new_zeros(most, *values.shape[1:])
        numbers = index.new_full((most,), -1)
        rows[: len(index)], numbers[: len(index)] = values, index
        rows, numbers = gather(rows.to(device)).cpu(), gather(numbers.to(device)).cpu()
        values, index = rows[numbers >= 0], numbers[numbers >= 0]
    if not torch.equal(index.sort().values, torch.arange(total)):
        raise RuntimeError(f"evaluation lost or repeated items: {len(index)} results for {total} items")
    return torch.empty_like(values).index_copy_(0, index, values)


def gather_items(items: Sequence[T], index: Tensor, total: int) -> list[T]:
    """Like ``gather_by_index``, of anything: each rank's items with their numbers (n,) -> all in order."""
    found = {i: item for part in ranks.gather_objects((index.tolist(), items)) for i, item in zip(*part, strict=True)}
    if len(found) != total:
        raise RuntimeError(f"evaluation lost or repeated items: {len(found)} results for {total} items")
    return [found[i] for i in range(total)]


def together(work: Callable[[], T]) -> T:
    """Run this rank's share. What stops one rank stops all of them, with its message, instead of a wait for ever."""

    def share() -> T:
        try:
            return work()
        except BadImage as error:
            raise UserError(f"{error}. {EVERY_PICTURE}") from error

    return ranks.together(share)


def encode_texts(predictor: Predictor, texts: Sequence[str], batch_size: int, what: str = "texts") -> Tensor:
    """``Predictor.encode_text`` with the batches shared between processes; all embeddings (n, E) on each of them.

    Texts that are equal, letter for letter, are encoded once and get the same embedding.
    """
    distinct = list(dict.fromkeys(texts))
    row = {text: i for i, text in enumerate(distinct)}

    def share() -> tuple[Tensor, Tensor]:
        parts = [torch.empty(0, predictor.model.spec.embed_dim)]
        numbers: list[int] = []
        for unit, items in own_units(len(distinct), batch_size):
            parts.append(predictor.encode_text([distinct[i] for i in items], batch_size))
            numbers += items
            predictor.progress(what, min(len(distinct), (unit + 1) * batch_size), len(distinct))
        return torch.cat(parts), torch.tensor(numbers, dtype=torch.int64)

    embeddings = finite(gather_by_index(*together(share), len(distinct), predictor.device), "text embeddings")
    return embeddings[[row[text] for text in texts]]


def finite(values: Tensor, what: str) -> Tensor:
    """The values; UserError when one is not a finite number, because no ranking of such means anything."""
    if not values.isfinite().all():
        raise UserError(f"the {what} hold values that are not finite; this model is broken, see where its loss left")
    return values


def needs_of(predictor: Predictor, rerank_top: int | None) -> None:
    """UserError for a model that can neither compare nor match, or not re-rank.

    There is nothing to re-rank without a joint space, as the matching head judges everything in the first place.
    """
    joint = predictor.model.spec.embed_dim
    if rerank_top is not None or not joint:
        predictor.matcher()
    if rerank_top is not None and not joint:
        raise UserError(
            "re-ranking (--rerank, rerank_top) has no meaning for this model: it has no joint space of image and text, "
            "and its matching head judges every pair as it is; leave it out"
        )


def make_source(source: partial[Any] | Source) -> Source:
    """A source as it is, or made by a partial."""
    made = source() if isinstance(source, partial) else source
    if not len(made):
        raise UserError("the evaluation's source holds no records")
    return made


def own_records(source: Source, rows: Sequence[int], batch_size: int) -> Iterator[Record]:
    """The records of this rank's units of ``rows``, in order."""
    for _, items in own_units(len(rows), batch_size):
        for i in items:
            yield source[rows[i]]


def nested(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """``{"rerank.t2i_r1": x}`` as ``{"rerank": {"t2i_r1": x}}``."""
    out: dict[str, Any] = {}
    for name, value in metrics.items():
        *path, last = name.split(".")
        place = out
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value
    return out


def read_lines(path: str | Path, what: str) -> list[str]:
    """The lines of a UTF-8 file, without blank ones and those that start with #; or the texts of a JSON list.

    UserError when none are left, for other JSON, and where every line stands in quotes.
    """
    text = text_files.read_text(path, f"{what}, one per line")
    if Path(path).suffix.lower() == ".json" or SEEMS_JSON.match(text):
        return _in_json(path, what)
    given = text_files.split_lines(text)
    lines = [line.strip() for line in given if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: no {what} in this file; write one per line")
    if all(re.fullmatch(r"""(["']).*\1,?""", line) for line in lines):
        raise UserError(f"{path}: every line stands in quotes, which would be read as they are; write {what} without")
    return lines


def _in_json(path: str | Path, what: str) -> list[str]:
    """A JSON list of texts, or an object that numbers them from 0."""
    value = text_files.read_json(path, f"{what}, one per line, or a JSON list of them")
    if isinstance(value, dict) and value.keys() == {str(i) for i in range(len(value))}:
        value = [value[str(i)] for i in range(len(value))]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise UserError(f'{path}: no JSON list of {what}; write one per line, or ["...", "..."]')
    return [text.strip() for text in value]
