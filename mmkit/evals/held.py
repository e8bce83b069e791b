"""Image tokens that wait for re-ranking: on the CPU, and in half precision where they are many.

5,000 pictures of 384 pixels through a ViT-B/16 are 577 x 768 numbers each: 8.9 GB in float32, 4.4 GB in half.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from mmkit.types import Tokens

log = logging.getLogger(__name__)

FLOAT32_BYTES = 2 << 30
HALF_MAX = torch.finfo(torch.float16).max
Hold = Literal["auto", "float32", "half"]


class HeldTokens:
    """The tokens of batches of pictures by number, as they came in.

    pictures: how many all processes hold together; so the choice does not depend on the number of processes. hold:
    "auto" = half where these would be more than ``FLOAT32_BYTES``. bf16: half is bfloat16, as autocast has it anyway,
    else float16 (about 5e-4 of a value).
    """

    def __init__(self, pictures: int, hold: Hold = "auto", bf16: bool = False) -> None:
        self.pictures, self.hold = pictures, hold
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

    def put(self, number: int, tokens: Tokens) -> None:
        """Keep a batch's tokens (b, P, D)."""
        x = tokens.x
        if x.dtype == torch.float32 and self._halve(x[0].nbytes):
            largest = float(x.abs().max()) if self.half == torch.float16 else 0.0
            if largest > HALF_MAX:
                log.info("image tokens as large as %.3g: held in bfloat16", largest)
            x = x.to(torch.bfloat16 if largest > HALF_MAX else self.half)
        self._held[number] = x.cpu(), None if tokens.mask is None else tokens.mask.cpu(), tokens.x.dtype

    def take(self, number: int, device: torch.device | str) -> Tokens:
        """A batch's tokens on a device, in the precision in which they came."""
        x, mask, dtype = self._held[number]
        return Tokens(x.to(device).to(dtype), None if mask is None else mask.to(device))

    def _halve(self, picture_bytes: int) -> bool:
        return self.hold == "half" or (self.hold == "auto" and self.pictures * picture_bytes > FLOAT32_BYTES)
