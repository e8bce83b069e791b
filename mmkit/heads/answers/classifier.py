"""Answers as classes: one score for each of a fixed list (ViLT, section 4.3; soft targets of Teney et al. 2017).

A perceptron on the fused [CLS] state, which ViLT pools first, and binary cross-entropy, as several answers to one
question can be right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.data.texts.answers.rules import class_numbers
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Candidates, Head
from mmkit.losses import masked_mean
from mmkit.nn.init import initialise
from mmkit.types import Fused, HeadOutput, Log, ModelSpec


class AnswerClassifier(Head):
    """Binary cross-entropy with ``batch.targets["answer_scores"]`` (B, C), summed over the C answers.

    answers: the list, in the order of the targets' columns, no two of them equal when normalised. pooler: a tanh layer
    before the perceptron (ViLT, as in BERT). With a teacher, its probabilities soften the targets.
    """

    needs_words = True
    distilled = True

    def __init__(self, spec: ModelSpec, answers: Sequence[str], pooler: bool = False) -> None:
        super().__init__()
        if not spec.fuses:
            raise UserError("AnswerClassifier reads fused states; this model has no fuse")
        if len(answers) < 2:
            raise UserError(f"AnswerClassifier: {len(answers)} answers; give at least two")
        class_numbers(answers)
        self.answers = tuple(answers)
        width = spec.fused_width
        self.pool = nn.Linear(width, width) if pooler else None
        self.dense = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.out = nn.Linear(2 * width, len(self.answers))
        initialise(self, width)

    def inherit(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The pooler of the matching head that was pre-trained, where both have one."""
        if self.pool is None:
            return {}
        found = {f"pool.{name}": f"heads.itm.pool.{name}" for name in self.pool.state_dict()}
        return {own: state[source] for own, source in found.items() if source in state}

    def logits(self, fused: Fused) -> Tensor:
        """The fused states, of which the text's first is read -> (B, C) float32."""
        cls_BD = fused.first if self.pool is None else self.pool(fused.first).tanh()
        return self.out(F.gelu(self.norm(self.dense(cls_BD)))).float()

    def forward(self, f: Features) -> HeadOutput:
        """Count: the questions with a known answer. Logs: the chance level C ln 2, and the mean score of the best."""
        scores_BC = f.target("answer_scores")
        if scores_BC.shape[1] != len(self.answers):
            raise UserError(
                f"the targets score {scores_BC.shape[1]} answers, and the classifier has {len(self.answers)}: give "
                "both the same list"
            )
        known_B = scores_BC.any(1)
        logits_BC = self.predict(f)
        soft_BC = scores_BC
        if f.teacher is not None and f.alpha:
            teacher_BC = f.twin(self).predict(f.teacher)
            soft_BC = (1 - f.alpha) * scores_BC + f.alpha * teacher_BC.sigmoid()
        loss_B = F.binary_cross_entropy_with_logits(logits_BC, soft_BC, reduction="none").sum(1)
        hits_B = scores_BC.gather(1, logits_BC.detach().argmax(1, keepdim=True))[:, 0]
        logs: dict[str, Log] = {"chance": len(self.answers) * log(2), "accuracy": masked_mean(hits_B, known_B)}
        return HeadOutput(loss=masked_mean(loss_B, known_B), count=self.counts(f), logs=logs)

    def counts(self, f: Features) -> Tensor:
        """The questions with a known answer."""
        return f.target("answer_scores").any(1).sum().float()

    def predict(self, f: Features) -> Tensor:
        """The logits (B, C) float32 of a batch."""
        return self.logits(f.fused_first)

    def rank(self, fused: Fused, candidates: Candidates, top: int = 1) -> tuple[Tensor, Tensor]:
        """The best of each question -> rows (B, top) int64 and probabilities (B, top), best first.

        Each probability stands alone: several answers can be right, and they do not sum to 1.
        """
        chosen_BC = self.logits(fused)[:, candidates.ids[:, 0].to(fused.text.x.device)]
        best = chosen_BC.sigmoid().topk(min(top, chosen_BC.shape[1]), dim=1)
        return best.indices, best.values
