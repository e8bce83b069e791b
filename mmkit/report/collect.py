"""Examples of what a model does: the nearest captions of some pictures, the nearest pictures of some captions.

Works on one process alone; nothing here waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image
from torch import Tensor

from mmkit.data.boxes import boxes_in
from mmkit.data.objects import object_names as own_names_of
from mmkit.data.records import Source
from mmkit.data.show.boxes import Framed, framed
from mmkit.data.video.strip import shown as picture_of
from mmkit.evals.pairs import Pairs
from mmkit.evals.zeroshot import ZeroShotResult
from mmkit.explanation.objects import LEAST, drawn
from mmkit.inference.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One candidate. similarity: cosine; probability: of the matching head, where it was asked; right: relevant."""

    text: str
    image: Image.Image | None
    similarity: float
    probability: float | None
    right: bool


@dataclass(frozen=True, kw_only=True)
class Query:
    """A picture (with its own first caption) or a text, and its best answers. place: of the first right one, from 1."""

    text: str
    image: Image.Image | None
    place: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """images, texts: among how many the best were sought. rerank_top: how many the matching head re-ordered."""

    images: int
    texts: int
    rerank_top: int | None
    by_picture: tuple[Query, ...]
    by_text: tuple[Query, ...]


@dataclass(frozen=True, kw_only=True)
class Classified:
    """A picture, its class, and the classes it was taken for, best first."""

    image: Image.Image
    label: str
    best: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the first is its class."""
        return self.best[0] == self.label


@dataclass(frozen=True, kw_only=True)
class Boxed:
    """A picture with what was found in it, and with what is there; the names of both."""

    found: Image.Image
    there: Image.Image
    said: str


def collect_objects(
    predictor: Predictor, source: Source, *, shown: int = 12, threshold: float = 0.3, seed: int = 0
) -> list[Boxed]:
    """Pictures at random with the objects whose score is at least ``threshold``, beside those that their records say.

    UserError where the model finds no objects, or a record has no "boxes".
    """
    rows = sorted(Random(seed).sample(range(len(source)), min(shown, len(source))))
    records = [source[row] for row in rows]
    names = own_names_of(source)
    out: list[Boxed] = []
    for record, found in zip(records, predictor.detect(records), strict=True):
        picture, best = picture_of(record), found.above(threshold)
        boxes = boxes_in(record.targets)
        labels = [names[label] if isinstance(label, int) and names else str(label) for label in boxes.labels]
        classes = list(found.classes)
        there = [
            Framed(box, label, classes.index(label) if label in classes else 0, bool(crowd))
            for box, label, crowd in zip(boxes.sides.tolist(), labels, boxes.crowd.tolist(), strict=True)
        ]
        times = max(1, -(-LEAST // max(picture.size)))
        large = picture.resize((picture.width * times, picture.height * times))
        said = ", ".join(f"{name} {score:.2f}" for name, score in zip(best.names, best.scores, strict=True))
        out.append(Boxed(found=drawn(picture, best), there=framed(large, there, times), said=said or "nothing"))
    return out


def collect_examples(
    predictor: Predictor, source: Source, *, shown: int = 6, top: int = 5, pool: int = 500,
    rerank_top: int | None = 16, seed: int = 0,
) -> Examples:  # fmt: skip
    """The ``top`` best captions of ``shown`` pictures, and the other way, among the first ``pool`` records.

    Where the model can match, the best ``rerank_top`` are re-ordered by that; None = none are. ``seed`` decides which
    are shown.
    """
    records = [source[row] for row in range(min(pool, len(source)))]
    pairs = Pairs.read(records)
    relevance = pairs.relevance()
    records = [records[row] for row in pairs.rows]
    scores = predictor.encode_image(records) @ predictor.encode_text(pairs.texts).T
    judged = rerank_top or 0 if predictor.can_match() else 0
    rng = Random(seed)

    def match(images: Sequence[int], texts: Sequence[int]) -> Tensor:
        return predictor.match([records[i] for i in images], [pairs.texts[t] for t in texts])

    def by_picture(i: int) -> Query:
        relevant = relevance["i2t"].mask(range(i, i + 1))[0]
        place, found = _best(scores[i], relevant, lambda texts: match([i] * len(texts), texts), top, judged)
        answers = tuple(Answer(text=pairs.texts[t], image=None, **numbers) for t, numbers in found)
        return Query(text=records[i].captions[0], image=picture_of(records[i]), place=place, answers=answers)

    def by_text(t: int) -> Query:
        relevant = relevance["t2i"].mask(range(t, t + 1))[0]
        place, found = _best(scores[:, t], relevant, lambda images: match(images, [t] * len(images)), top, judged)
        answers = tuple(
            Answer(text=records[i].captions[0], image=picture_of(records[i]), **numbers) for i, numbers in found
        )
        return Query(text=pairs.texts[t], image=None, place=place, answers=answers)

    return Examples(
        images=len(records), texts=len(pairs.texts), rerank_top=judged or None,
        by_picture=tuple(by_picture(i) for i in sorted(rng.sample(range(len(records)), min(shown, len(records))))),
        by_text=tuple(by_text(t) for t in sorted(rng.sample(range(len(pairs.texts)), min(shown, len(pairs.texts))))),
    )  # fmt: skip


def collect_classified(source: Source, result: ZeroShotResult, *, shown: int = 12, seed: int = 0) -> list[Classified]:
    """Pictures at random, so that right and wrong stand in their true proportion."""
    names = result.class_names
    if result.labels is None:
        return []
    rows = sorted(Random(seed).sample(range(len(result.labels)), min(shown, len(result.labels))))
    return [
        Classified(
            image=picture_of(source[result.rows[row]]), label=names[int(result.labels[row])],
            best=tuple(names[c] for c in result.top[row, :3].tolist()),
        )
        for row in rows
    ]  # fmt: skip


def _best(
    scores: Tensor, relevant: Tensor, judge: Callable[[list[int]], Tensor], top: int, rerank_top: int
) -> tuple[int, list[tuple[int, dict[str, Any]]]]:
    """The place of the first relevant candidate from 1, and the ``top`` best, each with its numbers for ``Answer``."""
    order: list[int] = scores.argsort(descending=True, stable=True).tolist()
    chances: dict[int, float] = {}
    if rerank_top:
        first = order[:rerank_top]
        chances = dict(zip(first, judge(first).tolist(), strict=True))
        order[:rerank_top] = sorted(first, key=lambda row: -chances[row])
    place = next(i for i, row in enumerate(order, start=1) if relevant[row])
    return place, [
        (row, {"similarity": float(scores[row]), "probability": chances.get(row), "right": bool(relevant[row])})
        for row in order[:top]
    ]
