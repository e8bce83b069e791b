"""A batch of the shapes that a run has, without data: full texts, pictures of one size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from mmkit.config import Experiment
from mmkit.config.override import arguments_of
from mmkit.data.images.size import height_width
from mmkit.data.video.samplers import Sampler
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.base import Sorter
from mmkit.train.needs.invented import invented_targets
from mmkit.types import Batch, MaskedText

HIDDEN = 0.15
"""Of the words, where ``data.masking`` does not say."""


def make_batch(
    exp: Experiment, heads: Mapping[str, Any], size: int, words: bool, vocab_size: int | None = None
) -> Batch:  # fmt: skip
    """``size`` samples with texts of ``data.max_tokens``; targets for mmkit's own heads, and boxes, phrases and prompts
    of the form that the run's encoder gives them. vocab_size: where the tokenizer says more than that of the model.
    """
    shape: tuple[int, ...] = height_width(exp.data.image_size)
    if (sampler := sampler_of(exp)) is not None:
        shape = (sampler.frames, *shape)
    numbers = torch.arange(size)
    length = exp.data.max_tokens
    ids = torch.full((size, length), 5)
    targets = invented_targets(exp, size, vocab_size)
    for head in heads.values():
        targets |= _targets(head, size)
    return Batch(
        pixels=torch.zeros(size, 3, *shape), image_id=numbers, targets=targets,
        ids=ids if words else None, mask=torch.ones(size, length, dtype=torch.bool) if words else None,
        caption_id=numbers if words else None, masked=_masked(exp, ids) if words and exp.data.masking else None,
    )  # fmt: skip


def sampler_of(exp: Experiment) -> Sampler | None:
    """Which frames a run on clips reads; None for one on pictures."""
    found = {} if exp.data.transform is None else arguments_of(exp.data.transform)
    sampler: Sampler | None = found.get("sampler")
    return sampler


def _masked(exp: Experiment, ids: torch.Tensor) -> MaskedText:
    share = arguments_of(exp.data.masking).get("probability", HIDDEN) if exp.data.masking else HIDDEN
    size, length = ids.shape
    most = max(1, math.ceil(share * length))
    return MaskedText(
        ids=ids, positions=torch.zeros(size, most, dtype=torch.int64), index=torch.arange(size * most),
        labels=torch.zeros(size * most, dtype=torch.int64),
    )  # fmt: skip


def _targets(head: Any, size: int) -> dict[str, Any]:
    """What a head learns from beside picture and text; nothing for one that is not known."""
    if isinstance(head, Sorter):
        return {head.label: torch.zeros(size, dtype=torch.int64)}
    if isinstance(head, AnswerClassifier):
        return {"answer_scores": torch.zeros(size, len(head.answers))}
    if isinstance(head, AnswerDecoder):
        length = head.max_tokens - 1  # one answer a question
        return {
            "answer_ids": torch.full((size, length), 5), "answer_of": torch.arange(size),
            "answer_weight": torch.ones(size), "answer_index": torch.arange(size * length),
            "answer_labels": torch.zeros(size * length, dtype=torch.int64),
        }  # fmt: skip
    return {}
