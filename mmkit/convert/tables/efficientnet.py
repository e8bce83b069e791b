"""The names of efficientnet_pytorch (of EfficientNet and EfficientNet-Lite) in those of timm's networks.

The layers are the same, in the same order: there a block's number counts through, here it counts within its stage; and
a block that does not widen first has no such layer here, so that its others move up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mmkit.convert.tables.table import State

MARKS = ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight")
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
WIDENED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip
PLAIN = WIDENED | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def is_one(state: State) -> bool:
    """Whether a state has these names."""
    return all(mark in state for mark in MARKS)


def renamed(state: State, own: Iterable[str]) -> State:
    """The state in the names of timm's network, which has the names ``own``; a name that is not known stays."""
    places = dict.fromkeys(m[0] for name in own if (m := re.match(r"blocks\.\d+\.\d+", name)))
    block = dict(enumerate(places))
    widened = {name.split(".")[1] for name in state if name.startswith("_blocks.") and "._expand_conv." in name}
    found: State = {}
    for name, value in state.items():
        steps = name.split(".")
        if steps[0] in OUTER:
            new = ".".join([OUTER[steps[0]], *steps[1:]])
        elif steps[0] == "_blocks" and int(steps[1]) in block:
            inner = (WIDENED if steps[1] in widened else PLAIN).get(steps[2], steps[2])
            new = ".".join([block[int(steps[1])], inner, *steps[3:]])
        else:
            new = name
        found[new] = value
    return found
