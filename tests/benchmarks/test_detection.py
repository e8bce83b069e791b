"""The benchmark of DETR's step: both sides are one computation, whichever is timed."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import detection

    return detection


def test_both_sides_are_compared_before_they_are_timed(bench, monkeypatch):
    tiny = bench.Setting(2, (3, 4), 8, 16, 2, 24, 2, 6, 5, 3)
    ticks = iter(range(100))
    found = bench.measure(tiny, 3, clock=lambda: next(ticks) ** 2)
    assert found["gradients_apart"] < 1e-4
    assert found["steps"] == 3
    assert found["ratio"] != 1
    monkeypatch.setattr(bench, "WEIGHTS", {**bench.WEIGHTS, "ce": 3.0})
    with pytest.raises(AssertionError, match="gradients differ"):
        bench.measure(tiny, 1)
    assert sys.path[0].endswith("benchmarks")
