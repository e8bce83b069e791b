"""What is sure to go wrong, told before it does: an evaluator that cannot measure, a parameter that nothing reaches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from mmkit.data.labels import own_names, tidy
from mmkit.data.targets import AnswerScores, CaptionTokens, ClassLabels
from mmkit.data.texts.answers.rules import class_numbers
from mmkit.errors import UserError
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.base import Captions
from mmkit.heads.image_classify import ImageClassify


def check_evaluators(
    evaluators: Mapping[str, Callable[[Any], object]], predictor: Any, best: str | None = None
) -> None:
    """UserError for an evaluator that is sure to fail after training, as far as its ``check(predictor)`` can tell.

    best: ``run.best``, see ``check_best``.
    """
    check_best(best, evaluators)
    for name, evaluator in evaluators.items():
        check: Callable[[Any], None] | None = getattr(evaluator, "check", None)
        if check is not None:
            try:
                check(predictor)
            except UserError as error:
                raise UserError(f"evals.{name}: {error}") from error


def check_best(best: str | None, evaluators: Mapping[str, object]) -> None:
    """UserError where ``run.best`` is no number by which its evaluator compares models, as far as that one can tell.

    Its ``names()`` are patterns. An evaluator without them, or with None, is believed until it is called.
    """
    for evaluation, evaluator in evaluators.items():
        names: Callable[[], Sequence[str] | None] | None = getattr(evaluator, "names", None)
        if best is None or names is None or not best.startswith(f"{evaluation}."):
            continue
        name, known = best.removeprefix(f"{evaluation}."), names()
        if known is not None and not any(fnmatchcase(name, one) for one in known):
            near = get_close_matches(name, known, n=1) or known[:1]
            raise UserError(
                f"run.best = {best!r}: evals.{evaluation} compares models by {', '.join(known) or 'nothing'}"
                + (f"; give run.best={evaluation}.{near[0]}" if near else "")
            )


def check_classes(heads: Mapping[str, nn.Module], targets: object, source: object = None) -> None:
    """UserError where a head's classes are not those of the targets or the source, one by one and in their order."""
    for name, head in heads.items():
        if isinstance(head, Captions):
            _check_captions(name, head, targets)
        if isinstance(head, ImageClassify):
            _check_names(name, head, targets, source)
        if not isinstance(head, AnswerClassifier) or not isinstance(targets, AnswerScores):
            continue
        own, theirs = list(class_numbers(head.answers)), list(targets.number)
        if own != theirs:
            at = next((i for i, pair in enumerate(zip(own, theirs, strict=False)) if pair[0] != pair[1]), None)
            what = (
                f"{len(own)} and {len(theirs)} answers" if at is None
                else f"as class {at} {head.answers[at]!r} there, {theirs[at]!r} here"
            )  # fmt: skip
            raise UserError(
                f"heads.{name} and data.targets have other lists of answers: {what}; give both the same one"
            )


def _check_captions(name: str, head: Captions, targets: object) -> None:
    if not isinstance(targets, CaptionTokens):
        raise UserError(f"heads.{name} learns from captions: give data.targets = partial(CaptionTokens, ...)")
    for what in ("prompt", "max_tokens"):
        own, theirs = getattr(head, what), getattr(targets, what)
        if own != theirs:
            raise UserError(f"heads.{name} has {what} = {own!r} and data.targets {theirs!r}: give both the same")


def _check_names(name: str, head: ImageClassify, targets: object, source: object) -> None:
    theirs: Any = targets.classes if isinstance(targets, ClassLabels) else own_names(source)
    if theirs is not None and list(map(tidy, theirs)) != list(map(tidy, head.classes)):
        given = "data.targets" if isinstance(targets, ClassLabels) else "the training data"
        at = next((i for i, (a, b) in enumerate(zip(head.classes, theirs, strict=False)) if tidy(a) != tidy(b)), None)
        what = (
            f"{len(head.classes)} and {len(theirs)}" if at is None
            else f"class {at} is {head.classes[at]!r} there and {theirs[at]!r} here"
        )  # fmt: skip
        raise UserError(
            f"heads.{name} and {given} have other classes: {what}; give both the same list, the targets as "
            "partial(ClassLabels, classes=...)"
        )


def check_length(heads: Mapping[str, nn.Module], steps: int, samples: int) -> None:
    """UserError where a run is too short for a head, as its ``check_run`` says. steps: 0 = nobody knows yet."""
    for name, head in heads.items():
        check: Callable[[int, int], None] | None = getattr(head, "check_run", None)
        if check is not None and steps:
            try:
                check(steps, samples)
            except UserError as error:
                raise UserError(f"heads.{name}: {error}") from error


def check_reached(task: nn.Module) -> None:
    """UserError for trainable parameters that the first step's backward left without a gradient."""
    if names := [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]:
        parts = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
        rule = f"Rule(pattern=r'^{re.escape(parts[0])}', freeze=True)"
        raise UserError(
            f"no objective reaches {len(names)} trainable parameters of {', '.join(parts)}: {', '.join(names[:4])}"
            f"{', ...' if len(names) > 4 else ''}. Add a head that uses them, freeze them "
            f"(optim.rules=({rule}, *mmkit_rules())), or leave the part out"
        )
