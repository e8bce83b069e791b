"""A detector of phrases: one prompt after the other is asked, and what all of them found becomes one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mmkit.features import Features
from mmkit.heads.base import Detections
from mmkit.prompt import Prompt
from projects.grounding.merging import Answers, without_doubles


class Said(NamedTuple):
    """What one prompt found in one picture: boxes (N, 4) as corners in pixels of the view, scores (N,), and which of
    the prompt's phrases each is, (N,) int64 from 0.
    """

    boxes: Tensor
    scores: Tensor
    phrases: Tensor


class Answering(Protocol):
    """A head that can be asked; a picture has at most ``most`` objects."""

    most: int

    def find(self, f: Features, prompt: Prompt) -> Any:
        """What ``said`` reads."""

    def said(self, f: Features, prompt: Prompt, spells: Tensor, seen: Any = None) -> Sequence[Said]:
        """Of each picture. prompt: one row for all, or one each. spells: (1 or B, F, L) bool, which tokens spell each
        phrase. seen: what ``find`` gives of them, where it is there already.
        """


class Asked:
    """A detector of the phrases ``classes``, by one prompt after the other; the label is the phrase that was asked."""

    def __init__(
        self, head: Answering, prompts: Sequence[Prompt], classes: Sequence[str], ids: Sequence[int] = ()
    ) -> None:
        self.head, self.prompts, self.classes = head, tuple(prompts), tuple(classes)
        self.ids = tuple(ids) or tuple(range(1, len(self.classes) + 1))

    @torch.no_grad()
    def predict(self, f: Features) -> Detections:
        """The best of each picture, best first; see ``merging`` for the rules."""
        parts: list[list[Answers]] = [[] for _ in range(len(f.batch))]
        for chunk, prompt in enumerate(self.prompts):
            prompt = prompt.to(f.batch.pixels.device)
            own = prompt.phrase[prompt.phrase >= 0]
            first = int(own.min())
            spells = prompt.spells(int(own.max()) + 1 - first, first)
            for answers, (boxes, scores, phrases) in zip(parts, self.head.said(f, prompt, spells), strict=True):
                answers.append(Answers(boxes, scores, phrases + first, torch.full_like(phrases, chunk)))
        each = [self._of_picture(answers) for answers in parts]
        of = torch.cat([torch.full_like(one.labels, row) for row, one in enumerate(each)])
        boxes, scores, labels, _ = (torch.cat(part) for part in zip(*each, strict=True))
        return Detections(boxes, scores, labels, of)

    def _of_picture(self, answers: Sequence[Answers]) -> Answers:
        found = without_doubles(Answers(*(torch.cat(part) for part in zip(*answers, strict=True))))
        return found.rows(torch.arange(min(len(found.scores), self.head.most), device=found.scores.device))


@torch.no_grad()
def located(head: Answering, f: Features, prompt: Prompt) -> Detections:
    """The boxes of each phrase of each picture's own row, best first; each phrase has its best ``most``."""
    counts = (prompt.phrase.amax(1) + 1).tolist()
    parts: list[list[Said]] = [[] for _ in counts]
    seen = head.find(f, prompt)
    for number in range(max(counts)):
        for row, (boxes, scores, _) in enumerate(head.said(f, prompt, prompt.spells(1, number), seen)):
            if number < counts[row]:
                parts[row].append(Said(boxes, scores, torch.full_like(scores, number, dtype=torch.int64)))
    each = [Said(*(torch.cat(part) for part in zip(*found, strict=True))) for found in parts]
    of = torch.cat([torch.full_like(one.phrases, row) for row, one in enumerate(each)])
    boxes, scores, labels = (torch.cat(part) for part in zip(*each, strict=True))
    return Detections(boxes, scores, labels, of)
