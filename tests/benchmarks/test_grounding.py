"""The benchmark of Grounding DINO's step: both sides are one computation, whichever is timed."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import grounding

    return grounding


def test_both_sides_are_compared_before_they_are_timed(bench, monkeypatch):
    tiny = bench.Setting(2, ((8, 4, 6), (16, 2, 3), (32, 2, 2)), 32, 16, 4, 64, 1, 2, 4, 3, 2)
    ticks = iter(range(100))
    found = bench.measure(tiny, 3, clock=lambda: next(ticks) ** 2)
    assert found["gradients_apart"] < 1e-3
    assert found["steps"] == 3
    assert found["ratio"] != 1
    own = bench.sums

    def twice(*given):
        total, iou = own(*given)
        return total.plus(total), iou

    monkeypatch.setattr(bench, "sums", twice)
    with pytest.raises(AssertionError, match="gradients differ"):
        bench.measure(tiny, 1)
