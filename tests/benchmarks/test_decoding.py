"""The benchmark of decoding: both sides write the same texts, of as many words as were asked for."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import decoding

    return decoding


def test_both_sides_write_the_same_texts_to_the_end(bench):
    tiny = {"depth": 2, "width": 16, "heads": 2, "vocab": 50, "tokens": 5}
    ours, theirs = (call() for call in bench.writers(tiny, 4, 6, 3))
    assert ours.shape == (4, 6)
    assert torch.equal(ours, theirs)
    assert (ours[:, :-1] != bench.LAST).all()
    assert len({tuple(row) for row in ours.tolist()}) > 1  # of different pictures
