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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from mmkit.data.boxes import box_area
from mmkit.data.images.opening import load_image
from mmkit.data.images.transforms import look
from mmkit.data.records import JsonLines, Record, Source
from mmkit.data.video.opening import reads_clips
from mmkit.errors import UserError
from mmkit.evals.boxes import Box, best_box, detected, named_boxes, points_at, refer_iou, region_box
from mmkit.evals.evaluator import Evaluator, counted
from mmkit.evals.intervals import clustered
from mmkit.evals.predictions import save_predictions
from mmkit.explanation.goals import Target, default_target, guesses_words
from mmkit.explanation.gradcam import Asked, TokenMaps, ask, token_maps
from mmkit.explanation.maps import HeatMap, seen_box
from mmkit.explanation.words import phrase_in, words_of
from mmkit.files import nested
from mmkit.inference.finite import finite
from mmkit.inference.predictor import Predictor
from mmkit.ranks import rank
from mmkit.types import Pixels

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)

RATES = ("pointing", "iou50", "choice")
"""What is right or wrong of each expression, and so has an interval."""


@dataclass(frozen=True)
class Expression:
    """What names a box, as the model reads it: a text, and the positions of its tokens that count (None = all).

    clipped: whether the box reached out of its picture, by more than a pixel, which is rounding.
    """

    text: str
    tokens: tuple[int, ...] | None
    box: Box
    clipped: bool = False


