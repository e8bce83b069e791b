"""Visual question answering: the official accuracy, in all and by type of answer (Goyal et al. 2017, VQA v2).

Works with every head that can ``rank`` a list of answers or ``generate`` one. Each picture is encoded once for the
questions about it that follow one another in a batch. Accuracy is measured by two rules: ours normalises both sides
(``accuracy_of``), the published program only the model's answer. Pictures are not held: records are read twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkit.data.records import Record, Source
from mmkit.data.texts.answers.rules import accuracy_of, check_coverage, given_answers, summary
from mmkit.errors import UserError
from mmkit.evals.common import finite, gather_by_index, gather_items, make_source, own_units, together
from mmkit.evals.intervals import wilson
from mmkit.evals.predictions import check_predictions, save_predictions
from mmkit.inference.answering import Answering
from mmkit.inference.predictor import Predictor

LOOKED_AT = 300
"""Of so many questions, evenly spread, it is looked up whether the list of answers has a right one."""
RULES = ("mmkit", "published")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is kept of a record. answers: the annotators'; empty in a test split."""

    key: str
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

    def metrics(self) -> dict[str, float]:
        """``accuracy``, ``n``, ``by_type.TYPE``, ``interval_low`` and ``interval_high`` (95 %, ``wilson``).

        ``published.accuracy``, ``published.by_type.TYPE``: by the published rule. Without answers ``n`` alone.
        """
        if self.scores is None:
            return {"n": len(self.asked)}
        ours, published = (summary(column, [one.kind for one in self.asked]) for column in self.scores.T.tolist())
        own = published if self.as_published else ours
        low, high = wilson(own["accuracy"] * own["n"], int(own["n"]))
        beside = {f"published.{name}": value for name, value in published.items() if name != "n"}
        return own | {"interval_low": low, "interval_high": high} | beside

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
class VQA:
    """Answers the questions of ``source``: records whose caption is the question, with ``answers`` among the targets.

    answers: the list to rank, or None for the one the model was trained with. generate: write freely instead.
    as_published: ``accuracy`` is that of the published program, not ours. predictions: a file for the answers; then the
    records may have none of the annotators', as in a test split.
    UserError where the model does not answer, or the list has a right answer to fewer than half of the questions.
    """

    source: partial[Any] | Source
    answers: Sequence[str] | None = None
    generate: bool = False
    batch_size: int = 128
    as_published: bool = False
    predictions: str | Path | None = None

    def check(self, predictor: Predictor) -> None:
        """UserError where this evaluation is sure to fail with this model; for before training. Reads few records."""
        check_predictions(self.predictions)
        self._answering(predictor, make_source(self.source))

    def _answering(self, predictor: Predictor, source: Source) -> Answering:
        answering = predictor.answering(self.answers, self.generate)
        first = source[0]
        if self.predictions is not None and not first.targets.get("answers"):
            return answering
        try:
            given_answers(first)
        except UserError as error:
            if first.targets.get("answers"):
                raise
            raise UserError(f"{error}. A test split without answers can be answered with --predictions FILE") from error
        if answering.answers:
            check_coverage(source, answering.answers, where="the list of answers to choose from", limit=LOOKED_AT)
        return answering

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        """The metrics by dotted name; the same on every process."""
        return self.evaluate(predictor).metrics()

    def evaluate(self, predictor: Predictor) -> VQAResult:
        """UserError where a picture cannot be read, or some questions have answers and others do not."""
        check_predictions(self.predictions)
        source = make_source(self.source)
        answering = self._answering(predictor, source)
        asked, questions = self._asked(source)
        order = sorted(range(len(asked)), key=lambda i: asked[i].image_id)
        known = bool(asked[0].answers)

        def share() -> tuple[Tensor, list[str], Tensor]:
            rows = [torch.empty(0, 2, dtype=torch.float64)]
            numbers: list[int] = []
            answers: list[str] = []
            for unit, items in own_units(len(order), self.batch_size):
                chosen = [order[i] for i in items]
                found = answers_to(predictor, [source[i] for i in chosen], answering)
                if known:
                    scores = [_scores(best, asked[i].answers) for best, i in zip(found, chosen, strict=True)]
                    rows.append(torch.tensor(scores, dtype=torch.float64))
                answers += [best[0] for best in found]
                numbers += chosen
                predictor.progress("questions", min(len(order), (unit + 1) * self.batch_size), len(order))
            return torch.cat(rows), answers, torch.tensor(numbers, dtype=torch.int64)

        with predictor.encoder.counting(questions, "question"):
            scores, answers, numbers = together(share)
        result = VQAResult(
            asked=asked, answers=gather_items(answers, numbers, len(asked)), as_published=self.as_published,
            scores=gather_by_index(scores, numbers, len(asked), predictor.device) if known else None,
        )  # fmt: skip
        save_predictions(self.predictions, result.rows)
        return result

    def _asked(self, source: Source) -> tuple[list[Asked], list[str]]:
        """What is kept of the records, and the questions; UserError where these cannot be measured or told apart."""
        found: list[Asked] = []
        questions: list[str] = []
        for row in range(len(source)):
            record = source[row]
            bare = self.predictions is not None and not record.targets.get("answers")
            answers = () if bare else tuple(given_answers(record))
            if found and bool(answers) != bool(found[0].answers):
                raise UserError(
                    f"{record.key}: has {'' if answers else 'no '}answers, unlike the questions before it; an accuracy "
                    "needs those of all. Measure one part at a time"
                )
            found.append(
                Asked(
                    key=record.key, image_id=record.image_id, question_id=record.targets.get("question_id", row),
                    kind=str(record.targets.get("answer_type", "other")), answers=answers,
                )
            )  # fmt: skip
            questions += record.captions
        if self.predictions is not None:
            _check_ids(found)
        return found, questions


def _check_ids(asked: Sequence[Asked]) -> None:
    """UserError for an id of two questions, of which a server would take one."""
    first: dict[str, str] = {}
    for one in asked:
        if first.setdefault(str(one.question_id), one.key) != one.key:
            raise UserError(
                f"{one.key}: question_id {one.question_id} is that of {first[str(one.question_id)]} too; --predictions "
                "needs one for each question"
            )


def _scores(best: Sequence[str], answers: Sequence[str]) -> list[float]:
    """By both rules; the mean where several answers are the best alike."""
    both = ([accuracy_of(answer, answers, as_published=rule) for answer in best] for rule in (False, True))
    return [sum(scores) / len(scores) for scores in both]


def answers_to(predictor: Predictor, records: Sequence[Record], answering: Answering) -> list[list[str]]:
    """The best answer to each question; several where they have the same score, and none is better.

    UserError for scores that are no numbers.
    """
    questions: list[str] = []
    for record in records:
        if len(record.captions) != 1:
            raise UserError(f"{record.key}: {len(record.captions)} questions; a record holds one, as its caption")
        questions += record.captions
    distinct = {record.image_id: record for record in records}
    row = {image_id: i for i, image_id in enumerate(distinct)}
    (image,) = predictor.image_tokens(list(distinct.values()), len(distinct))
    rows = torch.tensor([row[record.image_id] for record in records])
    fused = predictor.fuse(image, rows, questions, "question")
    with predictor.inference():
        answers, scores = answering.first(fused)
    finite(scores, "answers' scores")
    return answers
