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
    head.logits = lambda states, words: torch.nn.functional.one_hot(guesses, VOCAB).float() * 3
    out = t(b, 0)
    assert out.logs["mlm/accuracy"].item() == pytest.approx(9 / 12)
    assert out.logs["mlm/chance"] == pytest.approx(math.log(VOCAB))
    total = math.log(math.exp(3) + VOCAB - 1)
    assert out.loss.item() == pytest.approx(total - 3 * 9 / 12, rel=1e-5)


def test_the_teacher_answers_with_its_own_head_and_its_own_words():
    t = task(["mlm"], alpha=0.4).eval()
    with torch.no_grad():
        for part in t.parameters():
            part += torch.randn_like(part) * 0.1
    b = batch(3)
    f = t.features(b, 0)
    student, teacher = t.heads["mlm"].predict(f).log_softmax(-1), t.ema["heads_mlm"].predict(f.teacher).softmax(-1)
    hard = -student[torch.arange(6), b.masked.labels].mean()
    torch.testing.assert_close(t(b, 0).loss, 0.6 * hard - 0.4 * (teacher * student).sum(-1).mean())
    t.alpha = 0.0
    torch.testing.assert_close(t(b, 0).loss, hard)
