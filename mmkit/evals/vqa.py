"""Visual question answering: the official accuracy, in all and by type of answer (Goyal et al. 2017, VQA v2).

Works with every head that can ``rank`` a list of answers or ``generate`` one. Each picture is encoded once for the
questions about it that follow one another in a batch. Accuracy is measured by two rules: ours normalises both sides
(``accuracy_of``), the published program only the model's answer. Pictures are not held: records are read twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmkit.data.collate import Sample
from mmkit.data.records import Source
from mmkit.data.text_files import id_of
from mmkit.data.texts.answers.rules import accuracy_of, check_coverage, given_answers, summary
from mmkit.errors import UserError
from mmkit.evals.evaluator import Evaluator, counted, pixels_of
from mmkit.evals.intervals import wilson
from mmkit.evals.predictions import save_predictions
from mmkit.inference.answering import Answering
from mmkit.inference.finite import finite
from mmkit.inference.predictor import Predictor
from mmkit.types import Pixels

LOOKED_AT = 300
"""Of so many questions, evenly spread, it is looked up whether the list of answers has a right one."""
RULES = ("mmkit", "published")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is kept of a record. answers: the annotators'; empty in a test split."""

    key: str
    question: str
    image_id: str
    question_id: Any
    kind: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VQAResult:
    """asked: the questions; answers: the model's. scores: (n, 2) float64 by ``RULES``; None where none are known.

    as_published: which of both is called ``accuracy``.
    """

    asked: Sequence[Asked]
    answers: Sequence[str]
    scores: Tensor | None
    as_published: bool = False
    left_out: int | None = None

    def metrics(self) -> dict[str, float]:
        """``accuracy``, ``n``, ``by_type.TYPE``, ``interval_low`` and ``interval_high`` (95 %, ``wilson``).

        ``published.accuracy``, ``published.by_type.TYPE``: by the published rule. Without answers ``n`` alone.
        """
        if self.scores is None:
            return {"n": len(self.asked)} | counted(self.left_out)
        ours, published = (summary(column, [one.kind for one in self.asked]) for column in self.scores.T.tolist())
        own = published if self.as_published else ours
        low, high = wilson(own["accuracy"] * own["n"], int(own["n"]))
        beside = {f"published.{name}": value for name, value in published.items() if name != "n"}
        return own | {"interval_low": low, "interval_high": high} | beside | counted(self.left_out)

    def to_json(self) -> dict[str, Any]:
        """The same with ``rule``: by which of ``RULES`` the accuracy is."""
        return self.metrics() | ({} if self.scores is None else {"rule": RULES[self.as_published]})

    def rows(self) -> list[Mapping[str, Any]]:
        """``question_id`` and ``answer`` of each question, in order, as the server of the challenge takes them."""
        return [
            {"question_id": one.question_id, "answer": answer}
            for one, answer in zip(self.asked, self.answers, strict=True)
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VQA(Evaluator):
    """Answers the questions of ``source``: records whose caption is the question, with ``answers`` among the targets.

    answers: the list to rank, or None for the one the model was trained with. generate: write freely instead.
    as_published: ``accuracy`` is that of the published program, not ours. predictions: a file for the answers; then the
    records may have none of the annotators', as in a test split.
    UserError where the model does not answer, or the list has a right answer to fewer than half of the questions.
    """

    needs_words: ClassVar[bool] = True

    answers: Sequence[str] | None = None
    generate: bool = False
    batch_size: int = 128
    as_published: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bad is not None and self.predictions is not None:
            raise UserError("--max-bad (bad=) leaves questions out; a file of --predictions answers all of them")

    def names(self) -> tuple[str, ...]:
        """Of answered questions, by both rules."""
        rates = ("accuracy", "by_type.*")
        return (*rates, "interval_low", "interval_high", *(f"published.{name}" for name in rates))

    def needs(self, predictor: Predictor) -> tuple[Answering, Source]:
        """What answers, from which list, and the source. Reads few records."""
        source = self.opened()
        answering = predictor.answering(self.answers, self.generate)
        first = source[0]
        if self.predictions is not None and not first.targets.get("answers"):
            return answering, source
        try:
            given_answers(first)
        except UserError as error:
            if first.targets.get("answers"):
                raise
            raise UserError(f"{error}. A test split without answers can be answered with --predictions FILE") from error
        if answering.answers:
            check_coverage(source, answering.answers, where="the list of answers to choose from", limit=LOOKED_AT)
        return answering, source

    def evaluate(self, predictor: Predictor) -> VQAResult:
        """UserError where some questions have answers and others do not, and for a picture that cannot be read."""
        answering, source = self.needs(predictor)
        asked = self._asked(source)
        order = sorted(range(len(asked)), key=lambda i: asked[i].image_id)
        opens = pixels_of(predictor, source)

        def shows(place: int) -> int:
            """The first question of the batch about the same picture."""
            first = place
            while first % self.batch_size and asked[order[first - 1]].image_id == asked[order[place]].image_id:
                first -= 1
            return first

        def once(place: int) -> Pixels | None:
            return opens(order[place]) if shows(place) == place else None

        def work(places: Sequence[int], made: Sequence[Pixels | None]) -> list[list[str]]:
            pixels = {place: seen for place, seen in zip(places, made, strict=True) if seen is not None}
            chosen = [(asked[order[place]], pixels[shows(place)]) for place in places]
            samples = [predictor.sample(seen, one.question, one, "question") for one, seen in chosen]
            return answers_to(predictor, samples, answering)

        with predictor.encoder.counting([one.question for one in asked], "question"):
            found = self.passed(self.parts(predictor, len(order), once, work, "questions", shows))
        best = dict(zip((order[place] for place in found.rows), (b for part in found.found for b in part), strict=True))
        kept = sorted(best)
        scores = None
        if asked[0].answers:
            scores = torch.tensor([_scores(best[row], asked[row].answers) for row in kept], dtype=torch.float64)
        result = VQAResult(
            asked=[asked[row] for row in kept], answers=[best[row][0] for row in kept], scores=scores,
            as_published=self.as_published, left_out=found.left_out,
        )  # fmt: skip
        save_predictions(self.predictions, result.rows)
        return result

    def _asked(self, source: Source) -> list[Asked]:
        """What is kept of the records; UserError where these cannot be measured or told apart."""
        found: list[Asked] = []
        for row in range(len(source)):
            record = source[row]
            bare = self.predictions is not None and not record.targets.get("answers")
            answers = () if bare else tuple(given_answers(record))
            if found and bool(answers) != bool(found[0].answers):
                raise UserError(
                    f"{record.key}: has {'' if answers else 'no '}answers, unlike the questions before it; an accuracy "
                    "needs those of all. Measure one part at a time"
                )
            if len(record.captions) != 1:
                raise UserError(f"{record.key}: {len(record.captions)} questions; a record holds one, as its caption")
            found.append(
                Asked(
                    key=record.key, question=record.captions[0], image_id=record.image_id, answers=answers,
                    question_id=record.targets.get("question_id", row),
                    kind=str(record.targets.get("answer_type", "other")),
                )
            )  # fmt: skip
        if self.predictions is not None:
            _check_ids(found)
        return found


def _check_ids(asked: Sequence[Asked]) -> None:
    """UserError for an id of two questions, of which a server would take one."""
    first: dict[str, str] = {}
    for one in asked:
        try:
            number = str(id_of(one.question_id))
        except ValueError as error:
            raise UserError(f"{one.key}: question_id {error}") from error
        if first.setdefault(number, one.key) != one.key:
            raise UserError(
                f"{one.key}: question_id {one.question_id} is that of {first[number]} too; --predictions needs one for "
                "each question"
            )


def _scores(best: Sequence[str], answers: Sequence[str]) -> list[float]:
    """By both rules; the mean where several answers are the best alike."""
    both = ([accuracy_of(answer, answers, as_published=rule) for answer in best] for rule in (False, True))
    return [sum(scores) / len(scores) for scores in both]


def answers_to(predictor: Predictor, samples: Sequence[Sample], answering: Answering) -> list[list[str]]:
    """The best answer to each question; several where they have the same score, and none is better.

    UserError for scores that are no numbers.
    """
    with predictor.inference():
        answers, scores = answering.first(predictor.features(samples).fused)
    finite(scores, "answers' scores")
    return answers
