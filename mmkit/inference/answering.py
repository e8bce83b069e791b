"""Between a head that answers and people: texts become the ids that it ranks, and what it found becomes texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmkit.data.collate import padded_texts
from mmkit.data.targets import answer_ids
from mmkit.data.texts.protocol import Tokenizer
from mmkit.errors import UserError
from mmkit.heads.base import Candidates, Leads, Writes
from mmkit.types import Fused


@dataclass(frozen=True, kw_only=True)
class Answering:
    """A head with what it chooses from. answers: the texts; candidates: the same as ids, None = written freely."""

    head: Any
    tokenizer: Tokenizer
    answers: tuple[str, ...] = ()
    candidates: Candidates | None = None

    def best(self, fused: Fused, top: int) -> list[list[tuple[str, float]]]:
        """At most ``top`` answers to each question, best first, each with its probability; of a written one, one."""
        if self.candidates is None:
            texts, sure = self._written(fused)
            return [[pair] for pair in zip(texts, sure.tolist(), strict=True)]
        numbers, values = self.head.rank(fused, self.candidates, top)
        return [
            [(self.answers[i], p) for i, p in zip(*row, strict=True)]
            for row in zip(numbers.tolist(), values.tolist(), strict=True)
        ]

    def first(self, fused: Fused) -> tuple[list[list[str]], Tensor]:
        """The best answer to each question, or several in the order of the list where their scores are the same.

        With the probabilities (B, n) that were looked at, which may be no numbers in a broken model.
        """
        if self.candidates is None:
            texts, sure = self._written(fused)
            return [[text] for text in texts], sure
        if isinstance(self.head, Leads):
            numbers, values = self.head.leading(fused, self.candidates)
        else:
            numbers, values = self.head.rank(fused, self.candidates, 2)
        if values.shape[1] > 1 and bool((values[:, 0] == values[:, 1]).any()):
            numbers, values = self.head.rank(fused, self.candidates, len(self.answers))
        alike = [
            [number for number, value in zip(*one, strict=True) if value == one[1][0]]
            for one in zip(numbers.tolist(), values.tolist(), strict=True)
        ]
        return [[self.answers[i] for i in sorted(best)] for best in alike], values

    def _written(self, fused: Fused) -> tuple[list[str], Tensor]:
        words, sep = self.tokenizer, self.tokenizer.sep_id
        ids, sure = self.head.generate(fused, words.cls_id, sep)
        return [words.decode([i for i in row if i != sep]) for row in ids.tolist()], sure


def candidates_of(head: Any, tokenizer: Tokenizer, answers: Sequence[str]) -> Candidates:
    """Texts as the ids that an answering head ranks.

    UserError for none, and for one that a head which knows answers by their numbers was not made for.
    """
    if not answers:
        raise UserError("no list of answers to rank: give one (see `mmkit data build-answers`), or generate")
    if isinstance(head, Writes):
        rows = [answer_ids(tokenizer, answer, head.max_tokens) for answer in answers]
    else:
        number = {answer: i for i, answer in enumerate(head.answers)}
        if unknown := [answer for answer in answers if answer not in number]:
            raise UserError(
                f"{len(unknown)} of {len(answers)} answers are not among the {len(number)} of this classifier, the "
                f"first: {unknown[0]!r}; a model with an answer decoder can rank any list"
            )
        rows = [[number[answer]] for answer in answers]
    return Candidates(*padded_texts(rows, tokenizer.pad_id))
