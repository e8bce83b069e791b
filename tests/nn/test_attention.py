"""Attention, blocks and dropout against PyTorch's own, and against their promises."""

import pytest
import torch
import torch.nn.functional as F

from mmkit.errors import UserError
from mmkit.nn.attention import CrossAttention, SelfAttention, attend
from mmkit.nn.block import DropPath, PostNormBlock, PreNormBlock
from mmkit.nn.dropout import dropout


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_is_scaled_dot_product_attention(causal, masked):
    q, k, v = torch.randn(3, 2, 4, 5, 8).unbind()
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    if masked:
        mask[1, :, :, 3:] = False
    both = mask.tril() if causal else mask
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=both)
    torch.testing.assert_close(attend(q, k, v, both if masked else None, causal=causal and not masked), expected)


@pytest.mark.parametrize("heads", [0, -2, 5])
def test_heads_must_divide_the_width(heads):
    with pytest.raises(UserError, match=f"width 32 cannot be split into {heads} heads"):
        SelfAttention(32, heads)


def test_self_attention_equals_torch_multihead():
    ours, theirs = SelfAttention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.proj.weight.data, ours.proj.bias.data
    x, mask = torch.randn(3, 7, 16), torch.arange(7) < torch.tensor([7, 4, 2])[:, None]
    torch.testing.assert_close(ours(x, mask), theirs(x, x, x, key_padding_mask=~mask, need_weights=False)[0])


def test_what_is_kept_equals_what_all_gives():
    block = PostNormBlock(16, 4, 32, source_width=8, dropout=0.0)
    x, mask = torch.randn(3, 6, 16), torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    sources = [block.cross.project(torch.randn(3, 5, 8))]
    keep = torch.tensor([[0, 3], [1, 1], [0, 1]])
    every = block(x, mask, None, sources, [1])
    kept = block(x, mask, keep, sources, [1])
    torch.testing.assert_close(kept, every.gather(1, keep[..., None].expand(-1, -1, 16)))
    pre = PreNormBlock(16, 4, 32)
    torch.testing.assert_close(pre(x, mask, keep), pre(x, mask).gather(1, keep[..., None].expand(-1, -1, 16)))


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_kept_of_a_causal_layer_equals_what_all_gives(masked):
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, causal=True)
    x, keep = torch.randn(3, 6, 8), torch.tensor([[5, 0], [2, 4], [3, 3]])
    mask = torch.arange(6) < torch.tensor([[6], [5], [4]]) if masked else None
    whole = attention(x, mask)
    torch.testing.assert_close(attention(x, mask, keep), whole.gather(1, keep[..., None].expand(-1, -1, 8)))
    changed = x.clone()
    changed[0, 1:] += 1
    torch.testing.assert_close(attention(changed, mask, keep)[0, 1], whole[0, 0])


def test_folded_rows_read_their_own_source():
    cross = CrossAttention(16, 4, 8)
    images = torch.randn(2, 5, 8)
    x = torch.randn(6, 3, 16)
    one, other = cross.project(images), cross.project(images).rows(torch.tensor([1, 0]))
    folded = cross(x, [one, other], [2, 1])
    apart = torch.cat([cross(x[:2], [one], [1]), cross(x[2:4], [one], [1]), cross(x[4:], [other], [1])])
    torch.testing.assert_close(folded, apart)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_mean_and_drops_the_share(dtype):
    torch.manual_seed(0)
    x = torch.ones(200_001, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.1)
    assert (y == 0).float().mean().item() == pytest.approx(0.1, abs=0.003)
    assert y.float().mean().item() == pytest.approx(1.0, abs=0.01)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    assert not torch.equal(dropout(x, 0.1), y)


def test_drop_path_drops_whole_samples_in_training_alone():
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 2, 3)
    y = layer(x)
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 4 / 3]))
    assert (y.flatten(1) == y[:, :1, 0]).all()
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)
    assert layer.eval()(x) is x
