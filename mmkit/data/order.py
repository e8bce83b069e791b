"""In which order an epoch visits the records: a function of (seed, epoch, position) that keeps nothing in memory.

A permutation of any number of records is a Feistel network over a rectangle of about as many places, with addition in
place of exclusive or, walked on until it lands on a record (Black and Rogaway 2002, "Ciphers with arbitrary finite
domains"); its round function is the finalizer of SplitMix64 (Steele et al. 2014). So a step of a run over a hundred
million records costs what a step over a thousand does. Of several sets with weights each position of a run is of one
set by a keyed draw, and each set has its own order. Left out: an order that depends on what a record holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from fractions import Fraction
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
ROUND = 1000
"""Of so many positions, or up to twice as many, each set has its exact share; see ``Mixed``."""
SMALLEST = 10_000
"""A share is a whole number of parts of so many."""
_ROUNDS = 16  # with half of them the orders of six records were not equally frequent


@dataclass(frozen=True, kw_only=True)
class Order:
    """Every record once in each epoch.

    size: records. block: 1 = each record may follow each. More is for disks that read neighbours faster: so many
    neighbours are read together, in an order of the blocks, and ``window`` blocks are mixed record by record. Where
    blocks begin, and which records (less than a block) come last with the last window, differs from epoch to epoch.
    """

    size: int
    seed: int = 0
    block: int = 1
    window: int = WINDOW

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UserError(f"block = {self.block}: so many neighbours are read together; at least 1")
        if self.window < 1:
            raise UserError(f"window = {self.window}: so many blocks are mixed; at least 1")

    def told(self) -> str:
        """What it is, apart from size and seed: two that say the same are the same."""
        return RULE if self.block == 1 else f"{RULE}, {self.window} blocks of {self.block} mixed"

    def visits(self, step: int, places: Numbers, global_batch: int) -> tuple[Numbers, Numbers]:
        """(epochs, records), each (N,) int64, at places 0 to ``global_batch`` - 1 of a step. What remains of an epoch
        that is less than a step is left to the next orders.
        """
        epoch, within = divmod(step, self.size // global_batch)
        return np.full(len(places), epoch), self.at(epoch, within * global_batch + places)

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
        length, out = self.block * self.window, np.empty_like(positions)
        windows = positions // length
        for window in np.unique(windows):
            here, first = windows == window, int(window) * length
            size = min(length, self.size - first)
            out[here] = first + permuted(positions[here] - first, size, ("window", self.seed, epoch, int(window)))
        return out


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Several sets by weights, one record after the other in the numbers of all: that of a set follows the one before.

    parts: the order of each set. shares: whole numbers, a set's of every ``sum(shares)`` positions; see ``shares_of``.
    A small set is visited again and again, each time in another order, whatever becomes of a large one.
    """

    parts: tuple[Order, ...]
    shares: tuple[int, ...]
    seed: int = 0
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The records of all sets."""
        return sum(part.size for part in self.parts)

    def told(self) -> str:
        """As of ``Order``."""
        return "; ".join(f"{share} x {part.told()}" for share, part in zip(self.shares, self.parts, strict=True))

    def sets(self) -> tuple[tuple[str, int, float], ...]:
        """(name, records, share of the samples) of each set."""
        told = zip(self.names or map(str, range(len(self.parts))), self.parts, self.shares, strict=True)
        return tuple((name, part.size, share / sum(self.shares)) for name, part, share in told)

    def visits(self, step: int, places: Numbers, global_batch: int) -> tuple[Numbers, Numbers]:
        """As of ``Order``; an epoch is here one visit of all records of the set."""
        sets, draws = self.drawn(step * global_batch + places)
        epochs, records, first = np.empty_like(draws), np.empty_like(draws), 0
        for number, part in enumerate(self.parts):
            own = sets == number
            epochs[own], positions = np.divmod(draws[own], part.size)
            found = np.empty_like(positions)
            for epoch in np.unique(epochs[own]):
                here = epochs[own] == epoch
                found[here] = part.at(int(epoch), positions[here])
            records[own] = first + found
            first += part.size
        return epochs, records

    def drawn(self, positions: Numbers) -> tuple[Numbers, Numbers]:
        """(sets, draws), each (N,) int64: whose turn each position of the run is, and how many turns it had before."""
        shares = np.array(self.shares, np.int64)
        ends = np.cumsum(shares)
        rounds, slots = np.divmod(positions, ends[-1])
        for number in np.unique(rounds):
            here = rounds == number
            slots[here] = permuted(slots[here], int(ends[-1]), ("sets", self.seed, int(number)))
        sets = np.searchsorted(ends, slots, side="right")
        return sets, rounds * shares[sets] + slots - (ends - shares)[sets]


def order_of(
    source: Sized, *, seed: int = 0, block: int | None = None, window: int | None = None
) -> Order | Mixed:  # fmt: skip
    """The order in which training takes the records of a source: its own (``source.order``), or the plain one.

    block, window: as of ``Order``; None = what the source says is read together and fits its memory
    (``source.neighbours``, both as a pair), or 1 and ``WINDOW``.
    """
    own = getattr(source, "order", None)
    if callable(own):
        made: Order | Mixed = own(seed=seed, block=block, window=window)
        return made
    told = getattr(source, "neighbours", None) or (1, WINDOW)
    return Order(
        size=len(source), seed=seed, block=told[0] if block is None else block,
        window=told[1] if window is None else window,
    )  # fmt: skip


def part_seed(seed: int, number: int) -> int:
    """The seed of one of several sets, so that no two of one size have one order."""
    return int.from_bytes(shake_128(repr(("set", seed, number)).encode()).digest(6), "little")


def shares_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in the proportion of the weights, in sum ``ROUND`` to twice that, or ``SMALLEST`` at most.

    UserError for weights that are not above 0, or of which one is too small a share.
    """
    if not all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in weights):
        raise UserError(f"weights = {tuple(weights)}: each must be a number above 0")
    exact = [Fraction(str(weight)) for weight in weights]
    wanted = [SMALLEST * weight / sum(exact) for weight in exact]
    parts = [int(share) for share in wanted]
    rest = sorted(range(len(parts)), key=lambda i: (parts[i] - wanted[i], i))  # the largest remainders
    for i in rest[: SMALLEST - sum(parts)]:
        parts[i] += 1
    if min(parts) < 1:
        raise UserError(
            f"weights = {tuple(weights)}: one is less than 1 of {SMALLEST:,}; leave it out, or give it more"
        )
    common = math.gcd(*parts)
    times = -(-ROUND // (sum(parts) // common))
    return tuple(part // common * times for part in parts)


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
