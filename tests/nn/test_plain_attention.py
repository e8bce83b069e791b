"""The CPU's own attention against the same operations with PyTorch's gradients."""

import pytest
import torch
from torch import nn

from mmkit.nn import attention
from mmkit.nn.attention import SelfAttention, attend, attention_weights
from mmkit.nn.dropout import dropout
from mmkit.nn.plain_attention import Heads, PlainAttention, softmax, softmax_gradient

MASK = torch.tensor([[True, True, True, False, False], [True] * 5])[:, None, None]


def parts(tokens=(4, 5, 5), dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(2, 3, n, 8, dtype=dtype, requires_grad=True) for n in tokens]


def gradients(out, inputs):
    torch.manual_seed(2)
    return torch.autograd.grad(out, inputs, torch.randn_like(out))


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_output_and_gradients_are_those_of_the_operations_one_by_one(mask, rate):
    q, k, v = parts()
    torch.manual_seed(1)
    ours = PlainAttention.apply(q, k, v, mask, rate)
    torch.manual_seed(1)
    theirs = dropout(attention_weights(q, k, mask), rate) @ v
    torch.testing.assert_close(ours, theirs)
    for own, wanted in zip(gradients(ours, (q, k, v)), gradients(theirs, (q, k, v)), strict=True):
        torch.testing.assert_close(own, wanted)


def test_of_the_weights_one_copy_is_kept_and_a_byte_of_each_for_what_is_dropped():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        PlainAttention.apply(*parts((4, 7, 7)), None, 0.3)
    assert [x.itemsize for x in kept if x.shape[1:] == (4, 7)] == [8, 1]


def test_in_bfloat16_a_gradient_needs_no_other_kinds_of_products_than_its_forward_pass_and_one_more(monkeypatch):
    """Which oneDNN would make a program for each; the numbers are those of the operations one by one."""
    kinds, plain, factored = [], torch.bmm, torch.baddbmm

    def kind(a, b, alpha=1.0):
        kinds.append((a.shape, a.is_contiguous(), b.shape, b.is_contiguous(), alpha != 1.0))

    def multiplied(a, b):
        kind(a, b)
        return plain(a, b)

    def with_a_factor(start, a, b, *, beta, alpha):
        kind(a, b, alpha)
        return factored(start, a, b, beta=beta, alpha=alpha)

    q, k, v = parts(dtype=torch.bfloat16)
    wanted = gradients(attention_weights(q, k, MASK) @ v, (q, k, v))
    monkeypatch.setattr(torch, "bmm", multiplied)
    monkeypatch.setattr(torch, "baddbmm", with_a_factor)
    found = gradients(PlainAttention.apply(q, k, v, MASK, 0.0), (q, k, v))
    assert len(kinds) == 6
    assert len(set(kinds)) == 3
    for own, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, theirs, rtol=0.03, atol=0.02)


def test_a_causal_layer_reads_what_stands_before():
    q, k, v = parts((5, 5, 5))
    torch.testing.assert_close(attend(q, k, v, None, causal=True), attention_weights(q, k, None, causal=True) @ v)


def test_heads_are_split_and_joined_again():
    x = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    ours = Heads.apply(x, 4, 2)
    theirs = [part.unflatten(-1, (4, -1)).transpose(1, 2) for part in x.chunk(2, dim=-1)]
    for own, wanted in zip(ours, theirs, strict=True):
        assert own.is_contiguous()
        assert torch.equal(own, wanted)
    weights = [torch.randn_like(part) for part in theirs]
    own, wanted = (torch.autograd.grad(split, x, weights)[0] for split in (ours, theirs))
    assert torch.equal(own, wanted)


@pytest.mark.parametrize("keys", [15, 16, 31, 32])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_softmax_is_rounded_once_whichever_way_it_takes(keys, dtype):
    torch.manual_seed(0)
    scores, grad = torch.randn(3, 4, keys).to(dtype), torch.randn(3, 4, keys).to(dtype)
    scores[0, :, 2:] = -torch.inf
    weights, exact = softmax(scores), scores.double().softmax(-1)
    error = 0.0 if dtype == torch.float64 else 2**-8
    assert weights.dtype == dtype
    torch.testing.assert_close(weights.double(), exact, rtol=error, atol=1e-12)
    found, at, given = softmax_gradient(grad, weights), weights.double(), grad.double()
    wanted = at * (given - (given * at).sum(-1, keepdim=True))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=error, atol=max(error / 50, 1e-12))


@pytest.mark.parametrize(("keys", "slow"), [(15, False), (16, True), (31, True), (32, False)])
def test_few_keys_in_bfloat16_take_the_softmax_of_float32(keys, slow):
    scores = torch.randn(2, keys).bfloat16()
    with torch.profiler.profile() as seen:
        softmax_gradient(scores, softmax(scores))
    asked = {event.key for event in seen.key_averages()}
    assert ("aten::to" in asked) == slow


def test_autocast_multiplies_in_bfloat16():
    q, k, v = parts(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v, MASK)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), attend(q, k, v, MASK), rtol=0.05, atol=0.05)
    assert all(grad.dtype == torch.float32 for grad in gradients(out, (q, k, v)))


@pytest.mark.parametrize(("tokens", "rate", "learns", "precision", "fused"), [
    (64, 0.0, False, None, True), (63, 0.0, False, None, False), (64, 0.0, False, torch.bfloat16, True),
    (200, 0.1, False, None, False), (128, 0.0, True, None, True), (127, 0.0, True, None, False),
    (200, 0.1, True, None, False), (128, 0.0, True, torch.bfloat16, False),
])  # fmt: skip
def test_the_fused_kernel_serves_where_it_is_faster(monkeypatch, tokens, rate, learns, precision, fused):
    """And reads what the projection made where it lies; elsewhere heads are copied, for the operations one by one."""
    used, split = [], []
    kernel, heads = torch.nn.functional.scaled_dot_product_attention, Heads.apply

    def noted(*args, **options):
        used.append(True)
        return kernel(*args, **options)

    def counted(*args):
        split.append(True)
        return heads(*args)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", noted)
    monkeypatch.setattr(attention.Heads, "apply", counted)
    torch.manual_seed(0)
    layer, x = SelfAttention(24, 3, dropout=rate), torch.randn(2, tokens, 24, requires_grad=True)
    mask = torch.arange(tokens) < torch.tensor([[tokens], [tokens - 5]])
    with torch.set_grad_enabled(learns), torch.autocast("cpu", precision, enabled=precision is not None):
        out = layer(x, mask)
    assert (bool(used), bool(split)) == (fused, not fused)
    if rate:
        return
    layer.watch = lambda weights: None  # the operations one by one
    wanted = layer(x, mask)
    near = {"rtol": 0.05, "atol": 0.02} if precision else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(out.float(), wanted, **near)
    if learns:
        own, theirs = (
            torch.autograd.grad(found.float().square().sum(), (x, *layer.parameters())) for found in (out, wanted)
        )
        for one, other in zip(own, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=near["rtol"], atol=10 * near["atol"])


def test_a_watched_layer_gives_the_same_and_its_weights():
    layer = SelfAttention(24, 3)
    nn.init.normal_(layer.qkv.weight)
    x, seen = torch.randn(2, 5, 24), []
    plain = layer(x, MASK[:, 0, 0])
    layer.watch = seen.append
    torch.testing.assert_close(layer(x, MASK[:, 0, 0]), plain)
    assert seen[0].shape == (2, 3, 5, 5)
    assert (seen[0][0, :, :, 3:] == 0).all()
