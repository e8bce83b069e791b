"""The classes that a detector knows: their names, and the ids under which they were published."""

from __future__ import annotations

from collections.abc import Sequence

from mmkit.errors import UserError

LARGEST = 1_000_000
"""The largest number that a saved model may name."""


def check_classes(classes: Sequence[str], ids: Sequence[int] = ()) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Both as tuples, the ids 1, 2, ... where none are given. UserError for none, for doubles, and unequal numbers."""
    names, numbers = tuple(classes), tuple(ids) or tuple(range(1, len(classes) + 1))
    if not names or len(set(names)) < len(names):
        raise UserError(f"a detector's classes: {len(names)} names; give at least one, and each once")
    if len(numbers) != len(names) or len(set(numbers)) < len(numbers):
        raise UserError(
            f"a detector's classes: {len(names)} names, {len(numbers)} ids; give each name an id of its own"
        )
    if not all(0 <= number <= LARGEST for number in numbers):
        raise UserError(f"a detector's ids: {min(numbers)} to {max(numbers)}; give whole numbers from 0 to {LARGEST:,}")
    return names, numbers
