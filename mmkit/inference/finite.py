"""Numbers of a broken model are refused, before anything is sorted or averaged by them."""

from __future__ import annotations

from torch import Tensor

from mmkit.errors import UserError


def finite(values: Tensor, what: str) -> Tensor:
    """The values, of any shape; UserError when one is not a finite number: no ranking of such means anything."""
    if not values.isfinite().all():
        raise UserError(f"the {what} hold values that are not finite; this model is broken, see where its loss left")
    return values
