"""Fetching ahead of the loader: the same batches, each block once, not further than the cache allows, and an end."""

import threading
import time
from itertools import islice

import pytest

from mmkit.data.ahead import THREADS, FetchedAhead, ahead_of
from mmkit.data.loader import StepSampler

BATCHES = [[(0, 2 * n), (0, 2 * n + 1)] for n in range(40)]


class Source:
    """Four neighbours lie in one block."""

    def __init__(self, most=400):
        self.held_blocks, self.fetched, self.lock, self.slow = most, [], threading.Lock(), 0.0

    def fetches(self, index):
        return [Fetch(self, index // 4)]


class Fetch(tuple):
    def __new__(cls, source, number):
        made = super().__new__(cls, (number,))
        made.source = source
        return made

    def __call__(self):
        time.sleep(self.source.slow)
        with self.source.lock:
            self.source.fetched.append(self[0])


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came"
        time.sleep(0.002)


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("mmkit-walk", "mmkit-fetch-"))]


def test_the_batches_are_the_samplers_and_every_block_is_fetched_once():
    source = Source()
    sampler = ahead_of(BATCHES, source)
    assert isinstance(sampler, FetchedAhead)
    assert len(sampler) == 40
    walk = iter(sampler)
    assert list(islice(walk, 39)) == BATCHES[:39]
    until(lambda: len(source.fetched) >= 20)
    assert list(walk) == BATCHES[39:]
    until(lambda: not threads())
    assert sorted(source.fetched) == list(range(20))


def test_nothing_changes_where_nothing_is_fetched():
    sampler = StepSampler(8, rank_batch=2, steps=4)
    assert ahead_of(sampler, [1, 2]) is sampler
    assert ahead_of(sampler, Source(most=0)) is sampler


def test_it_runs_no_further_ahead_than_a_share_of_the_cache():
    source = Source(most=16)  # four blocks may wait, those of eight batches
    walk = iter(ahead_of(BATCHES, source))
    assert next(walk) == BATCHES[0]
    until(lambda: len(source.fetched) >= 5)  # that of the batch that was given out is no longer counted
    time.sleep(0.05)
    assert sorted(source.fetched) == [0, 1, 2, 3, 4]
    assert list(islice(walk, 8)) == BATCHES[1:9]
    until(lambda: len(source.fetched) >= 9)
    time.sleep(0.05)
    assert sorted(source.fetched) == list(range(9))
    assert list(walk) == BATCHES[9:]
    until(lambda: not threads())


def test_a_batch_of_many_blocks_is_fetched_in_the_smallest_cache():
    wide = [[(0, 4 * n + 400 * b) for n in range(30)] for b in range(3)]
    source = Source(most=1)
    walk = iter(ahead_of(wide, source))
    assert next(walk) == wide[0]
    until(lambda: len(source.fetched) >= 30)
    assert list(walk) == wide[1:]


def test_it_begins_where_the_sampler_begins():
    source = Source()
    sampler = StepSampler(64, rank_batch=4, steps=12, start_step=9, seed=3)
    wanted = list(sampler)
    walk = iter(ahead_of(sampler, source))
    assert next(walk) == wanted[0]
    blocks = {index // 4 for batch in wanted for _, index in batch}
    assert len(blocks) < 16
    until(lambda: {*source.fetched} == blocks)
    assert list(walk) == wanted[1:]


def test_threads_end_with_the_walk():
    source = Source()
    source.slow = 0.01
    walk = iter(ahead_of(BATCHES, source))
    next(walk)
    assert len(threads()) >= THREADS
    walk.close()
    until(lambda: not threads())
    assert len(source.fetched) < 20 + THREADS


@pytest.fixture(autouse=True)
def no_threads_left():
    yield
    until(lambda: not threads())


@pytest.mark.parametrize("stop", [1, 5])
def test_a_walk_that_is_dropped_ends(stop):
    walk = iter(ahead_of(BATCHES, Source()))
    for _ in range(stop):
        next(walk)
    del walk
    until(lambda: not threads())
