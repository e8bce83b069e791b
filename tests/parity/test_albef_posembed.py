"""Resized position embeddings against the recorded ones of the official ``interpolate_pos_embed``."""

import re

import pytest

from mmkit.nn.positions import GridPositions, resize_positions
from tests.parity.oracle import OUTPUT, assert_close, cases, load, under

FILES = cases(lambda names: any(re.fullmatch(r"in\.\d+to\d+", name) for name in names))
CASES = [(path, name) for path in FILES for name in under(load(path)[1], "in.")]
pytestmark = pytest.mark.parity("ALBEF, resized positions", "the official code, recorded")


@pytest.mark.parametrize(("path", "name"), CASES, ids=lambda x: getattr(x, "stem", x))
def test_resized_positions(path, name):
    _, x = load(path)
    old, new = (int(side) for side in name.split("to"))
    given, recorded = x[f"in.{name}"], x[f"out.{name}"]
    assert_close(resize_positions(given[0], (old, old), (new, new))[None], recorded, OUTPUT, name)
    layer = GridPositions((old, old), given.shape[-1])
    layer.load_state_dict({"table": given[0]})
    assert_close(layer((new, new))[None], recorded, OUTPUT, name)
