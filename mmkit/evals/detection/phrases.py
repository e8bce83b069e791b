"""Which box is meant? Referring expressions, and phrases of captions, each asked of its own picture.

- ``referring`` (RefCOCO, Yu et al. 2016): the best box of an expression overlaps the one that is meant by at least a
  half. Where a record says the expression without its relation, ``bare``, it is asked for too, and must be at chance.
- ``any-box`` and ``merged-box`` (Flickr30k Entities, Plummer et al. 2015): a phrase of a caption is found at k if one
  of its best k boxes overlaps any of its own, or the one around all of its own, by at least a half. Phrases without a
  box are left out; a phrase of two types counts once in all, and in both types.

Overlap is continuous intersection over union of boxes whose right and bottom are outside, in pixels of the picture; not
REFER's, which counts pixels, nor the generalised one that MDETR's evaluation takes. Chance is one of the picture's
boxes at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mmkit.data.images.opening import load_image
from mmkit.data.images.transforms import look
from mmkit.data.records import Record, Source
from mmkit.data.texts.prompts import Prompter, Word
from mmkit.errors import UserError
from mmkit.evals.detection.asking import Question, Wanted, questions_of, rows_for
from mmkit.evals.detection.pictures import ious
from mmkit.evals.evaluator import Evaluator, counted
from mmkit.evals.intervals import drawn
from mmkit.evals.predictions import save_predictions
from mmkit.files import nested
from mmkit.heads.base import Locates
from mmkit.inference.detecting import Found, check_view, detector, in_pictures
from mmkit.inference.predictor import Predictor
from mmkit.types import Pixels

if TYPE_CHECKING:
    from rich.table import Table

PhraseRule = Literal["referring", "any-box", "merged-box"]
KS = (1, 5, 10)
ENOUGH = 0.5
TOLD = 10
"""So many boxes of a phrase ``predictions`` holds."""


@dataclass(frozen=True)
class Opened:
    """A record whose picture was read: as the model sees it, its own (width, height), and what is asked of it."""

    record: Record
    pixels: Pixels
    size: tuple[int, int]
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What came of one phrase. hits: by name, 0 or 1; chance: see the module, None where nothing tells it.

    groups: in which numbers it counts, "" for all. cut: whether the model could not read it. told: for people.
    """

    hits: Mapping[str, float]
    chance: float | None
    groups: Sequence[str]
    picture: str
    cut: bool
    told: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PhraseResult:
    """values: the shares by dotted name; n: pictures with a phrase; cut: phrases that were not read, and so missed."""

    rule: PhraseRule
    values: Mapping[str, float]
    n: int
    phrases: int
    cut: int
    left_out: int | None = None

    def metrics(self) -> dict[str, float]:
        """Referring: ``acc50``, its ``chance``, ``bare.acc50`` and by split; else ``r1``, ``r5``, ``r10``, ``r_all``
        (all boxes: what no order could better) and by type; ``n`` pictures, ``phrases``, ``cut``.
        """
        sizes = {"n": float(self.n), "phrases": float(self.phrases), "cut": float(self.cut)}
        return {**self.values, **sizes} | counted(self.left_out)

    def to_json(self) -> dict[str, Any]:
        """The same, nested, with the rule."""
        return {"rule": self.rule, **nested(self.metrics())}

    def table(self) -> Table:
        """A row for each number, times 100 as papers print them."""
        from rich.table import Table

        table = Table(title=f"{self.phrases} phrases in {self.n} pictures, {self.rule}")
        table.add_column("found")
        table.add_column("x 100", justify="right")
        for name, value in self.values.items():
            table.add_row(name, f"{100 * value:.1f}")
        return table


