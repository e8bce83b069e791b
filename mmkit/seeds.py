"""What a seed may be: one rule for configs, commands and classes. Imports nothing that is slow."""

from __future__ import annotations

from mmkit.errors import UserError

SEEDS = 2**40


def check_seed(seed: int, name: str) -> None:
    """UserError where ``seed``, of the argument or flag ``name``, is not a whole number from 0 to 2**40 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise UserError(f"{name} = {seed}: a seed is a whole number, at least 0 and below 2**40 ({SEEDS:,})")
