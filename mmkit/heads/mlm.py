"""Masked language modelling that sees the image, with soft targets (BERT, section 3.1; ALBEF, equations 3 and 7).

The vocabulary projection runs at hidden positions alone, for student and teacher. Its matrix is the word embedding,
of the student or of the teacher in turn, which stays with the model; here are the transform before it and the bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Head
from mmkit.losses import distilled_cross_entropy, hits, mean_or_zero
from mmkit.nn.vocabulary import VocabularyHead
from mmkit.types import HeadOutput, Log, ModelSpec


class MLM(Head, VocabularyHead):
    """The word that stood at each hidden position. ``tied=False``: with a vocabulary matrix of its own (ViLT)."""

    needs_words = True
    distilled = True
    needs_masking = True

    def __init__(self, spec: ModelSpec, tied: bool = True) -> None:
        if not spec.fuses:
            raise UserError("MLM reads fused states; this model has no fuse")
        super().__init__(spec.fused_width, spec.vocab_size)
        self.words = None if tied else nn.Parameter(torch.empty(spec.vocab_size, spec.fused_width).normal_(std=0.02))

    def logits(self, states_ND: Tensor, words_VD: Tensor) -> Tensor:
        """Fused states (N, D) -> (N, V), with the word embeddings of the model that made them."""
        return super().logits(states_ND, words_VD if self.words is None else self.words)

    def predict(self, f: Features) -> Tensor:
        """The logits (N, V) at the hidden positions of the batch's masked text."""
        return self.logits(f.masked, f.model.word_embeddings)

    def forward(self, f: Features) -> HeadOutput:
        """Count: the hidden positions; with none the loss is 0. Logs: the chance level ln V, and the accuracy."""
        labels_N, words_VD, alpha = f.masked_text.labels, f.model.word_embeddings, f.alpha
        states_ND, taught = f.masked, f.teacher if f.alpha else None
        twin, teacher_ND, theirs_VD = (
            (None, None, None) if taught is None else (f.twin(self), taught.masked, taught.model.word_embeddings)
        )

        def judge(states_ND: Tensor, labels_N: Tensor, teacher_ND: Tensor | None) -> tuple[Tensor, Tensor]:
            logits_NV = self.logits(states_ND, words_VD)
            teacher_NV = None if twin is None else twin.logits(teacher_ND, theirs_VD)
            return distilled_cross_entropy(logits_NV, labels_N, teacher_NV, alpha), hits(logits_NV, labels_N)

        loss_N, hits_N = f.chunked(judge, states_ND, labels_N, teacher_ND)
        logs: dict[str, Log] = {"chance": math.log(len(self.bias)), "accuracy": mean_or_zero(hits_N)}
        return HeadOutput(loss=mean_or_zero(loss_N), count=self.counts(f), logs=logs)

    def counts(self, f: Features) -> int:
        """The hidden positions."""
        return len(f.masked_text.labels)
