"""Wilson's interval against the equation that defines it, and where the bootstrap of a proportion fails."""

import math

import pytest
import torch

from mmkit.evals.intervals import Z, clustered, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (600, 1000), (4.2, 7)])
def test_its_ends_are_the_rates_from_which_the_found_one_is_just_as_far(hits, n):
    """Wilson (1927): |rate - p| = z * sqrt(p (1 - p) / n) at both ends p."""
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(hits / n - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / n), abs=1e-12)


def test_known_values_and_no_zero_width():
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(5, 10) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson(81, 263) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))  # Newcombe (1998)
    assert wilson(0, 0) == (0.0, 1.0)


def spread(hits, groups):
    """Of how many independent samples the variance is, by the definition: whole groups are drawn at random."""
    n, size = len(hits), max(groups) + 1
    rate = sum(hits) / n
    apart = [sum(hit - rate for hit, group in zip(hits, groups, strict=True) if group == g) for g in range(size)]
    variance = size / (size - 1) * sum(a * a for a in apart) / n**2
    return rate * (1 - rate) * n / (n - 1) / variance


def test_groups_are_worth_less_than_as_many_samples():
    hits, groups = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 2, 3, 3, 3, 3]
    worth = spread(hits, groups)
    found = clustered(torch.tensor(hits).double(), torch.tensor(groups))
    assert worth < 10
    assert found == pytest.approx(wilson(0.4 * worth, worth))
    assert found[0] < wilson(4, 10)[0]
    assert found[1] > wilson(4, 10)[1]
    assert clustered(torch.tensor(hits), 7 - torch.tensor(groups)) == pytest.approx(found)  # by whatever numbers


def test_samples_that_stand_alone_are_as_wilson_has_them():
    for hits in ([1.0, 0, 0, 1, 0, 1, 1], [0.0] * 5, [1.0] * 5, [0.5] * 6, [1.0], [0.2, 0.9]):
        found = clustered(torch.tensor(hits).double(), torch.arange(len(hits)))
        assert found == pytest.approx(wilson(sum(hits), len(hits)))
    assert clustered(torch.empty(0), torch.empty(0, dtype=torch.int64)) == (0.0, 1.0)


def test_where_all_are_right_or_all_wrong_a_group_counts_as_one():
    group = torch.arange(12) // 3
    assert clustered(torch.zeros(12), group) == pytest.approx(wilson(0, 4))
    assert clustered(torch.ones(12), group) == pytest.approx(wilson(4, 4))
    assert clustered(torch.tensor([1.0, 0, 1, 0]), torch.zeros(4, dtype=torch.int64)) == pytest.approx(wilson(0.5, 1))


def test_groups_that_differ_less_than_chance_make_it_no_narrower():
    hits = torch.tensor([1.0, 0] * 6)
    assert clustered(hits, torch.arange(12) // 2) == pytest.approx(wilson(6, 12))
