"""Wilson's interval against the equation that defines it, and where the bootstrap of a proportion fails."""

import math

import pytest

from mmkit.evals.intervals import Z, wilson


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
