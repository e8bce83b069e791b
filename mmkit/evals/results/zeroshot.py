"""What classification of pictures found, zero-shot or by a head: rates, intervals, confusions, a row a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mmkit.data.records import Source, described
from mmkit.evals.evaluator import counted
from mmkit.evals.intervals import wilson
from mmkit.evals.results.confusion import confused_pairs
from mmkit.evals.results.reranking import Reranking
from mmkit.files import nested, writing

if TYPE_CHECKING:
    from rich.table import Table

By = Literal["joint space", "matching head", "classifier"]
RATES = ("top1", "top5", "interval_low", "interval_high")
"""Of what has labels, the numbers that tell models apart."""
WORDS = {"joint space": "joint space", "matching head": "matching head, every class", "classifier": "classifier"}


@dataclass(frozen=True, kw_only=True)
class ZeroShotResult:
    """What came out. Rates are 0 to 1, intervals 95 % (``wilson``).

    labels: (n,) int64; None where the pictures have none, and nothing is claimed. top: (n, k) int64, each picture's
    classes, best first, of equals the first; scores: (n, k) float32, theirs. by: what gave them. hits: (n, 2) float64,
    whether the label is the first, and among the first five, see ``hits_at``. reranked: (n,) int64, the class after
    re-ranking; rerank_hits: (n,) float64, whether it is right. rows: the numbers of the n pictures in the source.
    left_out: how many could not be read; None where the first one ends the evaluation. views: of clips, how many of
    each were averaged, by name; None = one. shown: what was sorted, "pictures" or "clips", for titles.
    """

    class_names: tuple[str, ...]
    labels: Tensor | None
    top: Tensor
    scores: Tensor
    hits: Tensor
    rows: Sequence[int]
    by: By = "joint space"
    rerank_top: int | None = None
    reranked: Tensor | None = None
    rerank_hits: Tensor | None = None
    left_out: int | None = None
    views: str | None = None
    shown: str = "pictures"

    @property
    def n(self) -> int:
        """How many pictures."""
        return len(self.top)

    @property
    def top1(self) -> float:
        """How many of the pictures are taken for their class."""
        return self.hits[:, 0].mean().item()

    @property
    def top5(self) -> float:
        """How many have it among the first five."""
        return self.hits[:, 1].mean().item()

    def judged(self) -> Reranking | None:
        """What re-ranking did to top-1; None where there was none, or no labels."""
        if self.rerank_top is None or self.rerank_hits is None or self.labels is None:
            return None
        size = min(self.rerank_top, self.top.shape[1])
        among = (self.top[:, :size] == self.labels[:, None]).any(1).double().mean().item()
        return Reranking(
            what="top-1", before={1: self.top1}, after={1: self.rerank_hits.mean().item()},
            chance=among / size, candidates=size, n=self.n,
        )  # fmt: skip

    def metrics(self) -> dict[str, float]:
        """``top1``, ``top5``, ``n``, ``classes``, ``interval_low``, ``interval_high``.

        ``chance``: of a class at random; ``majority``: of always saying the most frequent one. After re-ranking also
        ``rerank.top1``, ``rerank.interval_low`` and ``rerank.interval_high``. Without labels ``n`` and ``classes``.
        """
        out: dict[str, float] = {}
        classes = len(self.class_names)
        if self.labels is not None:
            for place, hits in {"": self.hits[:, 0], "rerank.": self.rerank_hits}.items():
                if hits is not None:
                    low, high = wilson(hits.sum().item(), self.n)
                    out |= {f"{place}top1": hits.mean().item(), f"{place}interval_low": low}
                    out[f"{place}interval_high"] = high
            out |= {
                "top5": self.top5, "chance": 1 / classes, "chance_top5": min(5, classes) / classes,
                "majority": self.labels.bincount().max().item() / self.n,
            }  # fmt: skip
        return out | {"n": self.n, "classes": classes} | counted(self.left_out)

    def to_json(self) -> dict[str, Any]:
        """The metrics nested, ``interval`` as a pair, ``by``, ``per_class`` and the mistakes as ``confusion``.

        All of these are of the joint space alone; ``rerank`` holds the same of the re-ranked classes, and says whether
        it ``lowers`` top-1, and whether it is ``at_chance``.
        """
        out: dict[str, Any] = (
            nested(self.metrics()) | {"by": self.by} | ({} if self.views is None else {"views": self.views})
        )
        for part in (out, out.get("rerank")):
            if part is not None and self.labels is not None:
                part["interval"] = [part.pop("interval_low"), part.pop("interval_high")]
                part |= self._by_class(reranked=part is not out)
        if (judged := self.judged()) is not None:
            out["rerank"] |= {"top": self.rerank_top, **judged.flags()}
        return out

    def _by_class(self, reranked: bool) -> dict[str, Any]:
        mistakes = [
            {"label": self.class_names[i], "predicted": self.class_names[j], "n": n}
            for i, j, n in confused_pairs(self.confusion(reranked))
        ]
        return {"per_class": self.per_class(reranked), "confusion": mistakes}

    def predictions(self, source: Source) -> list[Mapping[str, Any]]:
        """For each picture of ``source``, in order: ``file``, ``label`` (None where unknown), ``predicted``, ``scores``
        of its best classes; ``reranked`` after re-ranking. Opens no picture where the source can do without.
        """
        out: list[Mapping[str, Any]] = []
        right: list[str | None] = [None] * self.n
        if self.labels is not None:
            right = [self.class_names[i] for i in self.labels.tolist()]
        told = list(described(source))
        for row, number in enumerate(self.rows):
            key, image_id, _ = told[number]
            best = zip(self.top[row].tolist(), self.scores[row].tolist(), strict=True)
            named = {
                "file": image_id, "record": key, "label": right[row],
                "predicted": self.class_names[int(self.top[row, 0])],
                "scores": {self.class_names[i]: score for i, score in best},
            }  # fmt: skip
            if self.reranked is not None:
                named["reranked"] = self.class_names[int(self.reranked[row])]
            out.append(named)
        return out

    def named(self, reranked: bool) -> str:
        """What tables and pictures call the classes of ``by``, or those after re-ranking."""
        return f"re-ranked top {self.rerank_top}" if reranked else WORDS[self.by]

    def confusion(self, reranked: bool = False) -> Tensor:
        """(classes, classes) int64: how many pictures of the row's class were taken for the column's."""
        size, found = len(self.class_names), self.top[:, 0]
        if self.labels is None:
            return torch.zeros(size, size, dtype=torch.int64)
        if reranked and self.reranked is not None:
            found = self.reranked
        return torch.bincount(self.labels * size + found, minlength=size * size).view(size, size)

    def per_class(self, reranked: bool = False) -> list[dict[str, Any]]:
        """For each class with pictures: ``name``, ``n``, ``top1``, and what it is most taken for, if anything."""
        if self.labels is None:
            return []
        matrix = self.confusion(reranked)
        again = self.rerank_hits if reranked else None
        hits = self.hits[:, 0] if again is None else again
        rows = []
        for i in matrix.sum(1).nonzero()[:, 0].tolist():
            row, n = matrix[i].clone(), int(matrix[i].sum())
            row[i] = 0
            other = self.class_names[int(row.argmax())] if row.any() else None
            rate = hits[self.labels == i].mean().item()
            rows.append({"name": self.class_names[i], "n": n, "top1": rate, "taken_for": other})
        return rows

    def worst(self, most: int, reranked: bool = False) -> list[dict[str, Any]]:
        """Of ``per_class`` those with mistakes, the lowest rates first."""
        return sorted((row for row in self.per_class(reranked) if row["top1"] < 1), key=lambda row: row["top1"])[:most]

    def write_per_class(self, path: Path) -> None:
        """``per_class`` as CSV, after re-ranking with the columns ``rerank_top1`` and ``rerank_taken_for`` beside.

        UserError where it cannot be written.
        """
        rows = self.per_class()
        if self.reranked is not None:
            for row, again in zip(rows, self.per_class(reranked=True), strict=True):
                row |= {"rerank_top1": again["top1"], "rerank_taken_for": again["taken_for"]}
        with writing(path, newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["name", "n", "top1", "taken_for"])
            writer.writeheader()
            writer.writerows(rows)

    def table(self) -> Table:
        """The rates with interval and chance, and the worst classes."""
        from rich.table import Table

        what = "classification" if self.by == "classifier" else "zero-shot"
        several = f", the mean of {self.views} views each" if self.views is not None else ""
        title = f"{what}: {self.n} {self.shown}, {len(self.class_names)} classes{several}"
        table = Table(title=title, title_justify="left")
        for column in ("", "top-1", "95 % interval", "top-5"):
            table.add_column(column, justify="left" if not column else "right")
        if self.labels is None:
            table.add_row("no labels, so no rates", "", "", "")
            return table
        rates = self.metrics()
        for place, name, top5 in (("", self.named(False), f"{self.top5:.1%}"), ("rerank.", self.named(True), "")):
            if f"{place}top1" in rates:
                top1, *ends = (rates[f"{place}{key}"] for key in ("top1", "interval_low", "interval_high"))
                table.add_row(name, f"{top1:.1%}", "{:.1%} to {:.1%}".format(*ends), top5)
        table.add_row("chance", f"{rates['chance']:.1%}", "", f"{rates['chance_top5']:.1%}", end_section=True)
        again = self.reranked is not None
        worst = "worst after re-ranking" if again else "worst"
        for row in self.worst(5, again):
            confused = f"taken for {row['taken_for']}" if row["taken_for"] else ""
            table.add_row(f"{worst}: {row['name']} ({row['n']})", f"{row['top1']:.1%}", confused, "")
        return table
