"""Where devices compute one thing by other operations: whose way is taken.

On a CPU attention and dropout are written out, as the fused kernels are slow there, and texts lose their padding. What
wants to know beforehand how much memory a GPU will take runs the model on shapes alone, which have no device: it asks
for the fused way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_fused = False


def written_out(x: Tensor) -> bool:
    """Whether what works on this tensor takes the CPU's way."""
    return x.device.type == "cpu" and not _fused


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Inside, nothing is written out, on whatever device."""
    global _fused
    before, _fused = _fused, True
    try:
        yield
    finally:
        _fused = before
