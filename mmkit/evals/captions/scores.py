"""BLEU, ROUGE-L and CIDEr-D, as the COCO caption evaluation computes them (Chen et al. 2015).

Every score takes the words of one candidate for each picture, and of its references. Left out: METEOR and SPICE, which
need programs in Java and word lists; a number of another rule must not bear their names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmkit.errors import UserError

Words = Sequence[str]
Gram = tuple[str, ...]

LONGEST = 4
"""Runs of one to so many words are counted."""
_TINY, _SMALL = 1e-15, 1e-9  # what the published program adds above and below, where there may be nothing


@dataclass(frozen=True, kw_only=True)
class Written:
    """The words of a candidate, and those of each reference of its picture."""

    candidate: Words
    references: Sequence[Words]

    def __post_init__(self) -> None:
        if not self.references:
            raise UserError("a caption without a reference cannot be scored")


def bleu(written: Sequence[Written]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of the whole, 0 to 1 (Papineni et al. 2002).

    Counts are summed over all pictures, so this is not a mean of pictures. A reference's length is that of the one
    closest in length, the shorter of two.
    """
    right, made = [0] * LONGEST, [0] * LONGEST
    length = wanted = 0
    for one in written:
        length += len(one.candidate)
        wanted += min((abs(len(words) - len(one.candidate)), len(words)) for words in one.references)[1]
        for n in range(1, LONGEST + 1):
            own = grams(one.candidate, n)
            most: Counter[Gram] = Counter()
            for words in one.references:
                most |= grams(words, n)
            right[n - 1] += (own & most).total()
            made[n - 1] += own.total()
    ratio = (length + _TINY) / (wanted + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, found = 1.0, []
    for n in range(1, LONGEST + 1):
        product *= (right[n - 1] + _TINY) / (made[n - 1] + _SMALL)
        found.append(brevity * product ** (1 / n))
    return tuple(found)


def rouge_l(written: Sequence[Written], beta: float = 1.2) -> list[float]:
    """ROUGE-L of each picture, 0 to 1 (Lin 2004): of its longest common subsequences, precision and recall weighed.

    The best precision and the best recall may come from two references, as in the published program.
    """
    found = []
    for one in written:
        common = [longest_common(one.candidate, words) for words in one.references]
        precision = max(common) / max(1, len(one.candidate))
        recall = max(n / max(1, len(words)) for n, words in zip(common, one.references, strict=True))
        below = recall + beta**2 * precision
        found.append((1 + beta**2) * precision * recall / below if below else 0.0)
    return found


def cider_d(written: Sequence[Written], sigma: float = 6.0) -> list[float]:
    """CIDEr-D of each picture, 0 to 10 (Vedantam et al. 2015, section 4 and appendix): papers print a mean times 100.

    How much a run of words weighs follows from how many pictures of THIS evaluation have it in a reference, so numbers
    over other pictures do not compare. UserError for one picture, where every weight and so every score is 0.
    """
    if len(written) < 2:
        raise UserError("CIDEr-D of one picture is always 0: it weighs words by how few of the pictures have them")
    having: Counter[Gram] = Counter()
    for one in written:
        having.update({gram for words in one.references for n in range(1, LONGEST + 1) for gram in grams(words, n)})
    log_all = math.log(len(written))
    weights = {gram: log_all - math.log(pictures) for gram, pictures in having.items()}
    found = []
    for one in written:
        own = [_weighed(one.candidate, n, weights, log_all) for n in range(1, LONGEST + 1)]
        total = 0.0
        for words in one.references:
            # the published program compares the numbers of pairs of words
            apart = max(0, len(one.candidate) - 1) - max(0, len(words) - 1)
            near = math.exp(-(apart**2) / (2 * sigma**2))
            for n in range(1, LONGEST + 1):
                total += near * _alike(own[n - 1], _weighed(words, n, weights, log_all))
        found.append(10 * total / LONGEST / len(one.references))
    return found


def _weighed(words: Words, n: int, weights: Mapping[Gram, float], unseen: float) -> dict[Gram, float]:
    return {gram: count * weights.get(gram, unseen) for gram, count in grams(words, n).items()}


def _alike(own: Mapping[Gram, float], other: Mapping[Gram, float]) -> float:
    """The cosine, with what the candidate repeats more often than the reference cut off."""
    product = sum(min(value, other[gram]) * other[gram] for gram, value in own.items() if gram in other)
    lengths = math.sqrt(sum(v * v for v in own.values())) * math.sqrt(sum(v * v for v in other.values()))
    return product / lengths if lengths else 0.0


def grams(words: Words, n: int) -> Counter[Gram]:
    """How often each run of n words stands in a text."""
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def longest_common(first: Words, second: Words) -> int:
    """The length of the longest sequence of words that both have in this order, with gaps."""
    best = [0] * (len(second) + 1)
    for word in first:
        before = 0  # of the row above, one column to the left
        for column, other in enumerate(second, start=1):
            before, best[column] = best[column], before + 1 if word == other else max(best[column], best[column - 1])
    return best[-1]
