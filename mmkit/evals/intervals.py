"""How sure a rate is: Wilson's 95 % interval (Wilson 1927), which holds at 0 and at 1 and for few samples.

It treats samples as independent; questions about one picture, or captions of one, are less than that.
"""

from __future__ import annotations

import math

Z = 1.959963984540054
"""The normal distribution leaves 2.5 % above this."""


def wilson(total: float, n: int) -> tuple[float, float]:
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
