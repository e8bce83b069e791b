"""A second look at the pictures of a batch with patches hidden, which leaves everything else as it would be without it.

For objectives that learn from what is hidden (MAE, SimMIM, BEiT) beside others that see whole pictures. The pass draws
its dropout from a generator of its own, so that the other heads of a run compute the same bits. Left out: a second look
that hides words, which the masked text of a batch is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mmkit.chunks import in_chunks
from mmkit.draws import seed_of
from mmkit.errors import UserError
from mmkit.types import Batch, Hole, ModelSpec, SecondLook, Tokens


def check_hides(spec: ModelSpec, how: str, who: str = "this objective") -> None:
    """UserError for a model that cannot hide patches in this way, "leave out" or "replace"."""
    if how not in spec.hides:
        can = f"can only {' and '.join(spec.hides)} them" if spec.hides else "has no image tower that could"
        raise UserError(f"{who} needs a model that can {how} patches of a picture; this one {can}")


def look_again(model: Any, batch: Batch, hole: Hole, purpose: tuple[object, ...], chunks: int = 1) -> SecondLook:
    """The batch's pictures through the model, with patches hidden. purpose: what its random numbers depend on."""
    check_hides(model.spec, hole.how)

    def see(pixels: Tensor, mask: Tensor | None, keep: Tensor | None, hidden: Tensor | None) -> Tokens:
        seen: Tokens = model.encode_image_again(pixels, mask, Hole(keep=keep, hidden=hidden, by=hole.by))
        return seen

    with _numbers_of(purpose, batch.pixels.device):
        tokens = in_chunks(see, batch.pixels, batch.pixel_mask, hole.keep, hole.hidden, chunks=chunks)
    if hole.hidden is not None:
        return SecondLook(tokens, (~hole.hidden).sum(1))
    patches = tokens.x.shape[1] - model.spec.class_tokens
    return SecondLook(tokens, batch.image_id.new_full((len(batch),), patches))


@contextmanager
def _numbers_of(purpose: tuple[object, ...], device: torch.device) -> Iterator[None]:
    """PyTorch draws from a seed of this purpose inside, and afterwards as if nothing had been drawn."""
    own = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(own, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(seed_of(*purpose))
        yield
