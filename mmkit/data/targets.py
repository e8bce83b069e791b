"""What records say beside picture and text, made ready for heads: ``Record.targets`` to ``Batch.targets``.

A ``TargetEncoder`` works where the samples are made (``encode``, one record) and where the batch is (``collate``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Protocol

import torch

from mmkit.data.labels import label_in, own_names, same_names, some, tidy
from mmkit.data.records import Source
from mmkit.data.texts.answers.rules import answers_in, check_coverage, class_numbers, normalize
from mmkit.data.texts.protocol import Tokenizer
from mmkit.errors import UserError


class TargetEncoder(Protocol):
    """Made by ``Data.targets``, called with what the run gives (``Given``).

    With an attribute ``reads_caption = True`` it finds the caption that was drawn, as the view turned it, under the
    key "caption" of the targets, and as "caption_number" which of the record's "captions" it is. With ``reads_view =
    True`` it finds what the picture shows under "view" (``images.view.View``), which moves boxes, points and masks;
    without, it gets nothing of ``IN_PICTURE`` in training, none of which would be true there. A method
    ``upright(targets)`` says whether the record's picture must not be mirrored. A method ``made_up(picture)`` gives,
    of the bytes of a JPEG, a record's targets for ``mmkit plan``, where heads read more than the picture and the words.
    """

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """One record's. ``rng`` depends on (seed, epoch, index) alone."""

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch's; tensors go to the device with it."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a run gives to its target encoder.

    tokenizer: None in a run without words. transform: the run's, (RGB picture, text, Random) -> (pixels (3, h, w),
    text). source: the training data, where the encoder is made for training.
    """

    tokenizer: Tokenizer | None = None
    transform: Any = None
    source: Source | None = None

    @property
    def words(self) -> Tokenizer:
        """The tokenizer; UserError in a run without words."""
        if self.tokenizer is None:
            raise UserError("data.targets: answers as words need a tokenizer, and this run has none")
        return self.tokenizer


def make_targets(part: partial[Any] | None, given: Given) -> TargetEncoder:
    """The encoder that a config asks for, or one that passes all on."""
    made: TargetEncoder = RawTargets() if part is None else part(given)
    return made


class RawTargets:
    """Everything as it is."""

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """Unchanged."""
        return targets

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """By name: whole numbers become an int64 tensor, other numbers float32, tensors of one shape a stack, all else
        a list. A key that some records lack is a list with None in their places.
        """
        out: dict[str, Any] = {}
        for key in dict.fromkeys(key for target in encoded for key in target):
            values = [target.get(key) for target in encoded]
            if all(type(value) in (int, bool) for value in values):
                out[key] = torch.tensor(values, dtype=torch.int64)
            elif all(type(value) in (int, float) for value in values):
                out[key] = torch.tensor(values, dtype=torch.float32)
            else:
                tensors = [value for value in values if isinstance(value, torch.Tensor)]
                same = len(tensors) == len(values) and len({tensor.shape for tensor in tensors}) == 1
                out[key] = torch.stack(tensors) if same else values
        return out


def answers_of(targets: Mapping[str, Any]) -> tuple[str, ...]:
    """The answers that annotators gave to one question, normalised, repeats kept; UserError where there is none."""
    return tuple(map(normalize, answers_in(targets)))


class ClassLabels(RawTargets):
    """Names of classes as their numbers among ``classes``: ``label`` (B,) int64.

    The labels of a source with ``class_names`` may be numbers of these. Names are compared without regard to case,
    ``_`` and white space. UserError for a name that is none of ``classes``, and for two of them that are one name.
    """

    def __init__(self, given: Given, classes: Sequence[str], label: str = "label") -> None:
        self.classes, self.label = tuple(classes), label
        self.number = {tidy(name): i for i, name in enumerate(classes)}
        if len(self.number) < len(classes):
            groups = same_names(classes)
            raise UserError(f"classes: {' and '.join(map(repr, groups[0]))} are one name; give each class its own")
        self.own = own_names(given.source)
        if unknown := [name for name in self.own or () if tidy(str(name)) not in self.number]:
            raise UserError(f"the training data have classes that are none of the {len(classes)}: {some(unknown)}")

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """The number of the record's class; UserError where it has none."""
        label = label_in(targets.get(self.label), "label", self.label)
        if self.own is not None and isinstance(label, int) and 0 <= label < len(self.own):
            label = self.own[label]
        found = self.number.get(tidy(str(label)))
        if found is None:
            raise UserError(f"{self.label} {label!r} is none of the {len(self.classes)} classes: {some(self.classes)}")
        return {self.label: found}


