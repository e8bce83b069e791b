"""Visual question answering: the official accuracy, in all and by type of answer (Goyal et al. 2017, VQA v2).

Works with every head that can ``rank`` a list of answers or ``generate`` one. Each picture is encoded once for the
questions about it that follow one another in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmkit.data.answers import accuracy_of, check_coverage, given_answers, summary
from mmkit.data.records import Record, Source
from mmkit.errors import UserError
from mmkit.evals.common import gather_by_index, make_source, own_units, together
from mmkit.predictor import Predictor

LOOKED_AT = 300
"""Of so many questions, evenly spread, it is looked up whether the list of answers has a right one."""


@dataclass(frozen=True, kw_only=True)
class VQA:
    """Answers the questions of ``source``: records whose caption is the question, with ``answers`` among the targets.

    answers: the list to rank, or None for the one the model was trained with. generate: write freely instead.
    UserError where the model does not answer, or the list has a right answer to fewer than half of the questions.
    """

    source: partial[Any] | Source
    answers: Sequence[str] | None = None
    generate: bool = False
    batch_size: int = 128

    def check(self, predictor: Predictor) -> None:
        """UserError where this evaluation is sure to fail with this model; for before training. Reads few records."""
        self._candidates(predictor, make_source(self.source))

    def _candidates(self, predictor: Predictor, source: Source) -> Any:
        predictor.answerer(self.generate)
        candidates = predictor.candidates(self.answers, self.generate)
        if candidates is None:
            given_answers(source[0])
        else:
            check_coverage(source, candidates.answers, where="the list of answers to choose from", limit=LOOKED_AT)
        return candidates

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        """accuracy, n and ``by_type.TYPE``; the same on every process."""
        source = make_source(self.source)
        head, candidates = predictor.answerer(self.generate), self._candidates(predictor, source)
        records = [source[i] for i in range(len(source))]
        order = sorted(range(len(records)), key=lambda i: records[i].image_id)
        types = sorted({_type(record) for record in records})

        def share() -> tuple[Tensor, Tensor]:
            rows = [torch.empty(0, 2, dtype=torch.float64)]
            numbers: list[int] = []
            for unit, items in own_units(len(order), self.batch_size):
                chosen = [records[order[i]] for i in items]
                found = answers_to(predictor, chosen, head, candidates)
                rows.append(torch.tensor([
                    [accuracy_of(answer, given_answers(record)), types.index(_type(record))]
                    for answer, record in zip(found, chosen, strict=True)
                ], dtype=torch.float64))  # fmt: skip
                numbers += [order[i] for i in items]
                predictor.progress("questions", min(len(order), (unit + 1) * self.batch_size), len(order))
            return torch.cat(rows), torch.tensor(numbers, dtype=torch.int64)

        questions = [text for record in records for text in record.captions]
        with predictor.encoder.counting(questions, "question"):
            found = together(share)
        scores = gather_by_index(*found, len(records), predictor.device)
        return summary(scores[:, 0].tolist(), [types[int(i)] for i in scores[:, 1]])


def answers_to(predictor: Predictor, records: Sequence[Record], head: Any, candidates: Any) -> list[str]:
    """The best answer to each question, of the candidates or, where they are None, written freely."""
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
        if candidates is None:
            written: list[str] = head.generate(fused, predictor.tokenizer)[0]
            return written
        return [candidates.answers[i] for i in head.rank(fused, candidates, 1)[0][:, 0].tolist()]


def _type(record: Record) -> str:
    return str(record.targets.get("answer_type", "other"))
