"""Answers written word by word (ALBEF, section 5.2, visual question answering).

A decoder reads the fused states of question and picture. It learns from all answers that annotators gave, each by its
weight; it answers by ranking a list of candidates, or freely. Its start is the pre-trained fusion stack (``inherit``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import Tensor

from mmkit.encoders.decoder import TextDecoder
from mmkit.encoders.decoding import Decoding, write
from mmkit.encoders.text import ImageContext
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Candidates, EachSample
from mmkit.heads.writing import DecoderWriter, from_fusion
from mmkit.losses import distilled_cross_entropy, hits, mean_or_zero
from mmkit.nn.vocabulary import VocabularyHead
from mmkit.types import Fused, HeadOutput, Log, ModelSpec

AT_ONCE = 32
"""Candidates of each question that are read together."""
FEW = 8
"""Those that are read before the others, where one of them may leave no other a chance."""
ROUNDING = 1e-3
"""By so much two passes may differ in the logarithm of a probability."""


class AnswerDecoder(EachSample):
    """Cross-entropy of each answer's tokens, summed, times its weight; over the number of questions.

    Args:
        spec: of the model; it needs ``fuse``.
        answers: the list that ``rank`` takes where it is given none.
        depth, heads, mlp_width: of the decoder, whose width is that of the fused states.
        max_tokens: of an answer with [CLS] and [SEP].
        first_token_twice: score candidates as the official code does, log p(first token) + log p(answer).
        top: how many candidates, those with the likeliest first tokens, are read whole; more where more are asked for.
    """

    needs_words = True
    distilled = True

    def __init__(
        self, spec: ModelSpec, answers: Sequence[str] = (), *, depth: int = 6, heads: int = 12,
        mlp_width: int | None = None, max_tokens: int = 16, dropout: float = 0.1, types: int = 2,
        first_token_twice: bool = False, top: int = 128,
    ) -> None:  # fmt: skip
        super().__init__()
        if not spec.fuses:
            raise UserError("AnswerDecoder reads fused states; this model has no fuse")
        self.answers = tuple(answers)
        self.max_tokens = max_tokens
        self.first_token_twice = first_token_twice
        self.top = top
        self.decoder = TextDecoder(
            spec.vocab_size, max_tokens, depth=depth, width=spec.fused_width, heads=heads,
            source_width=spec.fused_width, mlp_width=mlp_width, dropout=dropout, types=types,
        )  # fmt: skip
        self.vocabulary = VocabularyHead(spec.fused_width, spec.vocab_size)

    def inherit(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The decoder of a pre-trained model's fusion layers, word embeddings and MLM head, as far as they fit."""
        return from_fusion(self, state)

    # ---- training ----------------------------------------------------------------------------------------------

    def token_logits(self, fused: Fused, ids_AL: Tensor, of_A: Tensor, index_N: Tensor) -> Tensor:
        """Decoder inputs (A, L), the row of ``fused`` of each, and places in (A x L) -> logits (N, V)."""
        states_ALD = self.decoder(ids_AL, self.decoder.context(fused.together()).rows(of_A))
        return self.vocabulary.logits(states_ALD.flatten(0, 1)[index_N], self.decoder.word_embeddings)

    def forward(self, f: Features) -> HeadOutput:
        """Count: the questions. Logs: the chance level, ln V for each token, and the share of tokens it got right."""
        ids_AL, of_A, weight_A, index_N, labels_N = (
            f.target(f"answer_{name}") for name in ("ids", "of", "weight", "index", "labels")
        )
        logits_NV = self.token_logits(f.fused, ids_AL, of_A, index_N)
        teacher_NV = None
        if f.teacher is not None and f.alpha:
            teacher_NV = f.twin(self).token_logits(f.teacher.fused, ids_AL, of_A, index_N)
        weight_N = weight_A[index_N // ids_AL.shape[1]]
        loss_N = distilled_cross_entropy(logits_NV, labels_N, teacher_NV, f.alpha)
        size = self.counts(f)
        chance = log(logits_NV.shape[-1]) * weight_N.sum() / size
        logs: dict[str, Log] = {"chance": chance, "accuracy": (mean_or_zero(hits(logits_NV, labels_N)), len(labels_N))}
        return HeadOutput(loss=(loss_N * weight_N).sum() / size, count=size, logs=logs)

    # ---- answering ---------------------------------------------------------------------------------------------

    def rank(self, fused: Fused, candidates: Candidates, top: int = 1) -> tuple[Tensor, Tensor]:
        """The best candidates of each question -> rows (B, top) int64 and probabilities (B, top), best first.

        Probabilities are over the candidates that were read whole.
        """
        chosen_BK, score_BK = self._scored(fused, candidates, max(self.top, top))
        best = score_BK.softmax(1).topk(min(top, score_BK.shape[1]), dim=1)
        return chosen_BK.gather(1, best.indices), best.values

    def leading(self, fused: Fused, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The best candidate of each question, and a second, which scores as much where any other does: as ``rank``.

        Candidates that cannot score as much, by their first token alone, are not read: the probabilities are larger
        than those of ``rank``, and it takes a fraction of the time.
        """
        chosen_BK, score_BK = self._scored(fused, candidates, max(self.top, 2), all_of_them=False)
        best = score_BK.softmax(1).topk(min(2, score_BK.shape[1]), dim=1)
        return chosen_BK.gather(1, best.indices), best.values

    def _scored(
        self, fused: Fused, candidates: Candidates, most: int, all_of_them: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The candidates with the likeliest first tokens, (B, K) int64, and their scores (B, K), -inf where unread."""
        context = self.decoder.context(fused.together())
        size, device = len(fused.text.x), fused.text.x.device
        ids_CL, real_CL = candidates.ids.to(device), candidates.mask[:, 1:].to(device)
        start_BD = self.decoder(ids_CL[:1, :1].expand(size, 1), context)[:, 0]
        first_BV = self.vocabulary.logits(start_BD, self.decoder.word_embeddings).float().log_softmax(-1)
        first_BC = first_BV[:, ids_CL[:, 1]]
        first_BK, chosen_BK = first_BC.topk(min(most, len(ids_CL)), dim=1)
        scores: list[Tensor] = []
        parts = (at_once(x_BK, all_of_them) for x_BK in (chosen_BK, first_BK))
        for chosen_BS, first_BS in zip(*parts, strict=True):
            read, rows = context, slice(None)
            if scores and not all_of_them:
                most_B = first_BS[:, 0] * (1 + self.first_token_twice) + ROUNDING  # the first token's is the most
                rows = (most_B >= torch.cat(scores, 1).amax(1)).nonzero()[:, 0]
                if not len(rows):
                    break
                read = context.rows(rows)
            part_RS = chosen_BS[rows]
            score_BS = torch.full_like(first_BS, -torch.inf)
            score_BS[rows] = self._log_probability(read, ids_CL[part_RS], real_CL[part_RS])
            scores.append(score_BS + first_BS if self.first_token_twice else score_BS)
        score_BK = torch.cat(scores, dim=1)
        return chosen_BK[:, : score_BK.shape[1]], score_BK

    def _log_probability(self, context: ImageContext, ids_BKL: Tensor, real_BKL: Tensor) -> Tensor:
        """Of K whole answers of each question: (B, K) float32."""
        size, k = ids_BKL.shape[:2]
        ids_NL, real_NL = (part.transpose(0, 1).flatten(0, 1) for part in (ids_BKL, real_BKL))
        states_NLD = self.decoder(ids_NL[:, :-1], context.repeated(k))
        logits = self.vocabulary.logits(states_NLD[real_NL], self.decoder.word_embeddings).float()
        found = logits.log_softmax(-1).gather(1, ids_NL[:, 1:][real_NL][:, None])[:, 0]
        total_NL = torch.zeros(real_NL.shape, device=found.device).masked_scatter_(real_NL, found)
        return total_NL.sum(1).view(k, size).T

    def generate(self, fused: Fused, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The likeliest word again and again, from ``first`` ([CLS]) to ``last`` ([SEP]), which fills rows up.

        Returns ids (B, L) int64 without ``first``, and probabilities (B,) float32.
        """
        first_B = torch.full((len(fused.text.x),), first, device=fused.text.x.device)
        writer = DecoderWriter(self.decoder, self.decoder.context(fused.together()), self.vocabulary.logits)
        ids_BL, log_B = write(writer, first_B[:, None], last, Decoding(max_new_tokens=self.max_tokens - 1))
        return ids_BL, log_B.exp()


def at_once(x_BK: Tensor, all_of_them: bool) -> Sequence[Tensor]:
    """The columns that are read together, in order; without all of them, few come first."""
    few = 0 if all_of_them else min(FEW, x_BK.shape[1])
    return [*([x_BK[:, :few]] if few else []), *(x_BK[:, few:].split(AT_ONCE, dim=1) if few < x_BK.shape[1] else [])]
