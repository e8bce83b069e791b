"""Which head sorts pictures alone into classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkit.errors import UserError
from mmkit.heads.base import Classifies, reads_words


def picture_head(heads: Mapping[str, Any], name: str | None = None) -> Any:
    """The head of this name, or the only one, that sorts pictures; UserError with the heads that there are."""
    able = {own: head for own, head in heads.items() if isinstance(head, Classifies) and not reads_words(head)}
    if name is None and len(able) == 1:
        return next(iter(able.values()))
    if name in able:
        return able[name]
    has = ", ".join(f"{own} ({type(head).__name__})" for own, head in heads.items()) or "none"
    wanted = "one head that" if name is None else f"a head {name!r} that"
    raise UserError(
        f"this needs {wanted} sorts pictures alone into classes; this model's heads are: {has}. Train one with "
        "configs/pretrain/classify.py; a model that compares pictures with names is measured by mmkit zeroshot"
    )
