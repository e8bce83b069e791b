"""Random numbers that depend on what they are for and on nothing else: not on the device, nor on the processes.

Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in integer operations of tensors: the
number at a place is a function of a key and of the place, so that each process makes its own rows alone, and any
row can be made without those before it. Left out: drawing from PyTorch's generators, whose numbers differ by device.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import torch
from torch import Tensor

"""A seed is below this: every generator takes it with what is added to it, and none folds two of them into one."""

_WORD = 2**32 - 1
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_ADD = (0x9E3779B9, 0xBB67AE85)


def philox(counters: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int], rounds: int = 10) -> list[Tensor]:
    """Four random words for each counter of four words: int64 tensors of one shape, each value of 32 bits."""
    a, b, c, d = counters
    first, second = key
    for _ in range(rounds):
        x, y = a * _MULTIPLY[0], c * _MULTIPLY[1]  # 64 bits; as a signed number that wraps, with the same bits
        a, b, c, d = ((y >> 32) ^ b ^ first) & _WORD, y & _WORD, ((x >> 32) ^ d ^ second) & _WORD, x & _WORD
        first, second = (first + _ADD[0]) & _WORD, (second + _ADD[1]) & _WORD
    return [a, b, c, d]


def seed_of(*purpose: object) -> int:
    """A seed for a generator of PyTorch, below 2**63, that depends on what it is for."""
    return int.from_bytes(blake2b(repr(purpose).encode(), digest_size=8).digest(), "little") >> 1


class Draws:
    """A stream of random numbers for each of some rows; what is drawn next differs from what was drawn before.

    Uniform numbers and integers are the same bits on every device, the others up to the rounding of its logarithm.

    Args:
        purpose: values that the numbers depend on, such as (seed, step, name); others are independent.
        rows: (B,) int64, at least 0 and below 2**32. A row's numbers depend on it alone, not on the rows beside it.
    """

    def __init__(self, purpose: tuple[int | str, ...], rows: Tensor) -> None:
        digest = blake2b(repr(purpose).encode(), digest_size=16).digest()
        first, second, *self._rest = (int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))
        self._key = (first, second)
        self._rows = rows
        self._drawn = 0

    def words(self, *shape: int) -> Tensor:
        """(B, *shape) int64, uniform from 0 to 2**32 - 1."""
        wanted = math.prod(shape)
        blocks = -(-wanted // 4)
        at_N = torch.arange(self._drawn, self._drawn + blocks, device=self._rows.device)
        self._drawn += blocks
        at_BN = at_N.expand(len(self._rows), -1)
        row_BN = self._rows[:, None].expand(-1, blocks)
        third_BN, fourth_BN = (torch.full_like(at_BN, word) for word in self._rest)
        words_BN4 = torch.stack(philox((at_BN, row_BN, third_BN, fourth_BN), self._key), dim=-1)
        return words_BN4.flatten(1)[:, :wanted].reshape(len(self._rows), *shape)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float32, uniform in [0, 1), multiples of 2**-24."""
        return (self.words(*shape) >> 8).float() * 2.0**-24

    def integers(self, below: int, *shape: int) -> Tensor:
        """(B, *shape) int64, uniform from 0 to ``below`` - 1; ``below`` at most 2**31."""
        if not 1 <= below <= 2**31:
            raise ValueError(f"integers below {below}: at least 1 and at most 2**31")
        return (self.words(*shape) * below) >> 32

    def gumbel(self, *shape: int) -> Tensor:
        """(B, *shape) float32: standard Gumbel, finite; its maximum with log-weights draws in proportion to them."""
        return -(-_inside(self.words(*shape)).log()).log().float()

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32: standard normal."""
        radius, angle = _inside(self.words(2, *shape)).unbind(1)
        return ((-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()).float()


def _inside(words: Tensor) -> Tensor:
    """Uniform strictly between 0 and 1; in double precision, so that it is never rounded to either."""
    return (words.double() + 0.5) * 2.0**-32
