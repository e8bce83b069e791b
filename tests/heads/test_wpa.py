"""Word-patch alignment: the plan, its distance, and what is left out of it."""

from dataclasses import replace

import pytest
import torch

from mmkit.errors import UserError
from mmkit.heads.wpa import WPA, cosine_cost, transport_distance, transport_plan
from mmkit.types import ModelSpec
from tests.examples import batch, task
from tests.sizes import albef_tiny, vilt_tiny


def plain_plan(cost, beta, iterations):
    """IPOT as the paper writes it (Xie et al. 2018, algorithm 1), for one matrix of costs without padding."""
    m, n = cost.shape
    sigma, plan, kernel = torch.full((n,), 1 / n), torch.ones(m, n), (-cost / beta).exp()
    for _ in range(iterations):
        step = kernel * plan
        delta = 1 / (m * (step @ sigma))
        sigma = 1 / (n * (step.T @ delta))
        plan = delta[:, None] * step * sigma
    return plan


def test_the_plan_is_that_of_the_paper_with_and_without_padding():
    torch.manual_seed(0)
    cost = torch.rand(2, 7, 5)
    x, y = torch.ones(2, 7, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    x[1, 4:], y[1, 3:] = False, False
    # ours moves x onto y and updates y's side first: the paper's algorithm with the roles exchanged
    plan = transport_plan(cost, x, y, 0.5, 50)
    torch.testing.assert_close(plan[0], plain_plan(cost[0].T, 0.5, 50).T, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(plan[1, :4, :3], plain_plan(cost[1, :4, :3].T, 0.5, 50).T, rtol=1e-4, atol=1e-7)
    assert plan[1].sum() == pytest.approx(1, abs=1e-3)
    assert plan[1, 4:].abs().sum() == plan[1, :, 3:].abs().sum() == 0


def test_a_plan_moves_all_of_the_weight():
    torch.manual_seed(0)
    x, y = torch.ones(1, 7, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    plan = transport_plan(torch.rand(1, 7, 5), x, y, 0.5, 200)[0]
    torch.testing.assert_close(plan.sum(1), torch.full((7,), 1 / 7), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(plan.sum(0), torch.full((5,), 1 / 5), rtol=1e-3, atol=1e-5)


def test_the_distance_of_a_set_to_itself_is_small_and_of_nothing_is_zero():
    torch.manual_seed(0)
    points = torch.randn(1, 6, 16)
    real = torch.ones(1, 6, dtype=torch.bool)
    cost = cosine_cost(points, points)
    near = transport_distance(cost, real, real, iterations=500)
    far = transport_distance(cosine_cost(points, -points), real, real, iterations=500)
    assert near < 0.02
    assert far > near + 0.5
    assert transport_distance(cost, ~real, real) == 0


def test_the_gradient_goes_through_the_costs_alone():
    torch.manual_seed(0)
    x, y = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    cost = torch.rand(1, 3, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(transport_distance(cost, x, y).sum(), cost)
    torch.testing.assert_close(grad, transport_plan(cost.detach(), x, y, 0.5, 50))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("model", [albef_tiny, vilt_tiny])
def test_cls_and_padding_and_a_last_separator_are_no_words(monkeypatch, model, drop_last):
    seen = {}

    def spy(cost, words, patches, *rest):
        seen.update(words=words, patches=patches)
        return transport_distance(cost, words, patches, *rest)

    monkeypatch.setattr("mmkit.heads.wpa.transport_distance", spy)
    t, b = task(["wpa"], momentum=None, model=model), batch()
    t.heads["wpa"].drop_last = drop_last
    t.heads["wpa"](t.features(b, 0))
    assert torch.equal(seen["words"].sum(1), b.mask.sum(1) - 1 - int(drop_last))
    assert not seen["words"][:, 0].any()
    assert (seen["patches"].sum(1) == 16).all()


def test_matching_pairs_count_up_and_the_others_down():
    t = task(["wpa"], momentum=None)
    out = t.heads["wpa"](t.features(batch(), 0))
    (matching, three), (other, rest) = out.logs["matching"], out.logs["other"]
    assert (three, rest) == (3, 3)
    assert out.loss.item() == pytest.approx((matching.item() - other.item()) / 2, abs=1e-5)
    alone = replace(batch(), image_id=torch.zeros(6, dtype=torch.int64))  # nothing else to pair with
    out = t.heads["wpa"](t.features(alone, 0))
    assert out.loss.item() == pytest.approx(out.logs["matching"][0].item())
    assert out.logs["matching"][1] == 6
    assert out.logs["other"] == (0, 0)


def test_widths_that_cannot_be_compared_are_refused():
    with pytest.raises(UserError, match="one width"):
        WPA(ModelSpec(image_width=8, text_width=4, fused_width=4, embed_dim=2, vocab_size=9, fuses=True))
