"""What a retrieval evaluation found: R@k by two rules, what re-ranking did, and a row for each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from mmkit.evals.evaluator import counted, nested
from mmkit.evals.recall import KS, sorted_top
from mmkit.evals.results.reranking import Reranking

if TYPE_CHECKING:
    from rich.table import Table

Rates = Mapping[str, Mapping[int, float]]
"""R@k as {"t2i": {1: ...}, "i2t": ...}, 0 to 1."""

NAMES = {"t2i": "text to image", "i2t": "image to text"}
WORDS = {"joint space": "joint space", "matching head": "matching head, every pair"}
SHOWN = 10
"""So many candidates of each query are written into ``--predictions``."""
RULES = {
    "ours": "a query is answered at k when any relevant candidate is among the first k; equal captions are relevant to "
    "each other's pictures",
    "published": "a text is answered by its own picture alone, a picture by its own texts alone, whatever other "
    "captions say; re-ranked by the logit of the class 'match'",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Found:
    """One direction. Places are those of ``places``, one row a query: by our rule and by the published one.

    top: (Q, k) the candidates that were re-ordered, in ascending order; match: (Q, k, 2), their logits. best, scores:
    (Q, SHOWN) the best candidates in order, with their scores.
    """

    ours: Tensor
    published: Tensor
    best: Tensor
    scores: Tensor
    top: Tensor | None = None
    match: Tensor | None = None
    ours_again: Tensor | None = None
    published_again: Tensor | None = None

    def again(self, odds: Tensor) -> tuple[Tensor, Tensor]:
        """Like ``best`` and ``scores``, after re-ranking by ``odds`` (Q, k)."""
        assert self.top is not None  # only then is it asked for
        order = sorted_top(odds, SHOWN)
        return self.top.gather(1, order), odds.gather(1, order)


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """recall, rerank: R@k by our rule; published, published_rerank: with the own picture or own texts alone.

    chance, published_chance: of a random order. by: what ``recall`` was sorted by. judged: what re-ranking did, for
    each direction. intervals: 95 %, of these rates by the names "", "published", "rerank" and
    "published.rerank"; of texts with those of one picture as a group (``clustered``). held_bytes: image tokens that
    waited for matching, of all processes. left_out: pictures that could not be read; None where the first one ends it.
    """

    images: int
    texts: int
    recall: Rates
    published: Rates
    chance: Rates
    published_chance: Rates
    rerank: Rates = field(default_factory=dict)
    published_rerank: Rates = field(default_factory=dict)
    rerank_top: int | None = None
    judged: Sequence[Reranking] = ()
    intervals: Mapping[str, Mapping[str, Mapping[int, tuple[float, float]]]] = field(default_factory=dict)
    held_bytes: int = 0
    left_out: int | None = None
    by: Literal["joint space", "matching head"] = "joint space"

    def metrics(self) -> dict[str, float]:
        """``t2i_r1``, ..., ``i2t_r10``, their mean ``r_mean``, ``rerank.*``, ``images``, ``texts``, ``chance_r1``.

        ``chance_r1`` is that of text to image, ``chance_i2t_r1`` of image to text. ``published.*``: the same by the
        published rule. ``t2i_r1_low``, ``t2i_r1_high``, ...: the intervals of R@1.
        """
        out = _all(self.recall, self.rerank, self.chance) | {"images": self.images, "texts": self.texts}
        published = _all(self.published, self.published_rerank, self.published_chance)
        out |= {f"published.{name}": value for name, value in published.items()}
        for rule, ways in self.intervals.items():
            for way, at in ways.items():
                name = f"{rule}.{way}_r1".removeprefix(".")
                out |= {f"{name}_low": at[1][0], f"{name}_high": at[1][1]}
        return out | counted(self.left_out)

    def to_json(self) -> dict[str, Any]:
        """The same, nested; ``by``; ``chance`` and ``interval`` of every rate; what relevance means.

        ``rerank.lowers``, ``rerank.at_chance``: whether it lowers any rate, and whether the matching head orders no
        better than chance, in either direction.
        """
        found = nested(self.metrics()) | {"by": self.by, "chance": _flat(self.chance)}
        if "rerank" in found:
            flags = [judged.flags() for judged in self.judged]
            found["rerank"] |= {name: any(flag[name] for flag in flags) for name in ("lowers", "at_chance")}
            found["rerank"]["top"] = self.rerank_top
            found["held_gib"] = self.held_bytes / 2**30
        for rule, ways in self.intervals.items():
            place = found
            for step in rule.split(".") if rule and ways else ():
                place = place[step]
            if ways:
                place["interval"] = {f"{way}_r{k}": list(ends) for way, at in ways.items() for k, ends in at.items()}
        found["published"]["relevance"] = RULES["published"]
        return found | {"relevance": RULES["ours"]}

    def table(self) -> Table:
        """R@k of both ways, with re-ranking, the published rule and chance below."""
        from rich.table import Table

        table = Table(title=f"retrieval: {self.images} pictures, {self.texts} texts", title_justify="left")
        table.add_column("")
        for name in ("R@1", "95 % interval", *(f"R@{k}" for k in KS[1:])):
            table.add_column(name, justify="right")
        again = f"re-ranked top {self.rerank_top}"
        rows = {
            WORDS[self.by]: (self.recall, ""), again: (self.rerank, "rerank"),
            "as published *": (self.published, "published"),
            f"{again}, as published *": (self.published_rerank, "published.rerank"), "chance": (self.chance, "chance"),
        }  # fmt: skip
        for way, words in NAMES.items():
            for name, (values, rule) in rows.items():
                if values:
                    first, *others = (f"{values[way][k]:.1%}" for k in KS)
                    ends = self.intervals.get(rule, {}).get(way)
                    between = "{:.1%} to {:.1%}".format(*ends[1]) if ends else ""
                    table.add_row(f"{words}, {name}", first, between, *others, end_section=name == "chance")
        table.caption = "* the own picture or own texts alone are right; else equal captions are right too"
        table.caption_justify = "left"
        return table


def rows_of(
    found: Mapping[str, Found], pictures: Sequence[str], texts: Sequence[str], image_of: Sequence[int],
    odds: Mapping[str, Tensor],
) -> list[Mapping[str, Any]]:  # fmt: skip
    """A row for each query: ``direction``, the query, the rank of its first right candidate by both rules (from 1).

    And the best candidates with their scores; under ``rerank`` the same after it. pictures: their image_id.
    odds: for each direction, what candidates were re-ordered by.
    """
    out: list[Mapping[str, Any]] = []
    for way in NAMES:
        here = found[way]

        def told(place: Tensor, own: Tensor, best: Tensor, scores: Tensor, way: str = way) -> dict[str, Any]:
            named: list[Any] = [
                pictures[i] if way == "t2i" else {"text": texts[i], "image": pictures[image_of[i]]}
                for i in best.tolist()
            ]
            return {
                "rank": int(place[0]) + 1, "published_rank": int(own[0]) + 1, "found": named, "scores": scores.tolist()
            }  # fmt: skip

        again = here.again(odds[way]) if here.top is not None and way in odds else None
        for query in range(len(here.ours)):
            image = image_of[query] if way == "t2i" else query
            row: dict[str, Any] = {
                "direction": NAMES[way],
                "text": texts[query] if way == "t2i" else None,
                "image": pictures[image],
            }
            row |= told(here.ours[query], here.published[query], here.best[query], here.scores[query])
            if again is not None and here.ours_again is not None and here.published_again is not None:
                row["rerank"] = told(
                    here.ours_again[query], here.published_again[query], again[0][query], again[1][query]
                )
            out.append(row)
    return out


def _flat(values: Rates) -> dict[str, float]:
    out = {f"{way}_r{k}": value for way, at in values.items() for k, value in at.items()}
    return out | {"r_mean": sum(out.values()) / len(out)} if out else out


def _all(recall: Rates, rerank: Rates, chance: Rates) -> dict[str, float]:
    out = _flat(recall) | {f"rerank.{name}": value for name, value in _flat(rerank).items()}
    return out | {"chance_r1": chance["t2i"][1], "chance_i2t_r1": chance["i2t"][1]}
