"""Two processes read texts as long as one process with the joined batch does, whichever has the longest."""

from dataclasses import replace
from functools import partial

import torch

from mmkit.ranks import gather_objects
from mmkit.train.build import assemble
from tests.several import on_processes
from tests.train.fakes import Squares, change, plain

STEPS = 4


class Unequal(Squares):
    """A few words, and with every fifth picture more of them."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        return replace(record, captions=("a red square in my garden, " * 2 if index % 5 == 2 else "red",))


def lengths(folder, world):
    exp = change(plain(STEPS), data=dict(train=partial(Unequal, 40), max_tokens=60, global_batch=4))
    folder.mkdir(exist_ok=True)
    parts = assemble(exp, folder, exp.data.batch_plan(world))
    batches = list(parts.loader(0, STEPS))
    assert all(b.ids.shape == b.mask.shape == b.masked.ids.shape for b in batches)
    own = [int(b.mask.sum(1).max()) for b in batches]
    return [b.ids.shape[1] for b in batches], own, torch.stack([b.image_id for b in batches])


def work(rank, world, folder):
    found = gather_objects(lengths(folder / "two", world))
    if rank == 0:
        torch.save(found, folder / "lengths.pt")


def test_texts_are_as_long_as_the_longest_of_both(tmp_path):
    on_processes(2, work, tmp_path)
    first, second = torch.load(tmp_path / "lengths.pt")
    one, longest, ids = lengths(tmp_path / "one", 1)
    assert torch.equal(torch.cat([first[2], second[2]], 1), ids)
    assert first[0] == second[0] == one
    assert [max(pair) for pair in zip(first[1], second[1], strict=True)] == longest
    assert first[1] != second[1]
    assert 8 == min(one) < max(one) < 60
