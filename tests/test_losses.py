"""Losses where nothing is left to average."""

import torch

from mmkit.data.targets import AnswerScores, Given
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.losses import masked_mean, mean_or_zero
from mmkit.task import Task
from tests.examples import VOCAB, batch
from tests.sizes import albef_tiny


def test_the_mean_of_the_valid_values():
    values = torch.tensor([1.0, 5.0, torch.inf], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, True, False]))
    mean.backward()
    assert mean == 3
    assert values.grad.tolist() == [0.5, 0.5, 0.0]


def test_the_mean_of_nothing_is_zero_and_so_is_its_gradient():
    for values, mean in (
        (torch.ones(3, requires_grad=True), lambda x: masked_mean(x, torch.zeros(3, dtype=torch.bool))),
        (torch.ones(0, requires_grad=True), lambda x: masked_mean(x, torch.zeros(0, dtype=torch.bool))),
        (torch.ones(0, requires_grad=True), mean_or_zero),
    ):
        found = mean(values)
        found.backward()
        assert found == 0
        assert values.grad.tolist() == [0.0] * len(values)


def test_a_batch_without_a_known_answer_is_a_loss_of_zero():
    torch.manual_seed(0)
    model = albef_tiny(VOCAB)
    head = AnswerClassifier(model.spec, ["red", "blue"])
    scores = AnswerScores(Given(), ["red", "blue"])
    made = scores.collate([scores.encode({"answers": ["odd"]}, None) for _ in range(3)])
    b = batch(3)
    out = Task(model, {"answer": head}, momentum=None)(type(b)(**{**vars(b), "targets": made}), 0)
    out.loss.backward()
    assert out.loss == 0
    assert out.counts["answer"] == 0
    grads = [p.grad for p in (*model.parameters(), *head.parameters()) if p.grad is not None]
    assert len(grads) > 10
    assert all(grad.eq(0).all() for grad in grads)
