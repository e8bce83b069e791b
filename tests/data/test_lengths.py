"""Texts of one length on all ranks: asked about ahead, padded with what is no word, whatever happens on the way."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from mmkit.data.lengths import of_one_length, widened
from mmkit.errors import UserError
from mmkit.ranks import asking_the_largest
from tests.examples import batch
from tests.several import on_processes


class Others:
    """What the longest text of all ranks is, batch by batch; notes what was asked and answered, in turn."""

    def __init__(self, *longest):
        self.longest, self.told = list(longest), []

    def __call__(self, own):
        number = sum(what == "asked" for what, _ in self.told)
        self.told.append(("asked", own))

        def answer():
            self.told.append(("answered", number))
            return self.longest[number]

        return answer


def test_a_batch_is_as_long_as_the_longest_of_all_ranks():
    own = batch(3, length=10)
    [wide] = of_one_length([own], Others(16), pad_id=7)
    assert wide.ids.shape == wide.mask.shape == wide.masked.ids.shape == (3, 16)
    for before, after in ((own.ids, wide.ids), (own.masked.ids, wide.masked.ids)):
        assert torch.equal(after[:, :10], before)
        assert (after[:, 10:] == 7).all()
    assert torch.equal(wide.mask[:, :10], own.mask)
    assert not wide.mask[:, 10:].any()
    for name in ("positions", "index", "labels"):
        assert getattr(wide.masked, name) is getattr(own.masked, name)
    assert wide.pixels is own.pixels
    assert widened(own, 10, 7) is own
    no_masking = widened(batch(3, length=10).__class__(**{**vars(own), "masked": None}), 12, 7)
    assert (no_masking.masked, no_masking.ids.shape[1]) == (None, 12)


def test_the_next_length_is_asked_about_before_a_batch_is_given_out():
    others = Others(10, 12, 14)
    found = of_one_length([batch(2, length=length) for length in (10, 11, 12)], others, pad_id=0)
    assert next(found).ids.shape[1] == 10
    assert others.told == [("asked", 10), ("asked", 11), ("answered", 0)]
    assert [b.ids.shape[1] for b in found] == [12, 14]
    assert others.told[3:] == [("asked", 12), ("answered", 1), ("answered", 2)]
    assert list(of_one_length([], Others(), pad_id=0)) == []


def test_what_stops_the_loader_is_told_after_the_batch_before_it():
    def broken():
        yield batch(2, length=10)
        raise UserError("a picture")

    found = of_one_length(broken(), Others(11), pad_id=0)
    assert next(found).ids.shape[1] == 11
    with pytest.raises(UserError, match="a picture"):
        next(found)


def test_what_was_made_longer_is_pinned_again(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    list(of_one_length([batch(2, length=10)], Others(16), pad_id=0))
    assert not pinned
    [wide] = of_one_length([batch(2, length=10)], Others(16), pad_id=0, pinned=True)
    assert any(x is wide.ids for x in pinned)
    assert any(x is wide.masked.ids for x in pinned)


def test_closing_ends_the_loader():
    closed = []

    def batches():
        try:
            while True:
                yield batch(2, length=10)
        finally:
            closed.append(True)

    found = of_one_length(batches(), Others(*[10] * 9), pad_id=0)
    next(found)
    found.close()
    del found
    assert closed == [True]


def agree(rank, world, folder):
    largest = asking_the_largest(timedelta(minutes=1))
    answers = [largest(number) for number in (rank, 5 - rank, 8 * (rank == 1))]
    assert [answer() for answer in answers] == [world - 1, 5, 8]
    again = asking_the_largest(timedelta(seconds=0.5))
    if rank == 0:  # the other never asks
        with pytest.raises(RuntimeError, match=r"(?i)timed out"):
            again(1)()
    dist.barrier()


def test_processes_agree_and_none_waits_for_ever(tmp_path):
    on_processes(2, agree, tmp_path)
