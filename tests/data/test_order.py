"""The order of an epoch: every record once, the same on any number of ranks, at no cost in memory."""

import tracemalloc
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from mmkit.data.loader import StepSampler
from mmkit.data.order import RULE, Order, permuted
from mmkit.errors import UserError

LARGE = 100_000_000


def whole(epoch=0, **options):
    made = Order(**options)
    return made.at(epoch, np.arange(made.size))


def is_order(found):
    return np.array_equal(np.sort(found), np.arange(len(found)))


def test_every_record_once_for_any_number_of_them():
    for size in (*range(1, 130), 997, 1_000, 1_023, 1_024, 1_025, 9_409, 10_000, 65_537):
        assert is_order(whole(size=size, seed=3, epoch=size)), size


@pytest.mark.parametrize("block", [2, 7, 256])
def test_blocks_and_windows_visit_every_record_once(block):
    for size in (1, block - 1, block, block + 1, 5 * block, 5 * block + 3, 1_000, 1_009):
        assert is_order(whole(size=size, block=block, window=5)), size


def test_blocks_are_read_whole_within_a_window():
    found, other = (whole(size=4_003, block=8, window=10, seed=1, epoch=epoch) for epoch in (0, 1))
    last = set(found[4_000:].tolist())  # what is no block comes last, and other records in another epoch
    start = next(s for s in range(4_003) if {(s - n) % 4_003 for n in (1, 2, 3)} == last)
    assert last.isdisjoint(other[4_000:].tolist())
    for window in found[:4_000].reshape(50, 80):
        blocks = (window - start) % 4_003 // 8
        assert set(Counter(blocks.tolist()).values()) == {8}
        assert (np.diff(blocks) != 0).sum() > 55  # and they are mixed


def test_a_position_alone_is_what_it_is_among_others():
    """Also of a hundred million records, on which no two positions meet."""
    for block in (1, 256):
        made = Order(size=LARGE, seed=7, block=block)
        places = np.r_[0:2_000, 262_000:264_000, 50_000_000:50_002_000, LARGE - 2_000 : LARGE]
        found = made.at(3, places)
        assert len(np.unique(found)) == len(places)
        assert found.min() >= 0
        assert found.max() < LARGE
        assert [made.at(3, places[i : i + 1])[0] for i in range(0, 8_000, 999)] == found[::999].tolist()
    spread = Order(size=LARGE).at(0, np.arange(10_000)) * 10 // LARGE
    assert all(850 < n < 1_150 for n in np.bincount(spread, minlength=10))


def test_orders_are_equally_frequent():
    """Chi square of 720 kinds of orders has mean 719 and standard deviation 38."""
    found = Counter(tuple(permuted(np.arange(6), 6, (seed,)).tolist()) for seed in range(7_200))
    assert sum((found[kind] - 10) ** 2 / 10 for kind in permutations(range(6))) < 719 + 4 * 38


def test_seed_epoch_and_block_each_make_another_order():
    made = [whole(size=500, **one) for one in ({}, dict(seed=1), dict(epoch=1), dict(seed=1, epoch=1), dict(block=2))]
    assert all((a == b).sum() < 20 for i, a in enumerate(made) for b in made[:i])


def test_an_order_is_the_same_on_every_machine_and_in_every_version_of_its_rule():
    assert RULE == "feistel 16"
    assert whole(size=10, seed=42).tolist() == [8, 0, 6, 1, 5, 9, 7, 3, 2, 4]
    assert Order(size=LARGE, seed=42, block=256).at(5, np.array([0, 12_345_678])).tolist() == [42177541, 79577044]


def test_a_step_of_a_hundred_million_records_needs_no_memory():
    sampler = StepSampler(LARGE, rank_batch=4_096, steps=20_001, start_step=20_000)
    tracemalloc.start()
    [batch] = sampler
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(batch)) == 4_096
    assert peak < 10e6


@pytest.mark.parametrize("block", [1, 4])
def test_ranks_and_resumed_runs_share_one_order(block):
    def taken(**options):
        return list(StepSampler(103, seed=3, rank_batch=4, steps=30, block=block, **options))

    one = taken(accumulation=6)
    for world in (2, 3, 6):
        ranks = [taken(accumulation=6 // world, world=world, rank=rank) for rank in range(world)]
        assert [ranks[r][m] for m in range(len(ranks[0])) for r in range(world)] == one
    assert taken(accumulation=6, start_step=11) == one[66:]
    assert [index for batch in one[:24] for _, index in batch] == whole(size=103, seed=3, block=block)[:96].tolist()


def test_a_block_has_records():
    with pytest.raises(UserError, match=r"block = 0: .*at least 1"):
        StepSampler(9, rank_batch=1, steps=1, block=0)
    assert is_order(whole(size=3, block=9))
