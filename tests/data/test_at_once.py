"""Batches that are made several at once: the same ones, few that take long, and errors at their turn."""

import pytest

from mmkit.data import at_once
from mmkit.data.at_once import MOST, SECONDS, several_at_once


class Clock:
    """A clock that goes on where a batch is made."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(at_once, "time", made)
    return made


def making(clock, count, seconds, made, fails=None):
    for number in range(count):
        clock.now += seconds
        if number == fails:
            raise ValueError("broken")
        made.append(number)
        yield number


@pytest.mark.parametrize(("seconds", "ahead"), [
    (0.0, MOST), (SECONDS / 3.5, 4), (1.1 * SECONDS, 1), (0.9 * SECONDS, 2),
])  # fmt: skip
def test_so_many_are_made_at_once_as_a_moment_allows(clock, seconds, ahead):
    made, seen = [], []
    for number in several_at_once(making(clock, 20, seconds, made)):
        if number % ahead == 0:
            assert made == list(range(min(20, number + ahead)))
        seen.append(number)
        clock.now += 100.0  # a step of training
    assert seen == list(range(20))


@pytest.mark.parametrize("fails", [0, 1, 7, 8, 11])
def test_what_goes_wrong_is_said_when_its_turn_comes(clock, fails):
    batches, given = several_at_once(making(clock, 20, 0.0, [], fails)), []
    for _ in range(fails):
        given.append(next(batches))
    assert given == list(range(fails))
    with pytest.raises(ValueError, match="broken"):
        next(batches)


def test_none_are_none(clock):
    assert list(several_at_once([])) == []
    assert list(several_at_once(range(MOST))) == list(range(MOST))


def test_somebody_who_stops_the_program_is_not_kept_waiting():
    def stopped():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(several_at_once(stopped()))
