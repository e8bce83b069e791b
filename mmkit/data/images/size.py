"""An image size, as people write it and as code reads it."""

from __future__ import annotations

from collections.abc import Sequence

from mmkit.errors import UserError

Size = int | tuple[int, int]


def height_width(size: object, name: str = "image size") -> tuple[int, int]:
    """(height, width) in pixels, from one side or both. UserError, which begins with ``name``, for anything else."""
    if type(size) is int and size > 0:
        return size, size
    both = (size, size) if isinstance(size, int) else size
    if not isinstance(both, Sequence) or len(both) != 2 or not all(isinstance(s, int) and s > 0 for s in both):
        raise UserError(f"{name} = {size!r}: give pixels, one side (384) or (height, width) such as (256, 384)")
    return both[0], both[1]
