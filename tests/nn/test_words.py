"""Vectors of words: the numbers of an embedding, with a gradient of the words that were read."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkit.nn import words as module
from mmkit.nn.words import Words

IDS = torch.tensor([[3, 1, 3, 7], [3, 0, 199, 1]])
OTHERS = torch.tensor([[5, 3]])


@pytest.mark.parametrize("judged", [False, True], ids=["read alone", "judging guesses too"])
@pytest.mark.parametrize("passes", [1, 2])
def test_numbers_are_those_of_an_embedding(judged, passes):
    """To the bit, over several readings and several backward passes; what comes out is a whole matrix."""
    torch.manual_seed(0)
    ours, plain = Words(200, 6), nn.Embedding(200, 6)
    plain.load_state_dict(ours.state_dict())
    states, pulls = torch.randn(3, 6), torch.randn(passes, 2, 4, 6)
    seen = []
    for table in (ours, plain):
        for pull in pulls:
            out = (table(IDS) * pull).sum() + table(OTHERS).square().sum()
            if judged:
                out = out + F.linear(states, table.weight).logsumexp(-1).sum()
            out.backward()
        assert table.weight.grad is not None
        assert table.weight.grad.layout is torch.strided
        seen.append(table.weight.grad)
    assert torch.equal(*seen)
    assert torch.equal(ours(IDS), plain(IDS))


def test_rows_alone_are_made(monkeypatch):
    """A row for each word that was read, once; nothing of it where there is no gradient, or where words are few."""
    found = []
    monkeypatch.setattr(module, "_made_whole", lambda weight: found.append(weight.grad))
    ours = Words(200, 6)
    ours(IDS).sum().backward()
    assert found[0]._indices().tolist() == [[0, 1, 3, 7, 199]]
    assert found[0]._values()[:, 0].tolist() == [1, 2, 3, 1, 1]
    few, exact = Words(63, 6), Words(64, 6)
    few(IDS % 63).sum().backward()
    assert len(found) == 1
    exact(IDS % 64).sum().backward()
    assert len(found) == 2
    with torch.no_grad():
        assert not ours(IDS).requires_grad
    assert not ours.requires_grad_(False)(IDS).requires_grad


def test_one_thing_is_done_after_a_pass_and_copies_are_free_of_it():
    ours = Words(200, 6)
    for _ in range(3):
        ours(IDS).sum().backward()
    assert len(ours.weight._post_accumulate_grad_hooks) == 1
    assert not copy.deepcopy(ours).weight._post_accumulate_grad_hooks
    torch.save(ours, io.BytesIO())
    assert ours(IDS[:0]).shape == (0, 4, 6)
