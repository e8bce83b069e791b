"""The vocabulary's head: the same numbers whatever fills up its rows."""

import pytest
import torch
from torch import nn

from mmkit.nn import vocabulary
from mmkit.nn.vocabulary import VocabularyHead


@pytest.mark.parametrize(
    ("count", "half", "multiplied"), [(5, True, 32), (32, True, 32), (33, True, 64), (5, False, 5)]
)
def test_rows_are_filled_up_where_onednn_multiplies(monkeypatch, count, half, multiplied):
    head = VocabularyHead(8, 12)
    nn.init.normal_(head.bias)
    states = torch.randn(count, 8, requires_grad=True)
    words = torch.randn(12, 8, requires_grad=True)
    seen, product = [], vocabulary.F.linear

    def noted(x, weight, bias):
        seen.append(len(x))
        return product(x, weight, bias)

    monkeypatch.setattr(vocabulary.F, "linear", noted)

    def found():
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = head.logits(states, words).float()
        return out, torch.autograd.grad(out.square().sum(), (states, words, head.bias))

    logits, gradients = found()
    assert seen == [multiplied, multiplied]  # by BERT's linear layer too
    assert logits.shape == (count, 12)
    monkeypatch.setattr(vocabulary, "ROWS", 1)
    wanted, theirs = found()
    assert seen[2:] == [count, count]
    torch.testing.assert_close(logits, wanted)
    torch.testing.assert_close(gradients, theirs, rtol=0.01, atol=0.01)
