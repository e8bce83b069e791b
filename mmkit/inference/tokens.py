"""Tokens that wait to be fused: those of many texts without padding, those of many pictures in half precision.

5,000 pictures of 384 pixels through a ViT-B/16 are 577 x 768 numbers each: 8.9 GB in float32, 4.4 GB in half.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from mmkit.types import Tokens

log = logging.getLogger(__name__)

FLOAT32_BYTES = 2 << 30
HALF_MAX = torch.finfo(torch.float16).max
Hold = Literal["auto", "float32", "half"]


class TokenBank:
    """Many texts' tokens, stored without padding and taken out by row in any order.

    Stays on the model's device up to ``device_bytes``; a larger bank is held on the CPU.
    """

    def __init__(self, batches: Iterable[Tokens], device_bytes: int = 1 << 30) -> None:
        parts: list[Tensor] = []
        lengths: list[Tensor] = []
        held, on_cpu = 0, False
        for tokens in batches:
            mask = tokens.full_mask()
            flat = tokens.x[mask]
            held += flat.nbytes
            lengths.append(mask.sum(1).cpu())
            if held > device_bytes and not on_cpu:
                on_cpu, parts = True, [part.cpu() for part in parts]
            parts.append(flat.cpu() if on_cpu else flat)
        self.flat = torch.cat(parts) if parts else torch.empty(0, 0)
        self.lengths = torch.cat(lengths) if lengths else torch.empty(0, dtype=torch.int64)
        self.starts = self.lengths.cumsum(0) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Tensor, device: torch.device | str) -> Tokens:
        """The tokens of the texts ``rows`` (int64, on the CPU), padded to the longest of them."""
        lengths = self.lengths[rows]
        columns = torch.arange(int(lengths.max()))
        mask = columns < lengths[:, None]
        index = (self.starts[rows][:, None] + columns).where(mask, self.starts[rows][:, None])
        return Tokens(self.flat[index.to(self.flat.device)].to(device), mask.to(device))


class HeldTokens:
    """The tokens of batches of pictures on the CPU, as they came in, by the number of the first picture of each.

    total: how many all processes hold together; so the choice does not depend on the number of processes. hold:
    "auto" = half where these would be more than ``FLOAT32_BYTES``. bf16: half is bfloat16, as autocast has it anyway,
    else float16 (about 5e-4 of a value).
    """

    def __init__(self, total: int, hold: Hold = "auto", bf16: bool = False) -> None:
        self.total, self.hold = total, hold
        self.half = torch.bfloat16 if bf16 else torch.float16
        self._held: dict[int, tuple[Tensor, Tensor | None, torch.dtype]] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """What this process holds."""
        return sum(x.nbytes + (0 if mask is None else mask.nbytes) for x, mask, _ in self._held.values())

    def pictures(self, first: int) -> int:
        """How many pictures the batch has that begins with this one."""
        return len(self._held[first][0])

    def renumber(self, rows: Sequence[int]) -> None:
        """Count pictures by their place in ``rows`` from now on; it holds the first of each batch."""
        place = {row: i for i, row in enumerate(rows)}
        self._held = {place[first]: batch for first, batch in self._held.items()}

    def put(self, first: int, tokens: Tokens) -> None:
        """Keep a batch's tokens (b, P, D)."""
        x = tokens.x
        half = self.hold == "half" or (self.hold == "auto" and self.total * x[0].nbytes > FLOAT32_BYTES)
        if x.dtype == torch.float32 and half:
            largest = float(x.abs().max()) if self.half == torch.float16 else 0.0
            if largest > HALF_MAX:
                log.info("image tokens as large as %.3g: held in bfloat16", largest)
            x = x.to(torch.bfloat16 if largest > HALF_MAX else self.half)
        self._held[first] = x.cpu(), None if tokens.mask is None else tokens.mask.cpu(), tokens.x.dtype

    def take(self, first: int, device: torch.device | str) -> Tokens:
        """A batch's tokens on a device, in the precision in which they came."""
        x, mask, dtype = self._held[first]
        return Tokens(x.to(device).to(dtype), None if mask is None else mask.to(device))
