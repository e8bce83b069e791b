"""The names of the layouts, told without their tables."""

from mmkit.convert.layouts.known import LAYOUTS
from mmkit.convert.layouts.names import NAMES


def test_names_are_those_of_the_layouts():
    assert [layout.name for layout in LAYOUTS] == list(NAMES)
