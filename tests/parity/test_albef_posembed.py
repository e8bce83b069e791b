"""Resized position embeddings against the recorded ones of the official ``interpolate_pos_embed``."""

import re

import pytest

from mmkit.nn.positions import GridPositions, resize_positions
from tests.parity.compare import OUTPUT, assert_close
from tests.parity.oracle import cases, for_each, load, under

FILES = cases(lambda names: any(re.fullmatch(r"in\.\d+to\d+", name) for name in names))
pytestmark = pytest.mark.parity("ALBEF, resized positions", "the official code, recorded")


@for_each(FILES, "*")
def test_resized_positions(path):
    _, x = load(path)
    for name, given in under(x, "in.").items():
        old, new = (int(side) for side in name.split("to"))
        recorded = x[f"out.{name}"]
        assert_close(resize_positions(given[0], (old, old), (new, new))[None], recorded, OUTPUT, name)
        layer = GridPositions((old, old), given.shape[-1])
        layer.load_state_dict({"table": given[0]})
        assert_close(layer((new, new))[None], recorded, OUTPUT, name)
