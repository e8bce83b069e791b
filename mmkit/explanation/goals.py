"""What is explained: a number for each pair that the heat maps are the gradient of.

A target takes the fused states of B pairs and returns (B,) float; a ``Goal`` also gives the score that people are
shown. Any function will do; the matching head and answers are made here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mmkit.data.texts.masking import check_mask
from mmkit.data.texts.protocol import Kind
from mmkit.errors import UserError
from mmkit.heads.base import Answers, Classifies, Guesses, Scores, Writes
from mmkit.inference.answering import candidates_of
from mmkit.inference.predictor import Predictor, batches
from mmkit.types import Fused

TargetName = Literal["itm", "itc", "answer", "mlm"]
Target = TargetName | Callable[[Fused], Tensor]
"""The match, the similarity, an answer, each word as guessed when it is hidden; or fused states -> (B,)."""

WHAT: dict[TargetName, str] = {
    "mlm": "a head that guesses hidden words", "itm": "a matching head", "answer": "a head that answers",
    "itc": "a joint space of image and text",
}  # fmt: skip

Goal = Callable[[Fused], tuple[Tensor, Tensor]]
"""Fused states -> ((B,) to differentiate, (B,) to show)."""


def goal(predictor: Predictor, target: Target, answers: Sequence[str]) -> Goal:
    """For the pairs of one batch. answers: one for each, where the target is "answer"."""
    if target == "answer":
        head = answer_head(predictor)
        return _written(predictor, head, answers) if isinstance(head, Writes) else _chosen(head, answers)
    if callable(target):
        return _twice(target)
    matcher = predictor.matcher()

    def match(fused: Fused) -> tuple[Tensor, Tensor]:
        logits = matcher.match_logits(fused.first).float()
        return logits[:, 1], logits.softmax(1)[:, 1]

    return match


def named(target: Target, answer: str = "") -> str:
    """What is explained, as people are told."""
    if callable(target):
        return "target"
    return {"itm": "match", "itc": "similarity", "mlm": "words", "answer": f"answer: {answer}"}[target]


def hidden_words(predictor: Predictor, ids: Sequence[Sequence[int]], hidden: Sequence[Sequence[int]]) -> Goal:
    """The log-probability of what stood in each text at the positions ``hidden``; shown as the probability.

    ids: the texts before anything was hidden.
    """
    head, words = word_head(predictor), predictor.model.word_embeddings
    rows = torch.tensor([row for row, places in enumerate(hidden) for _ in places])
    places = torch.tensor([place for found in hidden for place in found])
    labels = torch.tensor([ids[row][place] for row, found in enumerate(hidden) for place in found])

    def guessed(fused: Fused) -> tuple[Tensor, Tensor]:
        device = fused.text.x.device
        logits = head.logits(fused.text.x[rows.to(device), places.to(device)], words).float()
        each = logits.log_softmax(-1).gather(1, labels.to(device)[:, None])[:, 0]
        total = torch.zeros(len(ids), device=device).index_add(0, rows.to(device), each)
        return total, total.exp()

    return guessed


def word_head(predictor: Predictor) -> Any:
    """The head that guesses hidden words; UserError where the model has none, or its tokenizer no [MASK]."""
    check_mask(predictor.tokenizer)
    return predictor.head_that(Guesses, 'cannot be asked so: target="mlm" needs a head that guesses hidden words (MLM)')


def default_target(predictor: Predictor, order: Sequence[TargetName] = ("mlm", "itm", "answer", "itc")) -> TargetName:
    """The first of ``order`` that the model has; UserError where it has none of them.

    Hidden words come before the match because they locate better. The quickstart's model, held-out scenes of two or
    three emoji: the strongest place of the map of "a canoe" lies on the canoe in 74 % by hidden words, in 31 % by the
    match; that of a name within its caption in 71 % and 42 %. A caption that names a part only is no match to it.
    """
    offered: dict[TargetName, bool] = {
        "mlm": guesses_words(predictor), "itm": predictor.can_match(), "itc": bool(predictor.model.spec.embed_dim),
        "answer": any(map(_answers, predictor.heads.values())),
    }  # fmt: skip
    if (found := next((name for name in order if offered[name]), None)) is None:
        wanted = ", ".join(f"{name} ({WHAT[name]})" for name in order)
        has = ", ".join(predictor.heads) or "none"
        raise UserError(f"this model has nothing of what could be explained here: {wanted}. Its heads are: {has}")
    return found


def guesses_words(predictor: Predictor) -> bool:
    """Whether hidden words are guessed from the picture."""
    return predictor.tokenizer.mask_id is not None and bool(predictor.model.spec.fuses) and predictor.has(Guesses)


def answer_head(predictor: Predictor) -> Any:
    """The head that answers: it writes words, or its logits stand for ``answers`` or ``classes``; or UserError."""
    for head in predictor.heads.values():
        if _answers(head):
            return head
    has = ", ".join(predictor.heads) or "none"
    raise UserError(
        f"this model has no head that answers (its heads are: {has}); leave the answer out, or fine-tune one"
    )


def kind_of(predictor: Predictor, target: object) -> Kind:
    """What the texts are: questions where they are answered from a list of answers, or freely; else captions."""
    return "question" if target == "answer" and isinstance(answer_head(predictor), Answers) else "caption"


def best_answers(predictor: Predictor, images: Sequence[Any], texts: Sequence[str], batch_size: int = 32) -> list[str]:
    """What the model itself answers to each text about its picture: of its list, its classes, or freely written."""
    head = answer_head(predictor)
    if isinstance(head, Answers):
        found = predictor.answer(images, texts, top=1, generate=not _names(head), batch_size=batch_size)
        return [best[0][0] for best in found]
    out: list[str] = []
    tokens = predictor.image_tokens(images, batch_size)
    for image, part in zip(tokens, batches(texts, batch_size), strict=True):
        fused = predictor.fuse(image, torch.arange(len(part)), part)
        with predictor.inference():
            out += [head.classes[i] for i in head.logits(fused).argmax(1).tolist()]
    return out


def _answers(head: object) -> bool:
    return isinstance(head, Writes) or (isinstance(head, Scores) and isinstance(head, Answers | Classifies))


def _names(head: Any) -> tuple[str, ...]:
    return tuple(head.classes if isinstance(head, Classifies) else head.answers)


def _written(predictor: Predictor, head: Any, answers: Sequence[str]) -> Goal:
    """The log-probability of writing each row's answer; shown as the probability."""
    words = candidates_of(head, predictor.tokenizer, answers)
    real = words.mask[:, 1:]

    def of(fused: Fused) -> tuple[Tensor, Tensor]:
        device = fused.text.x.device
        ids = words.ids.to(device)
        places = real.flatten().nonzero()[:, 0].to(device)
        logits = head.token_logits(fused, ids[:, :-1], torch.arange(len(ids), device=device), places)
        each = logits.float().log_softmax(-1).gather(1, ids[:, 1:].flatten()[places][:, None])[:, 0]
        rows = places // real.shape[1]
        log_probability = torch.zeros(len(ids), device=device).index_add(0, rows, each)
        return log_probability, log_probability.exp()

    return of


def _chosen(head: Any, answers: Sequence[str]) -> Goal:
    """The logit of each row's answer; shown as its probability, by itself where several answers can be right."""
    names = _names(head)
    if unknown := sorted({answer for answer in answers if answer not in names}):
        some = ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
        raise UserError(f"answer {unknown[0]!r}: not among the answers of this model, which are {some}")
    columns = torch.tensor([[names.index(answer)] for answer in answers])

    def of(fused: Fused) -> tuple[Tensor, Tensor]:
        logits = head.logits(fused).float()
        shares = logits.sigmoid() if isinstance(head, Answers) else logits.softmax(1)
        at = columns.to(logits.device)
        return logits.gather(1, at)[:, 0], shares.gather(1, at)[:, 0]

    return of


def _twice(target: Callable[[Fused], Tensor]) -> Goal:
    def of(fused: Fused) -> tuple[Tensor, Tensor]:
        value = target(fused)
        if value.shape != fused.text.x.shape[:1]:
            raise UserError(
                f"the target returned {tuple(value.shape)} for {len(fused.first)} pairs; it must return one number for "
                "each"
            )
        return value, value

    return of