class AnswerTokens:
    """Answers as token sequences for a decoder, each weighted by how many annotators gave it (ALBEF, section 5.2).

    weight: of a record's answers together where its ``weight`` says nothing. The batch gets, for its A distinct
    (question, answer) pairs in order: ``answer_ids`` (A, L) int64 decoder inputs, [CLS] and the words; ``answer_of``
    (A,) int64 the question of each; ``answer_weight`` (A,) float32; and for the N tokens to predict (words and [SEP]):
    ``answer_index`` (N,) int64 into the flattened (A, L), ``answer_labels`` (N,) int64.
    """

    def __init__(self, given: Given, max_tokens: int = 16, weight: float = 1.0) -> None:
        self.tokenizer, self.max_tokens, self.weight = given.words, max_tokens, weight

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """The token ids of each distinct answer with its weight."""
        answers = answers_of(targets)
        counts = {answer: answers.count(answer) for answer in answers}
        whole = float(targets.get("weight", self.weight)) / len(answers)
        ids = [answer_ids(self.tokenizer, answer, self.max_tokens) for answer in counts]
        return {"ids": ids, "weights": [whole * count for count in counts.values()]}

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See the class."""
        rows = [ids for target in encoded for ids in target["ids"]]
        width = max(len(ids) for ids in rows) - 1
        index = [row * width + i for row, ids in enumerate(rows) for i in range(len(ids) - 1)]
        pad = self.tokenizer.pad_id
        return {
            "answer_ids": torch.tensor([[*ids[:-1], *[pad] * (width + 1 - len(ids))] for ids in rows]),
            "answer_of": torch.tensor([i for i, target in enumerate(encoded) for _ in target["ids"]]),
            "answer_weight": torch.tensor([w for target in encoded for w in target["weights"]], dtype=torch.float32),
            "answer_index": torch.tensor(index),
            "answer_labels": torch.tensor([i for ids in rows for i in ids[1:]]),
        }


def answer_ids(tokenizer: Tokenizer, answer: str, max_tokens: int) -> list[int]:
    """[CLS], the words and [SEP], at most ``max_tokens`` in all."""
    return [*tokenizer.encode(answer, max_tokens - 1, "answer"), tokenizer.sep_id]


class CaptionTokens:
    """The caption that was drawn, as the decoder of a captioning head reads and predicts it (BLIP, section 3.2).

    prompt: what it begins with, of which nothing is learned; that of the head. max_tokens: of both, with [CLS] and
    [SEP]; of a longer caption the end is not learned. The batch gets ``caption_ids`` (B, L) int64 decoder inputs, and
    for the N tokens to predict ``caption_index`` (N,) int64 into the flattened (B, L), ``caption_labels`` (N,) int64.
    """

    reads_caption = True

    def __init__(self, given: Given, prompt: str = "", max_tokens: int = 40) -> None:
        self.tokenizer, self.prompt, self.max_tokens = given.words, prompt, max_tokens
        self.first = prompt_ids(given.words, prompt)
        if len(self.first) + 2 > max_tokens:
            raise UserError(
                f"data.targets: max_tokens = {max_tokens} leaves no room for a caption after the prompt {prompt!r} of "
                f"{len(self.first)} tokens"
            )

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """The ids of prompt, caption and [SEP]."""
        words = prompt_ids(self.tokenizer, targets["caption"])[1:]
        return {"ids": [*self.first, *words, self.tokenizer.sep_id][: self.max_tokens]}

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See the class."""
        rows, known = [target["ids"] for target in encoded], len(self.first)
        width, pad = max(len(ids) for ids in rows) - 1, self.tokenizer.pad_id
        index = [row * width + i for row, ids in enumerate(rows) for i in range(known - 1, len(ids) - 1)]
        return {
            "caption_ids": torch.tensor([[*ids[:-1], *[pad] * (width + 1 - len(ids))] for ids in rows]),
            "caption_index": torch.tensor(index),
            "caption_labels": torch.tensor([i for ids in rows for i in ids[known:]]),
        }


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """[CLS] and the words, without a [SEP] behind them."""
    ids = tokenizer.encode(text, None, "caption") if text.strip() else [tokenizer.cls_id]
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.sep_id else ids


class AnswerScores:
    """Answers as a soft score for each of a fixed list (ViLT's and Pythia's: 0.3, 0.6, 0.9, 1 for 1 to 4 annotators).

    A question with one annotator scores 1. The batch gets ``answer_scores`` (B, C) float32; a row without any of the
    list's answers is all zero, and teaches nothing; where that is most rows of the source, it is a UserError.
    """

    def __init__(self, given: Given, answers: Sequence[str]) -> None:
        self.number = class_numbers(answers)
        if given.source is not None:
            check_coverage(given.source, answers, where="the answers of the classifier")

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """The scores of the answers that the list has."""
        counts = Counter(answers_of(targets))
        alone = counts.total() == 1
        known = ((self.number[a], n) for a, n in counts.items() if a in self.number)
        return {"scores": {i: 1.0 if alone else min(1.0, 0.3 * n) for i, n in known}}

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See the class."""
        scores = torch.zeros(len(encoded), len(self.number))
        for row, target in enumerate(encoded):
            for i, score in target["scores"].items():
                scores[row, i] = score
        return {"answer_scores": scores}
