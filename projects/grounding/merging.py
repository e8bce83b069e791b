"""From what each prompt found to the objects of a picture: the rules that prompts of several chunks need.

- A phrase scores what its tokens score on average, each by sigmoid: no softmax runs over the prompt, so that scores of
  different chunks compare as they are.
- ``one_answer``: a query of a chunk speaks of one object. Its phrases are all kept, as average precision wants it, or
  the best alone.
- ``without_doubles``: where two chunks found one object (their boxes overlap by more than ``DOUBLE``), the one with
  the higher score stays. Within a chunk nothing is suppressed: its queries have seen each other.
- A chunk finds at most as many objects as there are queries, its best by score; a picture as many as all chunks, cut at
  ``most``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmkit.nn.boxes import iou

DOUBLE = 0.7


class Answers(NamedTuple):
    """What is said of one picture: boxes (N, 4) as corners, scores, labels, and of which chunk each is: (N,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    chunk: Tensor

    def rows(self, index: Tensor) -> Answers:
        """Those."""
        return Answers(*(part[index] for part in self))


def phrase_scores(logits: Tensor, spells: Tensor) -> Tensor:
    """Logits of words (B, Q, L), which of them spell each phrase (B, F, L) bool -> the mean of sigmoids (B, Q, F)."""
    spells = spells.to(logits.dtype)
    with torch.autocast(logits.device.type, enabled=False):
        return logits.sigmoid() @ (spells / spells.sum(-1, keepdim=True).clamp(min=1)).mT


def without_doubles(found: Answers) -> Answers:
    """Best first, without those that overlap a better one of another chunk."""
    found = found.rows(found.scores.argsort(descending=True, stable=True))
    if not len(found.scores) or bool((found.chunk == found.chunk[0]).all()):
        return found
    double = (iou(found.boxes, found.boxes) > DOUBLE) & (found.chunk[:, None] != found.chunk)
    stays = torch.ones(len(found.scores), dtype=torch.bool, device=found.scores.device)
    for i in range(len(stays)):
        if stays[i]:
            stays[i + 1 :] &= ~double[i, i + 1 :]
    return found.rows(stays.nonzero()[:, 0])
