"""The loop that opens pictures: order, batches, reading ahead, bad ones, and torch's threads left alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmkit.data.images.opening import BadImage
from mmkit.data.reading import batches, check_share, reading
from mmkit.errors import UserError


def square(item, number):
    assert item == number
    if item % 5 == 4:
        raise BadImage(f"picture {item}: bad")
    time.sleep(0.001 * (3 - item % 4))  # later ones are done sooner
    return item * item


def test_order_and_batches():
    found = list(reading(range(8), lambda i, number: square(i, number) if i % 5 != 4 else -1, batch_size=3))
    assert [read.items for read in found] == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert [read.made for read in found] == [(0, 1, 4), (9, -1, 25), (36, 49)]
    assert [read.done for read in found] == [3, 6, 8]
    assert not any(read.bad for read in found)
    assert list(reading([], square, batch_size=2)) == []
    (alone,) = reading([5], lambda item, number: item, batch_size=1, threads=0)  # there is one at least
    assert alone.made == (5,)


def test_bad_ones_are_left_out_and_told():
    found = list(reading(range(10), square, batch_size=4, bad="leave out"))
    assert [read.items for read in found] == [(0, 1, 2, 3), (5, 6, 7), (8,)]
    assert [read.made for read in found] == [(0, 1, 4, 9), (25, 36, 49), (64,)]
    assert [read.bad for read in found] == [(), ("picture 4: bad",), ("picture 9: bad",)]
    (alone,) = reading([4], lambda item, number: square(4, 4), batch_size=1, bad="leave out")
    assert (alone.items, alone.made, alone.bad, alone.done) == ((), (), ("picture 4: bad",), 1)


def test_bad_ones_are_raised_and_other_errors_always_are():
    with pytest.raises(BadImage, match="picture 4: bad"):
        list(reading(range(10), square, batch_size=4))

    def broken(item, number):
        raise KeyError("bug")

    for bad in ("raise", "leave out"):
        with pytest.raises(KeyError, match="bug"):
            list(reading(range(3), broken, batch_size=4, bad=bad))


def test_it_reads_one_batch_ahead_and_no_more():
    given = []

    def items():
        for i in range(100):
            given.append(i)
            yield i

    loop = reading(items(), lambda item, number: item, batch_size=3, threads=2)
    assert given == []
    next(loop)
    assert len(given) == 6
    next(loop)
    assert len(given) == 9
    before = threading.active_count()
    loop.close()  # whoever stops early leaves no thread behind
    assert threading.active_count() < before


def test_what_was_not_begun_when_it_stops_is_not_opened(monkeypatch):
    stopped, opened = threading.Event(), []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopped.set()
            super().shutdown(wait=wait)

    def make(item, number):
        if item == 0:
            raise BadImage("bad")
        opened.append(item)
        stopped.wait(20)

    monkeypatch.setattr("mmkit.data.reading.ThreadPoolExecutor", Pool)
    with pytest.raises(BadImage):
        list(reading(range(8), make, batch_size=4, threads=1))
    assert opened in ([], [1])


def test_several_threads_open_at_the_same_time():
    both = threading.Barrier(2, timeout=20)
    (read,) = reading(range(2), lambda item, number: both.wait() >= 0, batch_size=2, threads=2)
    assert read.made == (True, True)


def test_torchs_threads_stay_as_they_were():
    """A pool that set them to one set them for every thread that started later."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []
        list(reading(range(4), lambda item, number: torch.ones(3).sum(), batch_size=2))
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_batches_of_less_than_one_are_refused():
    assert list(batches("abcde", 2)) == [("a", "b"), ("c", "d"), ("e",)]
    with pytest.raises(UserError, match="batch_size=0: must be at least 1"):
        next(batches("abc", 0))


@pytest.mark.parametrize(
    ("bad", "total", "share", "few", "fine"),
    [
        (0, 10, 0.0, 0, True), (1, 10, 0.0, 0, False), (1, 10, 0.1, 0, True), (2, 10, 0.1, 0, False),
        (1, 5, 0.1, 0, False), (1, 5, 0.1, 1, True), (2, 5, 0.1, 1, False), (1, 5, 0.0, 1, False),
        (9, 10, 1.0, 0, True), (10, 10, 1.0, 0, False), (0, 0, 0.1, 0, True),
    ],
)  # fmt: skip
def test_how_many_may_be_bad(bad, total, share, few, fine):
    messages = [f"{i}.jpg: damaged" for i in range(bad)]
    if fine:
        check_share(messages, total, share, few=few)
    else:
        with pytest.raises(UserError, match=r"(none of the 10|of \d+) pictures c[\s\S]*0\.jpg: damaged"):
            check_share(messages, total, share, few=few)
