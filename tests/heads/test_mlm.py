"""Masked language modelling: what is logged."""

import math

import pytest
import torch

from tests.examples import VOCAB, batch, task


def test_the_accuracy_over_the_hidden_words_and_the_level_of_chance():
    t = task(["mlm"], momentum=None)
    head, b = t.heads["mlm"], batch(6)
    guesses = b.masked.labels.clone()
    guesses[:3] = 5 + (guesses[:3] - 4) % (VOCAB - 5)  # three of twelve are wrong
    head.predict = lambda f: torch.nn.functional.one_hot(guesses, VOCAB).float() * 3
    out = t(b, 0)
    assert out.logs["mlm/accuracy"].item() == pytest.approx(9 / 12)
    assert out.logs["mlm/chance"] == pytest.approx(math.log(VOCAB))
    total = math.log(math.exp(3) + VOCAB - 1)
    assert out.loss.item() == pytest.approx(total - 3 * 9 / 12, rel=1e-5)
