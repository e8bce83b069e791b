"""How sure a rate is: Wilson's 95 % interval (Wilson 1927), which holds at 0 and at 1 and for few samples.

It treats samples as independent. ``clustered`` does not: captions of one picture, or boxes in one, are found or missed
together, and say less than as many pictures would.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

Z = 1.959963984540054
"""The normal distribution leaves 2.5 % above this."""


def wilson(total: float, n: float) -> tuple[float, float]:
    """(low, high) of the mean ``total / n``, 0 to 1; (0, 1) where there is nothing.

    total: how many of n were right, or the sum of n scores from 0 to 1, such as VQA's in steps of 0.3. Scores between 0
    and 1 vary at most as much as hits with the same mean, so for them the interval is rather too wide than too narrow.
    """
    if n == 0:
        return 0.0, 1.0
    rate, square = total / n, Z * Z / n
    middle = (rate + square / 2) / (1 + square)
    half = Z * math.sqrt(max(0.0, rate * (1 - rate)) / n + square / (4 * n)) / (1 + square)
    return max(0.0, min(rate, middle - half)), min(1.0, max(rate, middle + half))


def clustered(hits: Tensor, group: Tensor) -> tuple[float, float]:
    """(low, high) of a mean over samples in groups: ``wilson`` for as many independent ones as they are worth.

    That is n / d, where the design effect d is the variance of the mean with whole groups drawn at random (the ratio
    estimator; Kish 1965, 5.4 and 8.2), over that of n independent samples, and at least 1. At 0 and at 1, where neither
    varies, the members of a group count as one.

    hits: (n,) float64, 0 to 1. group: (n,) int64.
    """
    if not len(hits):
        return wilson(0, 0)
    _, group, sizes = group.unique(return_inverse=True, return_counts=True)
    sums, n = hits.new_zeros(len(sizes), dtype=torch.float64).index_add(0, group, hits.double()), len(hits)
    rate = float(sums.sum()) / n
    effect = float(sizes.square().sum()) / n
    if len(sizes) > 1 and 0 < rate < 1:
        apart = float((sums - rate * sizes).square().sum()) * len(sizes) / (len(sizes) - 1)
        effect = apart * (n - 1) / n / (n * rate * (1 - rate))
    worth = n / max(1.0, effect)
    return wilson(rate * worth, worth)


def drawn(values: Sequence[float], groups: Sequence[Hashable], rounds: int, seed: int = 0) -> tuple[float, float]:
    """(low, high): the middle 95 % of the mean over so many draws of whole groups with replacement (Efron 1979)."""
    number: dict[Hashable, int] = {}
    group = np.array([number.setdefault(name, len(number)) for name in groups])
    sums, counts = np.bincount(group, np.asarray(values, float)), np.bincount(group)
    draws = np.random.default_rng(seed).integers(len(counts), size=(rounds, len(counts)))
    means = np.sort(sums[draws].sum(1) / counts[draws].sum(1))
    low, high = round(0.025 * (rounds - 1)), round(0.975 * (rounds - 1))
    return float(means[low]), float(means[high])
