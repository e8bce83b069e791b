"""Weakly supervised grounding: do a model's heat maps find what words name, though it never saw a box?

A record has ``boxes`` in its targets: {name, box (left, top, right, bottom) in pixels}. Each name is an expression.
Where the record's caption says it, the map is that of these words in the caption (as in Flickr30k Entities): a model
that has learned to guess hidden words is asked for these, which the quickstart's models locate best with; another for
the match. Otherwise, and always with ``in_caption=False``, the name alone is the text and the map that of the sentence,
for the match (RefCOCO+: ALBEF, section 6); of a model that has no match to explain, for hidden words or the similarity.

Measured are the pointing game (does the strongest pixel lie in the box; Zhang et al. 2016), the overlap of the region
around that pixel with the box, and the choice among candidate boxes: the record's ``detections`` where it has them,
else its own boxes.

Left out: training for it, which is fine-tuning for retrieval on pairs of expression and picture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkit.data.images.opening import load_image
from mmkit.data.records import JsonLines, Record, Source
from mmkit.errors import UserError
from mmkit.evals.boxes import Box, area, best_box, overlap, points_at, region_box
from mmkit.evals.common import finite, gather_by_index, make_source, nested, own_units, together
from mmkit.explanation.goals import Target, default_target, guesses_words
from mmkit.explanation.gradcam import Asked, TokenMaps, ask, token_maps
from mmkit.explanation.maps import HeatMap, seen_box
from mmkit.explanation.words import phrase_in, words_of
from mmkit.inference.predictor import Predictor
from mmkit.ranks import rank

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)

SUMS = ("n", "pointing", "chance", "iou", "iou50", "choice", "choice_chance", "in_caption")
"""What is summed over expressions; all but ``n`` become means."""


@dataclass(frozen=True)
class Expression:
    """What names a box, as the model reads it: a text, and the positions of its tokens that count (None = all)."""

    text: str
    tokens: tuple[int, ...] | None
    box: Box


@dataclass(frozen=True, kw_only=True)
class GroundingResult:
    """rates: the means of ``SUMS`` by name; by_split: the same for each split.

    asked: (what was explained, the layer) for names in captions and alone. head: which was asked; None = the mean.
    """

    rates: Mapping[str, float]
    by_split: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    asked: Mapping[str, tuple[str, int]]
    head: int | None

    def metrics(self) -> dict[str, float]:
        """``n``; ``pointing`` and its ``chance`` (the mean share of the picture that the box takes), both 0 to 1.

        ``iou`` of the map's region and the box, ``iou50``: the share with at least 0.5; ``choice``: how often the best
        candidate overlaps the box by at least 0.5, ``choice_chance``: a random candidate; ``in_caption``: the share of
        names that were read in their caption. The same under ``SPLIT.`` where there are splits.
        """
        out = dict(self.rates)
        for split, rates in self.by_split.items():
            out |= {f"{split}.{name}": value for name, value in rates.items()}
        return out

    def to_json(self) -> dict[str, Any]:
        """The same, nested, with what was asked: target and layer for names in captions and alone, head."""
        asked = {place: {"target": target, "layer": layer} for place, (target, layer) in self.asked.items()}
        return nested(self.metrics()) | {"asked": asked, "head": self.head}

    def table(self) -> Table:
        """One row for each split, with chance beside."""
        from rich.table import Table

        asked = "; ".join(f"{place} by {target}, layer {layer}" for place, (target, layer) in self.asked.items())
        heads = "" if self.head is None else f"; head {self.head}"
        table = Table(title=f"grounding ({asked}{heads})", title_justify="left")
        for name in ("", "n", "pointing", "chance", "IoU", "IoU >= 0.5", "choice", "chance "):
            table.add_column(name, justify="right" if name else "left")
        for name, rates in {"all": self.rates, **self.by_split}.items():
            shares = ("pointing", "chance", "iou", "iou50", "choice", "choice_chance")
            table.add_row(name, f"{rates['n']:.0f}", *(f"{rates[share]:.1%}" for share in shares))
        return table


@dataclass(frozen=True, kw_only=True)
class Grounding:
    """Evaluates grounding over the records of ``source`` (a Source, or a partial that makes one).

    layer, head, target: see ``mmkit.explain``; target None = as the module says, "answer" is refused. A source's
    ``splits`` are reported one by one, by ``targets["split"]``. in_caption: whether names are looked for in the
    record's captions. prompt: what a name alone becomes; each {} is the name. threshold: of the region, as a share of
    the map's maximum. batch_size: pictures per pass.
    """

    source: partial[Any] | Source
    layer: int | None = None
    head: int | None = None
    target: Target | None = None
    in_caption: bool = True
    prompt: str = "{}"
    threshold: float = 0.25
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.target == "answer":
            raise UserError('grounding: target="answer": a name is no question; use "mlm", "itm" or "itc"')
        if "{}" not in self.prompt or not 0 < self.threshold < 1 or self.batch_size < 1:
            raise UserError(
                f"grounding: prompt={self.prompt!r} must hold {{}} for the name, threshold={self.threshold} lie "
                f"between 0 and 1, batch_size={self.batch_size} be at least 1"
            )

    def check(self, predictor: Predictor) -> None:
        """UserError where the source is missing or the model has nothing to explain: what is known before training."""
        self._asked(predictor)
        make_source(self.source)

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        """The numbers by dotted name."""
        return self.evaluate(predictor).metrics()

    def evaluate(self, predictor: Predictor) -> GroundingResult:
        """Every process calls this and gets the same result. UserError for records without boxes."""
        asked = self._asked(predictor)
        source = make_source(self.source)
        if isinstance(source, JsonLines):
            self._check(source, predictor, "in captions" in asked)
        splits: tuple[str, ...] = tuple(getattr(source, "splits", ()))

        def share() -> tuple[Tensor, Tensor]:
            rows, numbers = [torch.zeros(0, len(SUMS) + 2, dtype=torch.float64)], []
            for _, items in own_units(len(source), self.batch_size):
                records = [source[i] for i in items]
                rows.append(self._sums(predictor, asked, records, splits))
                numbers += list(items)
                predictor.progress("grounded pictures", numbers[-1] + 1, len(source))
            return torch.cat(rows), torch.tensor(numbers, dtype=torch.int64)

        with predictor.encoder.counting():
            rows = gather_by_index(*together(share), len(source), predictor.device)
        if not rows[:, 0].sum():
            raise UserError('grounding: no record has "boxes" with at least one name and box')
        _tell_outside(rows[:, len(SUMS)], source)
        return GroundingResult(
            rates=_means(rows),
            by_split={name: _means(of) for i, name in enumerate(splits) if len(of := rows[rows[:, -1] == i])},
            asked={place: (_called(which.target), which.layer) for place, which in asked.items()}, head=self.head,
        )  # fmt: skip

    def _check(self, source: JsonLines, predictor: Predictor, by_words: bool) -> None:
        """Every row without its picture, so that what is wrong in the last is said before the first is measured."""
        with predictor.encoder.counting():
            for i in range(len(source)):
                record = source[i]
                detected(record)
                self._expressions(record, predictor, by_words)

    def _asked(self, predictor: Predictor) -> dict[str, Asked]:
        """For names "in captions", where these are looked for, and "alone"."""
        target = self.target or default_target(predictor, ("itm", "mlm", "itc"))
        alone = ask(predictor, target, self.layer, self.head)
        guesses = self.target is None and guesses_words(predictor)
        if not self.in_caption or (alone.target == "itc" and not guesses):  # the similarity has no words
            return {"alone": alone}
        return {"in captions": ask(predictor, "mlm", self.layer, self.head) if guesses else alone, "alone": alone}

    def _sums(
        self, predictor: Predictor, asked: Mapping[str, Asked], records: Sequence[Record], splits: Sequence[str]
    ) -> Tensor:
        """One row for each record: ``SUMS`` over its expressions, how many boxes were clipped, number of its split."""
        pictures = [load_image(record) for record in records]
        pixels = [predictor.transform(picture) for picture in pictures]
        asks = [self._expressions(record, predictor, "in captions" in asked) for record in records]
        rows = torch.zeros(len(records), len(SUMS) + 2, dtype=torch.float64)
        for i, record in enumerate(records):
            rows[i, -2] = sum(_reaches_out(expression.box, pictures[i].size) for expression in asks[i])
            asks[i] = [replace(e, box=_within(e, pictures[i].size, record.key)) for e in asks[i]]
            rows[i, -1] = splits.index(record.targets["split"]) if splits else -1
        of = [i for i, expressions in enumerate(asks) for _ in expressions]
        flat = [expression for expressions in asks for expression in expressions]
        if not flat:
            return rows
        for i, expression, maps in self._maps(predictor, asked, pixels, of, flat):
            size = (pictures[i].height, pictures[i].width)
            seen = seen_box(predictor.transform, pictures[i])
            boxes = detected(records[i])
            if boxes is None:
                boxes = [other.box for other in asks[i]]
            rows[i, : len(SUMS)] += torch.tensor(self._score(maps, expression, size, boxes, seen), dtype=torch.float64)
        return rows

    def _maps(
        self, predictor: Predictor, asked: Mapping[str, Asked], pixels: Sequence[Tensor], of: Sequence[int],
        expressions: Sequence[Expression],
    ) -> Iterator[tuple[int, Expression, TokenMaps]]:  # fmt: skip
        """Each expression with the number of its picture and its maps; first those in captions, then those alone."""
        for place, which in asked.items():
            own = [
                (i, expression) for i, expression in zip(of, expressions, strict=True)
                if (expression.tokens is not None) == (place == "in captions")
            ]  # fmt: skip
            if not own:
                continue
            texts = [expression.text for _, expression in own]
            hidden: list[Sequence[int]] = []
            if which.target == "mlm":
                hidden = [expression.tokens or self._words(expression.text, predictor) for _, expression in own]
            found = token_maps(predictor, which, pixels, [i for i, _ in own], texts, hidden=hidden)
            yield from ((i, expression, maps) for (i, expression), maps in zip(own, found, strict=True))

    def _words(self, text: str, predictor: Predictor) -> tuple[int, ...]:
        ids = predictor.tokenizer.encode(text, predictor.max_tokens)
        return tuple(place for _, places in words_of(ids, predictor.tokenizer) for place in places)

    def _expressions(self, record: Record, predictor: Predictor, by_words: bool) -> list[Expression]:
        out = []
        for name, box in named_boxes(record):
            place = self._in_caption(record, name, predictor) if by_words else None
            text, tokens = place or (self.prompt.replace("{}", name), None)
            if tokens is None and not words_of(predictor.encoder(text), predictor.tokenizer):
                raise UserError(f"{record.key}: the name {name!r} has no words")
            out.append(Expression(text, tokens, box))
        return out

    def _in_caption(self, record: Record, name: str, predictor: Predictor) -> tuple[str, tuple[int, ...]] | None:
        """(caption, tokens of the name) in the first caption that says it; None where none does, or says no more."""
        tokenizer = predictor.tokenizer
        for caption in record.captions:
            ids = tokenizer.encode(caption, predictor.max_tokens)
            tokens = phrase_in(ids, tokenizer.encode(name, predictor.max_tokens), tokenizer)
            if tokens is not None and len(tokens) < sum(len(group) for _, group in words_of(ids, tokenizer)):
                return caption, tokens
        return None

    def _score(
        self,
        found: TokenMaps,
        expression: Expression,
        size: tuple[int, int],
        boxes: Sequence[Box],
        seen: tuple[int, int, int, int] | None,
    ) -> list[float]:
        """One expression's values, in the order of ``SUMS``."""
        raw = found.sentence() if expression.tokens is None else found.maps[list(expression.tokens)].mean(0)
        heat = HeatMap(finite(raw, "heat maps"), size, seen)
        iou = overlap(region_box(heat.pixels, self.threshold), expression.box)
        fits = [overlap(box, expression.box) >= 0.5 for box in boxes]
        chosen = best_box(heat.spread(size), boxes)
        return [
            1.0,
            float(raw.max() > 0 and points_at(heat.peak, expression.box)),
            area(expression.box) / (size[0] * size[1]),
            iou,
            float(iou >= 0.5),
            float(chosen is not None and fits[chosen]),
            sum(fits) / max(1, len(fits)),
            float(expression.tokens is not None),
        ]


