"""Losses where nothing is left to average."""

import torch

from mmkit.data.targets import AnswerScores, Given
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.losses import distilled_cross_entropy, hits, masked_mean, mean_or_zero, soft_cross_entropy
from mmkit.task import Task
from tests.examples import VOCAB, batch
from tests.sizes import albef_tiny


def test_the_mean_of_the_valid_values():
    values = torch.tensor([1.0, 5.0, torch.inf], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, True, False]))
    mean.backward()
    assert mean == 3
    assert values.grad.tolist() == [0.5, 0.5, 0.0]


def test_losses_are_float32_whatever_comes_in():
    torch.manual_seed(0)
    logits, teacher = (torch.randn(4, 9).bfloat16() * 3 for _ in range(2))
    targets, labels = torch.rand(4, 9).bfloat16(), torch.tensor([0, 8, 3, 3])
    soft = soft_cross_entropy(logits, targets)
    distilled = distilled_cross_entropy(logits, labels, teacher, 0.3)
    assert soft.dtype == distilled.dtype == torch.float32
    log_probs = logits.double().log_softmax(-1)
    torch.testing.assert_close(soft.double(), -(targets.double() * log_probs).sum(-1), rtol=1e-5, atol=1e-6)
    hard = -log_probs[torch.arange(4), labels]
    taught = -(teacher.double().softmax(-1) * log_probs).sum(-1)
    torch.testing.assert_close(distilled.double(), 0.7 * hard + 0.3 * taught, rtol=1e-5, atol=1e-6)
    unheard = torch.full_like(teacher, torch.nan)
    for said, alpha in ((None, 0.3), (unheard, 0.0)):
        alone = distilled_cross_entropy(logits, labels, said, alpha)
        torch.testing.assert_close(alone.double(), hard, rtol=1e-5, atol=1e-6)


def test_a_hit_is_the_highest_logit_the_first_of_equal_ones():
    logits = torch.tensor([[0.5, 2.0, 2.0], [0.5, 2.0, 2.0], [3.0, -1.0, 2.0]]).bfloat16().requires_grad_()
    found = hits(logits, torch.tensor([1, 2, 0]))
    assert found.tolist() == [1.0, 0.0, 1.0]
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert hits(logits[:0], torch.tensor([], dtype=torch.int64)).shape == (0,)


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
