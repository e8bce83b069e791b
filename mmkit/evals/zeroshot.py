"""Zero-shot classification: the class whose description is nearest to the picture (CLIP, Radford et al. 2021, 3.1).

Each class name goes into every template; the L2-normalised embeddings are averaged and normalised again. The best few
classes may then be judged by the matching head, which reads picture and prompt together; in a model without a joint
space it judges all of them, on the first templates.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkit.data.labels import own_names
from mmkit.data.records import Source
from mmkit.data.video.opening import shown_as
from mmkit.errors import UserError
from mmkit.evals.evaluator import Passed, Reranks, pixels_of
from mmkit.evals.labels import read_classes, unlabelled, with_classes
from mmkit.evals.predictions import save_predictions
from mmkit.evals.prompts import check_templates, default_templates
from mmkit.evals.recall import hits_at, sorted_top
from mmkit.evals.results.zeroshot import RATES, By, ZeroShotResult
from mmkit.evals.text_bank import class_bank, fill
from mmkit.inference.finite import finite
from mmkit.inference.predictor import Predictor
from mmkit.inference.tokens import TokenBank
from mmkit.ranks import rank
from mmkit.types import Pixels, Tokens

log = logging.getLogger(__name__)

__all__ = ["ZeroShot", "ZeroShotResult"]

Task = tuple[Source, tuple[str, ...], Tensor | None]


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Reranks):
    """Classifies the pictures of ``source`` among ``class_names``, by name alone.

    source: a Source, or a partial that makes one; each record's target ``label_key`` is its class, as ``with_classes``
    reads it. class_names: the names, a partial that makes them, a built-in set or a file by name, or None for the
    labels' own. Pictures of which none has a label are classified for ``predictions`` alone.
    templates: texts with {} in the name's place; None = those of a built-in set of classes, else the name alone.
    rerank_top: how many classes of each picture the matching head
    re-orders; None = not at all; it reads the first ``rerank_templates`` templates and averages. bank_folder: where the
    classes' embeddings are kept between processes; None = nowhere. predictions: a file for what each picture was taken
    for, see ``ZeroShotResult.rows``.
    """

    class_names: Sequence[str] | str | Path | partial[Any] | None = None
    templates: Sequence[str] | None = None
    rerank_templates: int = 1
    bank_folder: str | Path | None = None
    label_key: str = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.templates is not None:
            check_templates(self.templates, "templates")

    def names(self) -> tuple[str, ...]:
        """Of labelled pictures; top-1 again after re-ranking."""
        return RATES if self.rerank_top is None else (*RATES, *(f"rerank.{name}" for name in RATES if name != "top5"))

    def needs(self, predictor: Predictor) -> Task:
        """What ``read`` gives; UserError also where the model cannot do what is asked."""
        self.check_model(predictor)
        return self.read()

    def read(self) -> Task:
        """The source, the names of the classes, and each record's class: what is known without a model.

        UserError where a label fits no class, or the file for predictions cannot be written.
        """
        source = self.opened()
        given = self.class_names() if isinstance(self.class_names, partial) else self.class_names
        if unlabelled(source, self.label_key):
            if rank() == 0 and self.predictions is not None:
                log.warning("no labels, so no rates: what each picture is taken for is written")
            return source, self._names_alone(own_names(source) if given is None else given), None
        labelled, names = with_classes(source, given, self.label_key)
        return source, tuple(names), torch.tensor(list(labelled.target(self.label_key)))

    def _templates(self) -> Sequence[str]:
        named = self.class_names if isinstance(self.class_names, str | Path) else None
        return self.templates or default_templates(named)

    def _names_alone(self, given: Any) -> tuple[str, ...]:
        if given is None or self.predictions is None:
            raise UserError(
                f'no "{self.label_key}" in any record; zero-shot classification needs the class of each picture. '
                "Without them it can write what it takes each picture for: give the names of the classes "
                "(--classes FILE, class_names=) and a file (--predictions FILE)"
            )
        return read_classes(given).names

    def evaluate(self, predictor: Predictor, task: Task | None = None) -> ZeroShotResult:
        """UserError where a picture cannot be read, a label fits no class, or the model cannot re-rank.

        task: what ``read`` gave, where that was called before.
        """
        self.check_model(predictor)
        source, names, labels = task or self.read()
        found = self._classify(predictor, source, names, labels)
        shared = int(((found.hits[:, 0] > 0) & (found.hits[:, 0] < 1)).sum())
        if shared and rank() == 0:
            log.warning(
                "%d of %d pictures: other classes have the same score as the right one, the best; each counts with the "
                "chance of a draw. Are there classes with one name, or names cut to the same tokens?", shared, found.n,
            )  # fmt: skip
        if (judged := found.judged()) is not None:
            judged.tell()
        save_predictions(self.predictions, lambda: found.predictions(source))
        return found

    def _classify(
        self, predictor: Predictor, source: Source, names: tuple[str, ...], labels: Tensor | None
    ) -> ZeroShotResult:
        """By the joint space, and the first few again by the matching head; without a joint space by that alone."""
        templates, bank, prompts = self._templates(), None, TokenBank(())
        if predictor.model.spec.embed_dim:
            bank = class_bank(predictor, names, templates, 4 * self.batch_size, self.bank_folder)
        if bank is None or self.rerank_top is not None:
            texts = [fill(template, name) for template in templates[: self.rerank_templates] for name in names]
            prompts = TokenBank(predictor.text_tokens(texts, 4 * self.batch_size))
        k = min(len(names), max(5, self.rerank_top or 0))

        def work(rows: Sequence[int], made: Sequence[Pixels]) -> dict[str, Tensor]:
            tokens, own = predictor.encode_pixels(made), labels_at(labels, rows)
            if bank is None:
                every = torch.arange(len(names)).expand(len(rows), -1)
                return best_of(_matching(predictor, tokens, prompts, every, len(names)), k, own)
            scores = finite(finite(predictor.embed_image(tokens), "picture embeddings") @ bank.T, "class scores")
            found = best_of(scores, k, own)
            if self.rerank_top is None:
                return found
            chosen = found["top"][:, : self.rerank_top].sort(1).values
            return found | _again(chosen, _matching(predictor, tokens, prompts, chosen, len(names)), own)

        passed = self.passed(self.parts(predictor, len(source), pixels_of(predictor, source), work))
        by: By = "matching head" if bank is None else "joint space"
        found = found_in(names, labels, passed, by, shown_as(predictor.transform))
        return replace(found, rerank_top=self.rerank_top)


def _matching(predictor: Predictor, image: Tokens, prompts: TokenBank, chosen: Tensor, classes: int) -> Tensor:
    """How well each picture matches the classes ``chosen`` (b, c): the mean over templates, by which prompts stand."""
    texts = chosen[..., None] + torch.arange(0, len(prompts), classes)
    rows = torch.arange(len(chosen))[:, None, None].expand_as(texts)
    pairs = torch.stack([rows.flatten(), texts.flatten()], 1)
    return finite(predictor.match_pairs(image, prompts, pairs), "matching scores").view(texts.shape).mean(2)


def _again(chosen: Tensor, scores: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """The class of ``chosen``, in ascending order, that scores best, and whether it is the label."""
    best = chosen.gather(1, sorted_top(scores, 1))[:, 0]
    if labels is None:
        return {"reranked": best, "rerank_hits": best.new_zeros(len(best), dtype=torch.float64)}
    own = chosen == labels[:, None]
    return {"reranked": best, "rerank_hits": hits_at(scores, own.int().argmax(1)) * own.any(1)}


def best_of(scores: Tensor, k: int, labels: Tensor | None) -> dict[str, Tensor]:
    """Of scores (b, C) the k best classes, theirs, and the hits among the first and the first five."""
    top = sorted_top(scores, k)
    none = scores.new_zeros(len(scores), dtype=torch.float64)
    hits = [none if labels is None else hits_at(scores, labels, n) for n in (1, 5)]
    return {"top": top, "scores": scores.gather(1, top).float(), "hits": torch.stack(hits, 1)}


def labels_at(labels: Tensor | None, rows: Sequence[int]) -> Tensor | None:
    """Those of some pictures."""
    return None if labels is None else labels[list(rows)]


def found_in(
    names: tuple[str, ...], labels: Tensor | None, found: Passed[dict[str, Tensor]], by: By, shown: str
) -> ZeroShotResult:  # fmt: skip
    """What was found of all batches together, by the names of the result's own parts."""
    parts: dict[str, Any] = {name: torch.cat([part[name] for part in found.found]) for name in found.found[0]}
    own = labels_at(labels, found.rows)
    return ZeroShotResult(
        class_names=names, labels=own, rows=found.rows, left_out=found.left_out, by=by, shown=shown, **parts
    )