def named_boxes(record: Record) -> list[tuple[str, Box]]:
    """The (name, box) pairs in a record's targets; UserError where they are not as they should be."""
    boxes = record.targets.get("boxes")
    if boxes is None:
        has = ", ".join(record.targets) or "none"
        raise UserError(
            f'{record.key}: no "boxes"; grounding needs [{{"name": ..., "box": [left, top, right, bottom]}}, ...]. '
            f"The record's further keys: {has}"
        )
    if not isinstance(boxes, list | tuple):
        raise UserError(f'{record.key}: "boxes": {boxes!r}: must be a list of {{"name": ..., "box": [...]}}')
    out: list[tuple[str, Box]] = []
    for entry in boxes:
        try:
            name, box = str(entry["name"]), tuple(float(side) for side in entry["box"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{record.key}: box {entry!r}: needs a name and four numbers") from error
        if len(box) != 4 or not area(box):
            raise UserError(
                f"{record.key}: box {entry['box']!r} of {name!r}: not (left, top, right, bottom) with an area"
            )
        out.append((name, box))
    return out


def detected(record: Record) -> list[Box] | None:
    """The boxes in a record's targets to choose from; None where it has no such key, its own boxes are they then."""
    boxes = record.targets.get("detections")
    if boxes is None:
        return None
    try:
        found = [tuple(float(side) for side in box) for box in boxes]
    except (TypeError, ValueError) as error:
        raise UserError(f'{record.key}: "detections": {boxes!r}: must be a list of boxes of four numbers') from error
    for box in found:
        if len(box) != 4:
            raise UserError(f'{record.key}: "detections": box {list(box)}: not (left, top, right, bottom)')
    return list(found)


def _reaches_out(box: Box, size: tuple[int, int]) -> bool:
    """By more than a pixel, which is rounding. size: (width, height) of the picture."""
    return min(box[:2]) < -1 or box[2] > size[0] + 1 or box[3] > size[1] + 1


def _within(expression: Expression, size: tuple[int, int], key: str) -> Box:
    """The part of the box in the picture of (width, height); UserError where there is none."""
    left, top, right, bottom = expression.box
    clipped = (max(0.0, left), max(0.0, top), min(float(size[0]), right), min(float(size[1]), bottom))
    if not area(clipped):
        raise UserError(
            f"{key}: the box {list(expression.box)} of {expression.text!r} lies outside of its picture, which has "
            f"{size[0]} x {size[1]} pixels"
        )
    return clipped


def _tell_outside(counts: Tensor, source: Source) -> None:
    """counts: of each record, how many boxes were clipped."""
    if counts.sum() and rank() == 0:
        first = source[int(counts.nonzero()[0])].key
        log.warning(
            "%d boxes reach outside of their pictures, the first in %s; their parts inside were taken. A box is left, "
            "top, right, bottom in pixels of the picture as it is stored", int(counts.sum()), first,
        )  # fmt: skip


def _called(target: Target) -> str:
    return target if isinstance(target, str) else "target"


def _means(rows: Tensor) -> dict[str, float]:
    sums = rows[:, : len(SUMS)].sum(0)
    return {"n": float(sums[0])} | {
        name: float(value / sums[0].clamp(min=1)) for name, value in zip(SUMS[1:], sums[1:], strict=True)
    }
