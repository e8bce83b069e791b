"""In which order an epoch visits the records: a function of (seed, epoch, position) that keeps nothing in memory.

A permutation of any number of records is a Feistel network over a rectangle of about as many places, with addition in
place of exclusive or, walked on until it lands on a record (Black and Rogaway 2002, "Ciphers with arbitrary finite
domains"); its round function is the finalizer of SplitMix64 (Steele et al. 2014). So a step of a run over a hundred
million records costs what a step over a thousand does. Left out: an order that depends on what a record holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import shake_128

import numpy as np
from numpy.typing import NDArray

from mmkit.errors import UserError

Numbers = NDArray[np.int64]
Words = NDArray[np.uint64]

RULE = "feistel 16"
"""Names what this module computes: two versions with one name give the same orders."""
WINDOW = 1024
"""So many blocks are mixed with each other; a disk's cache should hold them."""
_ROUNDS = 16  # with half of them the orders of six records were not equally frequent


@dataclass(frozen=True, kw_only=True)
class Order:
    """Every record once in each epoch.

    size: records. block: 1 = each record may follow each. More is for disks that read neighbours faster: so many
    neighbours are read together, in an order of the blocks, and ``WINDOW`` blocks are mixed record by record. Where
    blocks begin, and which records (less than a block) come last with the last window, differs from epoch to epoch.
    """

    size: int
    seed: int = 0
    block: int = 1

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UserError(f"block = {self.block}: so many neighbours are read together; at least 1")

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """(N,) int64: the record at each position of an epoch's order, both from 0 to ``size`` - 1."""
        if self.block == 1:
            return permuted(positions, self.size, ("records", self.seed, epoch))
        mixed, whole = self._mixed(epoch, positions), self.size // self.block
        blocks, within = np.divmod(mixed, self.block)
        full = blocks < whole
        blocks[full] = permuted(blocks[full], whole, ("blocks", self.seed, epoch))
        start = int(permuted(np.zeros(1, np.int64), self.size, ("start", self.seed, epoch))[0])
        return (blocks * self.block + within + start) % self.size

    def _mixed(self, epoch: int, positions: Numbers) -> Numbers:
        """The positions, each window of them permuted."""
        length, out = self.block * WINDOW, np.empty_like(positions)
        windows = positions // length
        for window in np.unique(windows):
            here, first = windows == window, int(window) * length
            size = min(length, self.size - first)
            out[here] = first + permuted(positions[here] - first, size, ("window", self.seed, epoch, int(window)))
        return out


def permuted(places: Numbers, size: int, key: tuple[int | str, ...]) -> Numbers:
    """(N,) int64: where the permutation of this key takes each place, both from 0 to ``size`` - 1."""
    keys = np.frombuffer(shake_128(repr(key).encode()).digest(8 * _ROUNDS), "<u8")
    rows = math.isqrt(max(0, size - 1)) + 1  # size 0: of no blocks, none are asked for
    sides, out = (np.uint64(rows), np.uint64(-(-size // rows))), places.astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):
        out[walking] = moved = _rounds(out[walking], sides, keys)
        walking = walking[moved >= size]
    return out.astype(np.int64)


def _rounds(places: Words, sides: tuple[np.uint64, np.uint64], keys: Words) -> Words:
    """Once through the network: a permutation of the rectangle of these sides."""
    rows, columns = sides
    left, right = np.divmod(places, columns)
    for number, key in enumerate(keys):
        if number % 2:
            right = (right + _hashed(left, key)) % columns
        else:
            left = (left + _hashed(right, key)) % rows
    return left * columns + right


def _hashed(numbers: Words, key: np.uint64) -> Words:
    """Numbers of 32 bits that look like drawn ones, a function of each number and the key."""
    out = numbers + key  # wraps, as it should
    out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return out >> np.uint64(32)
