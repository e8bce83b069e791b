"""What a retrieval evaluation found: R@k by two rules, what re-ranking did, and a row for each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mmkit.evals.evaluator import counted
from mmkit.evals.pairs import Pairs
from mmkit.evals.recall import KS
from mmkit.evals.results.reranking import Reranking
from mmkit.files import nested

if TYPE_CHECKING:
    from rich.table import Table

Rates = Mapping[str, Mapping[int, float]]
"""R@k as {"t2i": {1: ...}, "i2t": ...}, 0 to 1."""

AGAIN = {"": "rerank", "published": "published.rerank"}
"""The two rules, and what their rates are called after re-ranking."""
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
    """One direction. places: those of ``recall.places`` by the names of ``RetrievalResult.rates``, one row a query.

    best: by "", and "rerank" after re-ranking, the best candidates (Q, SHOWN) in order, and their scores. top: (Q, k)
    the candidates that are re-ordered, in ascending order.
    """

    places: Mapping[str, Tensor]
    best: Mapping[str, tuple[Tensor, Tensor]]
    top: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """rates: R@k by our rule, "", and with the own picture or own texts alone, "published".

    After re-ranking also as "rerank" and "published.rerank". intervals: 95 %, of the same; of texts with those of one
    picture as a group (``clustered``). chance: of a random order by both rules. by: what the rates were sorted by.
    judged: what re-ranking did, for each direction. held_bytes: image tokens that waited for matching, of all
    processes. left_out: pictures that could not be read; None where the first one ends it. protocol: its name, "" for
    none; ranks: with one, the median and the mean rank by the names of ``rates``. shown: "pictures" or
    "clips", for titles.
    """

    images: int
    texts: int
    rates: Mapping[str, Rates]
    chance: Mapping[str, Rates]
    intervals: Mapping[str, Mapping[str, Mapping[int, tuple[float, float]]]]
    rerank_top: int | None = None
    judged: Sequence[Reranking] = ()
    held_bytes: int = 0
    left_out: int | None = None
    by: Literal["joint space", "matching head"] = "joint space"
    protocol: str = ""
    ranks: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    shown: str = "pictures"

    def metrics(self) -> dict[str, float]:
        """``t2i_r1``, ..., ``i2t_r10``, their mean ``r_mean``, ``rerank.*``, ``images``, ``texts``, ``chance_r1``.

        ``chance_r1`` is that of text to image, ``chance_i2t_r1`` of image to text. ``published.*``: the same by the
        published rule. ``t2i_r1_low``, ``t2i_r1_high``, ...: the intervals of R@1. With a protocol
        ``t2i_median_rank``, ``t2i_mean_rank``, ..., from 1.
        """
        out: dict[str, float] = {}
        for rule, rates in self.rates.items():
            out |= {_named(rule, name): value for name, value in _flat(rates).items()}
        for rule, ways in self.chance.items():
            out |= {_named(rule, "chance_r1"): ways["t2i"][1], _named(rule, "chance_i2t_r1"): ways["i2t"][1]}
        for rule, between in self.intervals.items():
            for way, at in between.items():
                name = _named(rule, f"{way}_r1")
                out |= {f"{name}_low": at[1][0], f"{name}_high": at[1][1]}
        for rule, at_rank in self.ranks.items():
            for way, (median, mean) in at_rank.items():
                out |= {_named(rule, f"{way}_median_rank"): median, _named(rule, f"{way}_mean_rank"): mean}
        return out | {"images": self.images, "texts": self.texts} | counted(self.left_out)

    def to_json(self) -> dict[str, Any]:
        """The same, nested; ``by``; ``chance`` and ``interval`` of every rate; what relevance means.

        ``rerank.lowers``, ``rerank.at_chance``: whether it lowers any rate, and whether the matching head orders no
        better than chance, in either direction.
        """
        found: dict[str, Any] = {**self.metrics(), "by": self.by, "chance": _flat(self.chance[""])}
        found |= {"protocol": self.protocol} if self.protocol else {}
        found |= {"relevance": RULES["ours"], "published.relevance": RULES["published"]}
        for rule, ways in self.intervals.items():
            ends = {f"{way}_r{k}": list(pair) for way, at in ways.items() for k, pair in at.items()}
            found[_named(rule, "interval")] = ends
        if "rerank" in self.rates:
            flags = [judged.flags() for judged in self.judged]
            found |= {f"rerank.{name}": any(flag[name] for flag in flags) for name in ("lowers", "at_chance")}
            found |= {"rerank.top": self.rerank_top, "held_gib": self.held_bytes / 2**30}
        return nested(found)

    def table(self) -> Table:
        """R@k of both ways, with re-ranking, the published rule and chance below."""
        from rich.table import Table

        what = f"{self.protocol}: {self.images} clips" if self.protocol else f"retrieval: {self.images} {self.shown}"
        table = Table(title=f"{what}, {self.texts} texts", title_justify="left")
        table.add_column("")
        of_ranks = ("median rank", "mean rank") if self.ranks else ()
        for name in ("R@1", "95 % interval", *(f"R@{k}" for k in KS[1:]), *of_ranks):
            table.add_column(name, justify="right")
        again, rates = f"re-ranked top {self.rerank_top}", {**self.rates, "chance": self.chance[""]}
        rows = {
            "": WORDS[self.by], "rerank": again, "published": "as published *",
            "published.rerank": f"{again}, as published *", "chance": "chance",
        }  # fmt: skip
        for way, words in NAMES.items():
            for rule, name in rows.items():
                if rule in rates:
                    first, *others = (f"{rates[rule][way][k]:.1%}" for k in KS)
                    ends = self.intervals.get(rule)
                    between = "{:.1%} to {:.1%}".format(*ends[way][1]) if ends else ""
                    others += [f"{rank:.1f}" for rank in self.ranks.get(rule, {}).get(way, ())]
                    table.add_row(f"{words}, {name}", first, between, *others, end_section=name == "chance")
        table.caption = "* the own picture or own texts alone are right; else equal captions are right too"
        table.caption_justify = "left"
        return table


def rows_of(found: Mapping[str, Found], pairs: Pairs) -> list[Mapping[str, Any]]:
    """A row for each query: ``direction``, the query, the rank of its first right candidate by both rules (from 1).

    And the best candidates with their scores; under ``rerank`` the same after it.
    """

    def told(way: str, query: int, rule: str) -> dict[str, Any]:
        ours, published = (found[way].places[name][query, 0] for name in (rule, _named("published", rule)))
        best, scores = (part[query].tolist() for part in found[way].best[rule])
        named = [
            pairs.names[i] if way == "t2i" else {"text": pairs.texts[i], "image": pairs.names[pairs.image_of[i]]}
            for i in best
        ]
        return {"rank": int(ours) + 1, "published_rank": int(published) + 1, "found": named, "scores": scores}

    out: list[Mapping[str, Any]] = []
    for way, words in NAMES.items():
        for query in range(len(found[way].places[""])):
            text, image = (pairs.texts[query], pairs.image_of[query]) if way == "t2i" else (None, query)
            row = {"direction": words, "text": text, "image": pairs.names[image], **told(way, query, "")}
            out.append(row | {rule: told(way, query, rule) for rule in found[way].best if rule})
    return out


def _named(rule: str, name: str) -> str:
    """The name under a rule, "" being ours."""
    return f"{rule}.{name}".strip(".")


def _flat(values: Rates) -> dict[str, float]:
    out = {f"{way}_r{k}": value for way, at in values.items() for k, value in at.items()}
    return out | {"r_mean": sum(out.values()) / len(out)}
