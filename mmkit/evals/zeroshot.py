"""Zero-shot classification: the class whose description is nearest to the picture (CLIP, Radford et al. 2021, 3.1).

Each class name goes into every template; the L2-normalised embeddings are averaged and normalised again. The best few
classes may then be judged by the matching head, which reads picture and prompt together; in a model without a joint
space it judges all of them, on the first templates.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mmkit.data.records import Source
from mmkit.errors import UserError
from mmkit.evals.classes import targets_of
from mmkit.evals.common import (
    finite,
    gather_by_index,
    make_source,
    needs_of,
    own_records,
    own_units,
    read_lines,
    together,
)
from mmkit.evals.confusion import confused_pairs
from mmkit.evals.recall import top_k
from mmkit.evals.text_bank import class_bank, fill
from mmkit.predictor import Predictor, TokenBank
from mmkit.types import Tokens

if TYPE_CHECKING:
    from rich.table import Table

BOOTSTRAP_DRAWS = 10_000
WORDS = {"joint space": "joint space", "matching head": "matching head, every class"}


@dataclass(frozen=True, kw_only=True)
class ZeroShotResult:
    """What came out.

    labels: (n,) int64. top: (n, k) int64, each picture's classes, best first. by: what found them. reranked: (n,)
    int64, the class after re-ranking. intervals: of both top-1, 95 %. Rates are 0 to 1.
    """

    class_names: tuple[str, ...]
    labels: Tensor
    top: Tensor
    top1: float
    top5: float
    interval: tuple[float, float]
    by: Literal["joint space", "matching head"] = "joint space"
    rerank_top: int | None = None
    reranked: Tensor | None = None
    rerank_interval: tuple[float, float] | None = None

    @property
    def rerank_top1(self) -> float | None:
        """Top-1 after re-ranking, where there was one."""
        return None if self.reranked is None else (self.reranked == self.labels).double().mean().item()

    def metrics(self) -> dict[str, float]:
        """``top1``, ``top5``, ``n``, ``classes``, ``chance``, ``interval_low``, ``interval_high``.

        After re-ranking also ``rerank.top1``, ``rerank.interval_low`` and ``rerank.interval_high``.
        """
        classes = len(self.class_names)
        out = {
            "top1": self.top1, "top5": self.top5, "n": len(self.labels), "classes": classes, "chance": 1 / classes,
            "chance_top5": min(5, classes) / classes, "interval_low": self.interval[0],
            "interval_high": self.interval[1],
        }  # fmt: skip
        if self.rerank_top1 is not None:
            out["rerank.top1"] = self.rerank_top1
        if self.rerank_interval is not None:
            out |= dict(zip(("rerank.interval_low", "rerank.interval_high"), self.rerank_interval, strict=True))
        return out

    def to_json(self) -> dict[str, Any]:
        """The metrics nested, ``interval`` as a pair, ``by``, ``per_class`` and the mistakes as ``confusion``.

        All of these are of the joint space alone; ``rerank`` holds the same of the re-ranked classes.
        """
        out: dict[str, Any] = {k: v for k, v in self.metrics().items() if "interval" not in k and "rerank" not in k}
        out |= {"interval": list(self.interval), "by": self.by} | self._by_class()
        if self.rerank_top1 is not None:
            out["rerank"] = {"top1": self.rerank_top1, "top": self.rerank_top, **self._by_class(reranked=True)}
        if self.rerank_interval is not None:
            out["rerank"]["interval"] = list(self.rerank_interval)
        return out

    def _by_class(self, reranked: bool = False) -> dict[str, Any]:
        mistakes = [
            {"label": self.class_names[i], "predicted": self.class_names[j], "n": n}
            for i, j, n in confused_pairs(self.confusion(reranked))
        ]
        return {"per_class": self.per_class(reranked), "confusion": mistakes}

    def named(self, reranked: bool) -> str:
        """What tables and pictures call the classes of ``by``, or those after re-ranking."""
        return f"re-ranked top {self.rerank_top}" if reranked else WORDS[self.by]

    def confusion(self, reranked: bool = False) -> Tensor:
        """(classes, classes) int64: how many pictures of the row's class were taken for the column's."""
        size, found = len(self.class_names), self.top[:, 0]
        if reranked and self.reranked is not None:
            found = self.reranked
        return torch.bincount(self.labels * size + found, minlength=size * size).view(size, size)

    def per_class(self, reranked: bool = False) -> list[dict[str, Any]]:
        """For each class with pictures: ``name``, ``n``, ``top1``, and what it is most taken for, if anything."""
        matrix = self.confusion(reranked)
        rows = []
        for i in matrix.sum(1).nonzero()[:, 0].tolist():
            row, n = matrix[i].clone(), int(matrix[i].sum())
            hits, row[i] = int(row[i]), 0
            other = self.class_names[int(row.argmax())] if row.any() else None
            rows.append({"name": self.class_names[i], "n": n, "top1": hits / n, "taken_for": other})
        return rows

    def write_per_class(self, path: Path) -> None:
        """``per_class`` as CSV, after re-ranking with the columns ``rerank_top1`` and ``rerank_taken_for`` beside.

        UserError where it cannot be written.
        """
        rows = self.per_class()
        if self.reranked is not None:
            for row, again in zip(rows, self.per_class(reranked=True), strict=True):
                row |= {"rerank_top1": again["top1"], "rerank_taken_for": again["taken_for"]}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        except OSError as error:
            raise UserError(f"{path}: the table cannot be written ({error.strerror})") from error

    def table(self) -> Table:
        """The rates with interval and chance, and the worst classes."""
        from rich.table import Table

        table = Table(
            title=f"zero-shot: {len(self.labels)} pictures, {len(self.class_names)} classes", title_justify="left"
        )
        for column in ("", "top-1", "95 % interval", "top-5"):
            table.add_column(column, justify="left" if not column else "right")
        again = self.rerank_top1 is not None
        table.add_row(self.named(False), f"{self.top1:.1%}", _range(self.interval), f"{self.top5:.1%}")
        if self.rerank_top1 is not None:
            table.add_row(self.named(True), f"{self.rerank_top1:.1%}", _range(self.rerank_interval), "")
        chance = self.metrics()
        table.add_row("chance", f"{chance['chance']:.1%}", "", f"{chance['chance_top5']:.1%}", end_section=True)
        worst = "worst after re-ranking" if again else "worst"
        for row in sorted(self.per_class(again), key=lambda row: row["top1"])[:5]:
            if row["top1"] < 1:
                confused = f"taken for {row['taken_for']}"
                table.add_row(f"{worst}: {row['name']} ({row['n']})", f"{row['top1']:.1%}", confused, "")
        return table


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Classifies the pictures of ``source`` among ``class_names``, by name alone.

    source: a Source, or a partial that makes one; each record's target ``label_key`` is a class number from 0, or a
    class name. class_names: the names, a partial that makes them, or None for the source's own ``class_names``.
    templates: texts with {} in the name's place. rerank_top: how many classes of each picture the matching head
    re-orders; None = not at all; it reads the first ``rerank_templates`` templates and averages. bank_folder: where the
    classes' embeddings are kept between processes; None = nowhere.
    """

    source: partial[Any] | Source
    class_names: Sequence[str] | partial[Any] | None = None
    templates: Sequence[str] = ("{}",)
    rerank_top: int | None = None
    rerank_templates: int = 1
    bank_folder: str | Path | None = None
    batch_size: int = 64
    label_key: str = "label"
    seed: int = 0

    def __post_init__(self) -> None:
        check_templates(self.templates, "templates")
        if self.rerank_top is not None and self.rerank_top < 1:
            raise UserError(f"rerank_top={self.rerank_top}: must be at least 1, or None for no re-ranking")

    def check(self, predictor: Predictor) -> None:
        """UserError where the source or names are missing or the model lacks what this needs: known before training."""
        self._task(predictor)

    def _task(self, predictor: Predictor) -> tuple[Source, tuple[str, ...]]:
        needs_of(predictor, self.rerank_top)
        source = make_source(self.source)
        return source, self._names(source)

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        """The metrics by dotted name, the same on every process."""
        return self.evaluate(predictor).metrics()

    def evaluate(self, predictor: Predictor) -> ZeroShotResult:
        """UserError where a picture cannot be read, a label fits no class, or the model cannot re-rank."""
        source, names = self._task(predictor)
        labels = read_labels(source, names, self.label_key)
        if not predictor.model.spec.embed_dim:
            return self._judge_all(predictor, source, names, labels)
        bank = class_bank(predictor, names, self.templates, 4 * self.batch_size, self.bank_folder)
        top, again = self._classify(predictor, source, names, bank)
        return self._result(names, labels, top, again)

    def _result(
        self, names: tuple[str, ...], labels: Tensor, top: Tensor, again: Tensor | None = None
    ) -> ZeroShotResult:
        hits = top == labels[:, None]
        top1 = hits[:, 0].double().mean().item()
        found = ZeroShotResult(
            class_names=names, labels=labels, top=top, top1=top1, top5=hits[:, :5].any(1).double().mean().item(),
            interval=bootstrap(int(hits[:, 0].sum()), len(labels), self.seed),
        )  # fmt: skip
        if again is None:
            return found
        interval = bootstrap(int((again == labels).sum()), len(labels), self.seed)
        return replace(found, rerank_top=self.rerank_top, reranked=again, rerank_interval=interval)

    def _judge_all(
        self, predictor: Predictor, source: Source, names: tuple[str, ...], labels: Tensor
    ) -> ZeroShotResult:
        """By the matching scores of every picture with every class."""
        texts = [fill(t, name) for t in self.templates[: self.rerank_templates] for name in names]

        def share() -> tuple[Tensor, Tensor]:
            bank = TokenBank(predictor.text_tokens(texts, 4 * self.batch_size))
            rows = [torch.empty(0, min(5, len(names)), dtype=torch.int64)]
            numbers: list[int] = []
            tokens_of = predictor.image_tokens(
                own_records(source, range(len(source)), self.batch_size), self.batch_size
            )
            for (_, items), tokens in zip(own_units(len(source), self.batch_size), tokens_of, strict=True):
                pairs = torch.cartesian_prod(torch.arange(len(items)), torch.arange(len(texts)))
                scores = finite(predictor.match_pairs(tokens, bank, pairs), "matching scores")
                rows.append(sorted_top(scores.view(len(items), -1, len(names)).mean(1), 5))
                numbers += items
                predictor.progress("pictures", items.stop, len(source))
            return torch.cat(rows), torch.tensor(numbers, dtype=torch.int64)

        top = gather_by_index(*together(share), len(source), predictor.device)
        return replace(self._result(names, labels, top), by="matching head")

    def _names(self, source: Source) -> tuple[str, ...]:
        given = self.class_names() if isinstance(self.class_names, partial) else self.class_names
        names = getattr(source, "class_names", None) if given is None else given
        if callable(names):
            names = names()
        if not names:
            raise UserError("zero-shot classification needs class names: the source has none of its own")
        return tuple(names)

    def _classify(
        self, predictor: Predictor, source: Source, names: Sequence[str], bank: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Each picture's best classes, best first (n, k), and the best after re-ranking (n,)."""
        k = min(len(names), max(5, self.rerank_top or 0))

        def share() -> tuple[Tensor, Tensor]:
            rows = [torch.empty(0, k + 1, dtype=torch.int64)]
            numbers: list[int] = []
            prompts = self._prompts(predictor, names)
            records = own_records(source, range(len(source)), self.batch_size)
            tokens_of = predictor.image_tokens(records, self.batch_size)
            for (_, items), tokens in zip(own_units(len(source), self.batch_size), tokens_of, strict=True):
                scores = finite(predictor.embed_image(tokens), "picture embeddings") @ bank.T
                top = sorted_top(scores, k)
                best = top[:, 0] if prompts is None else self._rerank(predictor, tokens, prompts, top, len(names))
                rows.append(torch.cat([top, best[:, None]], 1))
                numbers += items
                predictor.progress("pictures", items.stop, len(source))
            return torch.cat(rows), torch.tensor(numbers, dtype=torch.int64)

        found = gather_by_index(*together(share), len(source), predictor.device)
        return found[:, :k], None if self.rerank_top is None else found[:, k]

    def _prompts(self, predictor: Predictor, names: Sequence[str]) -> TokenBank | None:
        """The tokens of every class in the first templates, template by template."""
        if self.rerank_top is None:
            return None
        texts = [fill(t, name) for t in self.templates[: self.rerank_templates] for name in names]
        return TokenBank(predictor.text_tokens(texts, 4 * self.batch_size))

    def _rerank(self, predictor: Predictor, image: Tokens, prompts: TokenBank, top: Tensor, classes: int) -> Tensor:
        """The class (b,) among the first ``rerank_top`` that matches best, on the mean of the templates."""
        chosen = top[:, : self.rerank_top].sort(1).values
        offsets = torch.arange(0, len(prompts), classes)
        texts = chosen[..., None] + offsets
        rows = torch.arange(len(chosen))[:, None, None].expand_as(texts)
        pairs = torch.stack([rows.flatten(), texts.flatten()], 1)
        scores = finite(predictor.match_pairs(image, prompts, pairs), "matching scores").view(texts.shape).mean(2)
        return chosen.gather(1, sorted_top(scores, 1))[:, 0]


def sorted_top(scores: Tensor, k: int) -> Tensor:
    """(Q, C) -> (Q, min(k, C)) int64, best first; of equals, the lower index first."""
    top = top_k(scores, k)
    order = scores.gather(1, top).sort(dim=1, descending=True, stable=True).indices
    return top.gather(1, order)


def read_labels(source: Source, names: Sequence[str], key: str) -> Tensor:
    """The class number of each record (n,) int64; UserError names the first record that does not fit the classes."""
    number = {name: i for i, name in enumerate(names)}
    labels = []
    for row, label in enumerate(targets_of(source, key)):
        if label is None:
            raise UserError(f'{source[row].key}: no "{key}"; zero-shot classification needs the class of each picture')
        if isinstance(label, str):
            if label not in number:
                where = f'{source[row].key}: {key} "{label}"'
                raise UserError(f"{where} is none of the {len(names)} classes ({_some(names)})")
            label = number[label]
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(names):
            raise UserError(
                f"{source[row].key}: {key} {label!r} must be a class name, or a number from 0 to {len(names) - 1}"
            )
        labels.append(label)
    return torch.tensor(labels)


def bootstrap(hits: int, n: int, seed: int = 0, draws: int = BOOTSTRAP_DRAWS) -> tuple[float, float]:
    """The 95 % interval of a rate of ``hits`` of ``n``, from ``draws`` samples with replacement, 0 to 1.

    A resampled sum of zeros and ones is binomial, so it is drawn as such.
    """
    generator = torch.Generator().manual_seed(seed)
    rate = torch.full((draws,), hits / n, dtype=torch.float64)
    sums = torch.binomial(torch.full_like(rate, n), rate, generator=generator)
    low, high = (sums / n).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def check_templates(templates: Sequence[str], where: str) -> None:
    """UserError for a template without {}, or none at all."""
    if isinstance(templates, str) or not templates:
        raise UserError(f'{where}: give a list of templates such as "a photo of a {{}}."')
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f'{where}: "{template}" must hold {{}} once, where the class name goes')


def read_templates(path: str | Path) -> tuple[str, ...]:
    """One template per line, each with {} where the class name goes; blank lines and # comments are skipped."""
    templates = tuple(read_lines(path, "templates"))
    check_templates(templates, str(path))
    return templates


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