@dataclass(frozen=True, kw_only=True)
class Phrases(Evaluator):
    """Asks each picture of ``source`` for its own phrases and compares the best boxes with those that they name.

    rule: see the module. head: which; None = the only one that can be asked. rounds: of drawing the pictures anew, for
    the middle 95 % of each share; 0 = none. predictions: of each phrase the best boxes with their scores. UserError for
    a model that cannot be asked, and data without what the rule needs.
    """

    rule: PhraseRule = "referring"
    head: str | None = None
    rounds: int = 0

    def names(self) -> tuple[str, ...]:
        """Each kind of hit in all and by group, with its interval where pictures are drawn anew."""
        hits = ("acc50",) if self.rule == "referring" else (*(f"r{k}" for k in KS), "r_all")
        own = (*hits, *(f"{name}_{end}" for name in hits for end in ("low", "high") if self.rounds))
        return (*own, *(f"*.{name}" for name in own))

    def needs(self, predictor: Predictor) -> tuple[Locates, Source]:
        """The head and the source."""
        if self.rule not in get_args(PhraseRule):
            raise UserError(f"rule={self.rule!r} (--rule): there are {', '.join(get_args(PhraseRule))}")
        if self.rounds == 1 or self.rounds < 0:
            raise UserError(f"rounds={self.rounds} (--rounds): give at least two, or 0 for none")
        check_view(predictor.transform)
        head = detector(predictor.heads, self.head)
        if not isinstance(head, Locates):
            raise UserError(
                f"--rule {self.rule} asks each picture for its own phrases, and this model finds classes of its own: "
                "projects/grounding can be asked"
            )
        return head, self.opened()

    def evaluate(self, predictor: Predictor) -> PhraseResult:
        """UserError for a picture without what the rule needs, or that cannot be read."""
        head, source = self.needs(predictor)
        prompter = Prompter(predictor.tokenizer, head.prompt_tokens, predictor.max_tokens)

        def opened(row: int) -> Opened:
            record = source[row]
            picture = load_image(record)
            try:
                questions = questions_of(record, self.rule)
            except UserError as error:
                raise UserError(f"{record.key}: {error}") from error
            return Opened(record, look(predictor.transform, picture), picture.size, questions)

        def work(rows: Sequence[int], made: Sequence[Opened]) -> list[Judged]:
            return [one for part in self._judged(predictor, head, prompter, made) for one in part]

        passed = self.passed(self.parts(predictor, len(source), opened, work))
        each = [one for part in passed.found for one in part]
        if not each:
            raise UserError(f"--rule {self.rule}: no phrase of these data names a box, so there is nothing to measure")
        result = PhraseResult(
            rule=self.rule, values=shares(each, self.rounds), n=len({one.picture for one in each}),
            phrases=sum("" in one.groups for one in each),
            cut=sum(one.cut and "" in one.groups for one in each), left_out=passed.left_out,
        )  # fmt: skip
        save_predictions(self.predictions, lambda: [one.told for one in each])
        return result

    def _judged(
        self, predictor: Predictor, head: Locates, prompter: Prompter, made: Sequence[Opened]
    ) -> Iterator[list[Judged]]:
        """Of each question of each picture."""
        asked: list[tuple[Opened, Question, list[Word], list[int]]] = [
            (one, question, words, numbers)
            for one in made for question in one.questions
            for words, numbers in rows_for(question, prompter, head.sentences, head.prompt_phrases)
        ]  # fmt: skip
        found: dict[tuple[int, int], Found] = {}
        for start in range(0, len(asked), self.batch_size):
            part = asked[start : start + self.batch_size]
            samples = [predictor.sample(one.pixels, None, one.record) for one, *_ in part]
            prompt = prompter.joined([words for _, _, words, _ in part]).to(predictor.device)
            with predictor.inference():
                said = head.locate(predictor.features(samples), prompt)
            seen = in_pictures(said, (), predictor.transform, [one.size for one, *_ in part])
            for (_, question, _, numbers), own in zip(part, seen, strict=True):
                for place, number in enumerate(numbers):
                    found[id(question), number] = of_label(own, place)
        for one in made:
            for question in one.questions:
                yield [
                    judged(one.record, question, wanted, found.get((id(question), number)), self.rule)
                    for number, wanted in enumerate(question.phrases)
                ]


def of_label(found: Found, label: int) -> Found:
    """What was found for one phrase, best first."""
    rows = np.flatnonzero(found.labels == label)
    return Found(
        boxes=found.boxes[rows], scores=found.scores[rows], labels=found.labels[rows], size=found.size, classes=()
    )  # fmt: skip


def judged(record: Record, question: Question, wanted: Wanted, found: Found | None, rule: PhraseRule) -> Judged:
    """One phrase. found: None where the model could not read it."""
    boxes = np.empty((0, 4)) if found is None else found.boxes
    scores = np.empty(0) if found is None else found.scores
    right = hit(boxes, wanted.boxes)
    hits = (
        {"acc50": float(right[:1].any())} if rule == "referring"
        else {f"r{k}": float(right[:k].any()) for k in KS} | {"r_all": float(right.any())}
    )  # fmt: skip
    chance = float(hit(wanted.among, wanted.boxes).mean()) if len(wanted.among) > 1 else None
    told = {
        "record": record.key, "image": record.image_id, "text": question.text, "phrase": wanted.text,
        "boxes": wanted.boxes.tolist(), "found": boxes[:TOLD].round(3).tolist(),
        "scores": scores[:TOLD].round(6).tolist(), **hits,
    }  # fmt: skip
    return Judged(
        hits=hits, chance=chance, groups=wanted.groups, picture=record.image_id, cut=found is None, told=told
    )  # fmt: skip


def hit(boxes: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the boxes (N, 4) overlap any of the true ones by at least a half: (N,)."""
    right: NDArray[np.bool_] = np.any(ious(boxes, true) >= ENOUGH, axis=1)
    return right


def shares(each: Sequence[Judged], rounds: int = 0) -> dict[str, float]:
    """The mean of each kind of hit over all and over each group, with its interval and its chance."""
    values: dict[str, float] = {}
    for group in dict.fromkeys(name for one in each for name in one.groups):
        own = [one for one in each if group in one.groups]
        before = f"{group}." if group else ""
        for name in own[0].hits:
            hits = [one.hits[name] for one in own]
            values[f"{before}{name}"] = float(np.mean(hits))
            if rounds:
                low, high = drawn(hits, [one.picture for one in own], rounds)
                values |= {f"{before}{name}_low": low, f"{before}{name}_high": high}
        if chances := [one.chance for one in own if one.chance is not None]:
            values[f"{before}chance"] = float(np.mean(chances))
    return values
