"""R@k where several candidates may be relevant to a query: pure functions on tensors.

A query is answered at k when any of its relevant candidates is among the first k. Candidates of equal score are listed
in the order of their index, so that a list never depends on the sorting algorithm; in rates they count as a draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KS = (1, 5, 10)


@dataclass(frozen=True)
class Relevance:
    """Which candidates are relevant to which query: those of query q are ``items[starts[q] : starts[q + 1]]``."""

    items: Tensor
    starts: Tensor
    candidates: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], candidates: int) -> Relevance:
        """From each query's relevant candidates."""
        lengths = torch.tensor([0, *(len(row) for row in rows)])
        return cls(torch.tensor([i for row in rows for i in row], dtype=torch.int64), lengths.cumsum(0), candidates)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def counts(self) -> Tensor:
        """(queries,) int64: how many candidates are relevant to each."""
        return self.starts.diff()

    def mask(self, queries: range) -> Tensor:
        """(len(queries), candidates) bool for consecutive queries."""
        starts = self.starts[queries.start : queries.stop + 1]
        rows = torch.arange(len(queries)).repeat_interleave(starts.diff())
        out = torch.zeros(len(queries), self.candidates, dtype=torch.bool)
        out[rows, self.items[int(starts[0]) : int(starts[-1])]] = True
        return out

    def among(self, top: Tensor) -> Tensor:
        """(Q, k) int64, candidates of all queries -> (Q, k) bool: which of them are relevant."""
        size = 1024  # queries whose mask over all candidates is held at a time
        parts = enumerate(top.split(size))
        return torch.cat([self.mask(range(i * size, i * size + len(part))).gather(1, part) for i, part in parts])

    def chance(self) -> dict[int, float]:
        """``chance_at`` of all queries."""
        return chance_at(self.counts(), self.candidates)


def places(scores: Tensor, relevant: Tensor) -> Tensor:
    """(Q, C) float and bool -> (Q, 4) int64: where the first relevant candidate of each query stands.

    How many candidates stand before it, those of equal score in the order of their index; how many score higher; how
    many score the same, itself among them; how many of these are relevant. C, C, 1, 0 where none is relevant.
    """
    size = scores.shape[1]
    index = torch.arange(size, device=scores.device)
    own = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    above, equal = scores > own, scores == own
    first = index.where(relevant & equal, size).amin(1, keepdim=True)
    before = above | (equal & (index < first))
    found = torch.stack([before.sum(1), above.sum(1), equal.sum(1), (equal & relevant).sum(1)], 1)
    return torch.where(relevant.any(1, keepdim=True), found, found.new_tensor([size, size, 1, 0]))


def recall_of(found: Tensor, ks: Sequence[int] = KS) -> dict[int, float]:
    """R@k of ``places``: the mean of ``answered``."""
    return {k: answered(found, k).mean().item() for k in ks}


def ranks_of(found: Tensor) -> tuple[float, float]:
    """Median and mean rank of ``places``, from 1: of equal scores the place that is expected of a random order.

    Of e equal candidates of which r are right, the first right one stands (e + 1) / (r + 1) places on.
    """
    _, above, equal, right = found.double().unbind(1)
    ranks = above + torch.where(right > 0, (equal + 1) / (right + 1), 1.0)
    return ranks.quantile(0.5).item(), ranks.mean().item()


def answered(found: Tensor, k: int) -> Tensor:
    """Of ``places`` (Q, 4): whether a relevant candidate is among the first k of each query, (Q,) float64, 0 or 1.

    Where candidates of equal score compete for the last places it is the chance that a draw takes a relevant one, so
    that a model that scores everything alike is at chance, whatever the order of the data.
    """
    _, above, equal, right = found.unbind(1)
    room, missed = (k - above).clamp(min=0), torch.ones(len(found), dtype=torch.float64)
    for i in range(k):
        draw = (equal - right - i).clamp(min=0).double() / (equal - i).clamp(min=1)
        missed = torch.where(i < room, missed * draw, missed)
    return (1 - missed).where(right > 0, 0.0)


def top_k(scores: Tensor, k: int) -> Tensor:
    """(Q, C) -> (Q, min(k, C)) int64: the best candidates in ascending order of index; of equals, the lower indices."""
    k = min(k, scores.shape[1])
    if not k:
        return torch.empty(len(scores), 0, dtype=torch.int64, device=scores.device)
    last = scores.topk(k, dim=1).values[:, -1:]
    above, equal = scores > last, scores == last
    chosen = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    return chosen.nonzero()[:, 1].view(len(scores), k)


def chance_at(counts: Tensor, candidates: int, ks: Sequence[int] = KS) -> dict[int, float]:
    """The expected R@k of a random order, for queries with ``counts`` (Q,) relevant candidates each.

    One query of r relevant among n is missed at k with probability C(n - r, k) / C(n, k).
    """
    values, times = counts.unique(return_counts=True)
    return {
        k: sum(t * (1 - _missed(r, candidates, k)) for r, t in zip(values.tolist(), times.tolist(), strict=True))
        / len(counts)
        for k in ks
    }


def _missed(relevant: int, candidates: int, k: int) -> float:
    if k > candidates - relevant:
        return 0.0
    return math.prod((candidates - relevant - i) / (candidates - i) for i in range(k))


def sorted_top(scores: Tensor, k: int) -> Tensor:
    """(Q, C) -> (Q, min(k, C)) int64, best first; of equals, the lower index first."""
    top = top_k(scores, k)
    order = scores.gather(1, top).sort(dim=1, descending=True, stable=True).indices
    return top.gather(1, order)


def hits_at(scores: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """(Q, C) and (Q,) int64 -> (Q,) float64: whether the label is among the first k, 0 or 1.

    Where candidates of equal score compete for the last places it is the chance to be among them, so that a model that
    scores everything alike is at chance, whatever the order of the classes.
    """
    own = scores.gather(1, labels[:, None].to(scores.device))
    above, equal = (scores > own).sum(1), (scores == own).sum(1)
    return ((k - above).double() / equal).clamp(0, 1)