@dataclass(frozen=True)
class Opened:
    """A record whose picture was read. size: (width, height); pixels: see ``look``; seen: see ``HeatMap``."""

    record: Record
    size: tuple[int, int]
    pixels: Pixels
    seen: tuple[int, int, int, int] | None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What came of one expression. values: what is measured, by name; told: its row of ``predictions``."""

    values: Mapping[str, float]
    told: Mapping[str, Any]
    split: str | None
    clipped: bool


@dataclass(frozen=True, kw_only=True)
class GroundingResult:
    """rates: ``n``, and by name the means over the expressions; by_split: the same for each split.

    asked: (what was explained, the layer) for names in captions and alone. head: which was asked; None = the mean.
    """

    rates: Mapping[str, float]
    left_out: int | None = None
    by_split: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    asked: Mapping[str, tuple[str, int]]
    head: int | None

    def metrics(self) -> dict[str, float]:
        """``n``; ``pointing`` and its ``chance`` (the mean share of the picture that the box takes), both 0 to 1.

        ``iou`` of the map's region and the box, ``iou50``: the share with at least 0.5; ``choice``: how often the best
        candidate overlaps the box by at least 0.5, ``choice_chance``: a random candidate; ``in_caption``: the share of
        names that were read in their caption. ``pointing_low``, ``pointing_high``, ...: 95 % intervals of the three
        that are right or wrong, with the names in one picture as a group (``clustered``). The same under ``SPLIT.``
        where there are splits.
        """
        out = dict(self.rates) | counted(self.left_out)
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
        for name in ("", "n", "pointing", "95 % interval", "chance", "IoU", "IoU >= 0.5", "choice", "chance "):
            table.add_column(name, justify="right" if name else "left")
        for name, rates in {"all": self.rates, **self.by_split}.items():
            shares = ("chance", "iou", "iou50", "choice", "choice_chance")
            between = f"{rates['pointing_low']:.1%} to {rates['pointing_high']:.1%}"
            table.add_row(
                name, f"{rates['n']:.0f}", f"{rates['pointing']:.1%}", between, *(f"{rates[s]:.1%}" for s in shares)
            )
        return table


@dataclass(frozen=True, kw_only=True)
class Grounding(Evaluator):
    """Evaluates grounding over the records of ``source``.

    layer, head, target: see ``mmkit.explain``; target None = as the module says, "answer" is refused. A source's
    ``splits`` are reported one by one, by ``targets["split"]``. in_caption: whether names are looked for in the
    record's captions. prompt: what a name alone becomes; each {} is the name. threshold: of the region, as a share of
    the map's maximum. predictions: a file with, for each name, its strongest pixel, region and chosen box.
    """

    needs_words: ClassVar[bool] = True

    layer: int | None = None
    head: int | None = None
    target: Target | None = None
    in_caption: bool = True
    prompt: str = "{}"
    threshold: float = 0.25
    batch_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target == "answer":
            raise UserError('grounding: target="answer": a name is no question; use "mlm", "itm" or "itc"')
        if "{}" not in self.prompt or not 0 < self.threshold < 1:
            raise UserError(
                f"grounding: prompt={self.prompt!r} must hold {{}} for the name, and threshold={self.threshold} "
                "lie between 0 and 1"
            )

    def names(self) -> tuple[str, ...]:
        """What is measured, in all and of each split."""
        own = (*RATES, *(f"{name}_{end}" for name in RATES for end in ("low", "high")), "iou", "in_caption")
        return (*own, *(f"*.{name}" for name in own))

    def needs(self, predictor: Predictor) -> tuple[dict[str, Asked], Source]:
        """What the model is asked, and the source; UserError where there is nothing to explain, and for clips."""
        if reads_clips(predictor.transform):
            raise UserError(
                "grounding: this model reads clips, whose heat maps are of each frame, and boxes are of pictures; "
                "measure a model of pictures, or look at the frames: mmkit explain"
            )
        return self._asked(predictor), self.opened()

    def evaluate(self, predictor: Predictor) -> GroundingResult:
        """Every process calls this and gets the same result. UserError for records without boxes."""
        asked, source = self.needs(predictor)
        if isinstance(source, JsonLines):
            self._check(source, predictor, "in captions" in asked)

        def opened(row: int) -> Opened:
            record = source[row]
            picture, transform = load_image(record), predictor.transform
            return Opened(record, picture.size, look(transform, picture), seen_box(transform, picture))

        def work(rows: Sequence[int], made: Sequence[Opened]) -> list[Scored]:
            return self._scored(predictor, asked, made)

        with predictor.encoder.counting():
            passed = self.passed(self.parts(predictor, len(source), opened, work, "grounded pictures"))
        found = [one for part in passed.found for one in part]
        if not found:
            raise UserError('grounding: no record has "boxes" with at least one name and box')
        _tell_clipped([one.told["record"] for one in found if one.clipped])
        save_predictions(self.predictions, lambda: [one.told for one in found])
        told = {place: which.target if isinstance(which.target, str) else "target" for place, which in asked.items()}
        splits = {name: [one for one in found if one.split == name] for name in getattr(source, "splits", ())}
        return GroundingResult(
            rates=_means(found), by_split={name: _means(own) for name, own in splits.items() if own},
            asked={place: (told[place], which.layer) for place, which in asked.items()}, head=self.head,
            left_out=passed.left_out,
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

    def _scored(self, predictor: Predictor, asked: Mapping[str, Asked], opened: Sequence[Opened]) -> list[Scored]:
        """What was found for each expression, in the order of the records."""
        by_words = "in captions" in asked
        names = [[_within(e, one) for e in self._expressions(one.record, predictor, by_words)] for one in opened]
        flat = [(i, expression) for i, own in enumerate(names) for expression in own]
        found: dict[int, Scored] = {}
        for place, which in asked.items():
            own = {n: e for n, (_, e) in enumerate(flat) if (e.tokens is not None) == (place == "in captions")}
            if not own:
                continue
            hidden: list[Sequence[int]] = []
            if which.target == "mlm":
                hidden = [e.tokens or self._words(e.text, predictor) for e in own.values()]
            image_of, texts = [flat[n][0] for n in own], [e.text for e in own.values()]
            maps = token_maps(predictor, which, [one.pixels for one in opened], image_of, texts, hidden=hidden)
            for (n, expression), i, heat in zip(own.items(), image_of, maps, strict=True):
                boxes = detected(opened[i].record)
                if boxes is None:
                    boxes = [other.box for other in names[i]]
                found[n] = self._score(heat, expression, opened[i], boxes)
        return [found[n] for n in sorted(found)]

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

    def _score(self, found: TokenMaps, expression: Expression, opened: Opened, boxes: Sequence[Box]) -> Scored:
        size = (opened.size[1], opened.size[0])
        raw = found.sentence() if expression.tokens is None else found.maps[list(expression.tokens)].mean(0)
        heat = HeatMap(finite(raw, "heat maps"), size, opened.seen)
        region = region_box(heat.pixels, self.threshold)
        iou = refer_iou(region, expression.box)
        fits = [refer_iou(box, expression.box) >= 0.5 for box in boxes]
        chosen = best_box(heat.spread(size), boxes)
        values = {
            "pointing": float(raw.max() > 0 and points_at(heat.peak, expression.box)),
            "chance": box_area(expression.box) / (size[0] * size[1]), "iou": iou, "iou50": float(iou >= 0.5),
            "choice": float(chosen is not None and fits[chosen]), "choice_chance": sum(fits) / max(1, len(fits)),
            "in_caption": float(expression.tokens is not None),
        }  # fmt: skip
        told = {
            "record": opened.record.key, "image": opened.record.image_id, "text": expression.text,
            "in_caption": expression.tokens is not None, "box": list(expression.box), "peak": list(heat.peak),
            "region": list(region), "iou": iou, "chosen": None if chosen is None else list(boxes[chosen]),
        }  # fmt: skip
        split = opened.record.targets.get("split")
        return Scored(values=values, told=told, split=split, clipped=expression.clipped)


def _within(expression: Expression, opened: Opened) -> Expression:
    """The same with the part of its box that lies in the picture; UserError where there is none."""
    (wide, high), (left, top, right, bottom) = opened.size, expression.box
    box = (max(0.0, left), max(0.0, top), min(float(wide), right), min(float(high), bottom))
    if not box_area(box):
        raise UserError(
            f"{opened.record.key}: the box {list(expression.box)} of {expression.text!r} lies outside of its picture, "
            f"which has {wide} x {high} pixels"
        )
    return replace(expression, box=box, clipped=min(left, top) < -1 or right > wide + 1 or bottom > high + 1)


def _tell_clipped(records: Sequence[str]) -> None:
    """records: the key of each box that was clipped."""
    if records and rank() == 0:
        log.warning(
            "%d boxes reach outside of their pictures, the first in %s; their parts inside were taken. A box is left, "
            "top, right, bottom in pixels of the picture as it is stored", len(records), records[0],
        )  # fmt: skip


def _means(found: Sequence[Scored]) -> dict[str, float]:
    """``n``, the means, and the intervals of ``RATES``, for which the expressions of one picture are a group."""
    number: dict[str, int] = {}
    group = torch.tensor([number.setdefault(one.told["image"], len(number)) for one in found])
    out = {"n": float(len(found))}
    for name in found[0].values:
        values = torch.tensor([one.values[name] for one in found], dtype=torch.float64)
        out[name] = values.mean().item()
        if name in RATES:
            out[f"{name}_low"], out[f"{name}_high"] = clustered(values, group)
    return out
