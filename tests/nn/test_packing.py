"""Texts without their padding: the same numbers, from the real tokens alone."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmkit.encoders.text import FusionEncoder, TextEncoder
from mmkit.nn.dropout import dropout
from mmkit.nn.kernels import as_on_a_gpu
from mmkit.nn.packing import Packing, packed, spread
from mmkit.types import Tokens
from tests.examples import batch, task

LENGTHS = torch.tensor([2, 4, 1])
MASK = torch.arange(6) < LENGTHS[:, None]
REAL = [0, 1, 6, 7, 8, 9, 12]  # places of the real tokens
FILL = [2, 3, 4, 5, 10]  # of the padding that makes them a multiple of two a text


def filled(mask):
    """Packed with some padding, as where oneDNN multiplies."""
    with torch.autocast("cpu", torch.bfloat16):
        return Packing.of(mask)


@pytest.fixture
def padded(monkeypatch):
    """Turns packing off, to compare with."""
    return lambda: monkeypatch.setattr(Packing, "of", classmethod(lambda cls, mask: None))


def test_the_real_tokens_stand_one_behind_the_other():
    x = torch.arange(18.0).view(3, 6, 1).requires_grad_()
    out = filled(MASK).pack(x)
    assert out.flatten().tolist() == REAL + FILL
    (out.flatten() * torch.arange(1.0, 13.0)).sum().backward()
    assert x.grad.flatten()[REAL + FILL].tolist() == list(range(1, 13))
    assert x.grad.sum() == sum(range(1, 13))  # and zero elsewhere


@pytest.mark.parametrize("pack", [filled, Packing.of])
@pytest.mark.parametrize("mask", [MASK, MASK.flip(1)])
def test_spread_is_the_inverse_with_any_token_at_the_rest(mask, pack):
    packing = pack(mask)
    x = torch.arange(1.0, 1.0 + len(packing.rows))[:, None]
    out = packing.spread(x)
    assert out.shape == (3, 6, 1)
    assert torch.equal(packing.pack(out), x)
    assert torch.isin(out, x).all()


def test_what_is_spread_has_a_gradient_where_it_was_packed():
    x = torch.arange(1.0, 13.0)[:, None].requires_grad_()
    out = filled(MASK).spread(x)
    assert out.flatten()[REAL + FILL].tolist() == list(range(1, 13))
    (out.flatten() * torch.arange(18.0)).sum().backward()
    assert x.grad.flatten().tolist() == REAL + FILL


def test_tokens_are_found_by_their_positions():
    x = torch.arange(12.0)[:, None]
    out = filled(MASK).take(x, torch.tensor([[1, 0], [3, 2], [0, 0]]))
    assert out[..., 0].tolist() == [[1, 0], [5, 4], [6, 6]]


def test_padding_may_stand_in_front():
    packing = filled(MASK.flip(1))
    assert packing.pack(torch.arange(18.0).view(3, 6, 1)).flatten().tolist()[:7] == [4, 5, 8, 9, 10, 11, 17]
    assert packing.take(torch.arange(12.0)[:, None], torch.tensor([[4], [2], [5]])).flatten().tolist() == [0, 2, 6]


@pytest.mark.parametrize(("lengths", "packed"), [
    ([1, 1], 4), ([2, 2], 4), ([2, 3], 8), ([4, 4], 8), ([6, 4], 12), ([6, 6], 12), ([6, 7], None), ([0, 0], None),
])  # fmt: skip
def test_shapes_are_few_where_onednn_multiplies(lengths, packed):
    packing = filled(torch.arange(7) < torch.tensor(lengths)[:, None])
    assert (None if packing is None else len(packing.rows)) == packed


@pytest.mark.parametrize(("precision", "count"), [("highest", 7), ("high", 12), ("medium", 12)])
def test_no_padding_stays_where_mkl_multiplies(precision, count):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        packing = Packing.of(MASK)
    finally:
        torch.set_float32_matmul_precision(before)
    assert packing.rows.tolist()[:7] == REAL
    assert len(packing.rows) == count


@pytest.mark.parametrize("mask", [None, torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)])
def test_what_has_no_padding_or_no_token_stays(mask):
    assert Packing.of(mask) is None
    x = torch.randn(2, 3, 4)
    assert packed(x, None) is x
    assert spread(x, None) is x


def test_what_would_have_to_be_waited_for_or_has_no_values_keeps_its_padding():
    assert Packing.of(MASK.to("meta")) is None
    with as_on_a_gpu():
        assert Packing.of(MASK) is None
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert Packing.of(MASK.clone()) is None


def test_dropout_drops_what_it_would_drop_of_the_padded_texts():
    x = torch.randn(3, 6, 6)
    torch.manual_seed(0)
    whole = dropout(x, 0.4)
    torch.manual_seed(0)
    packing = Packing.of(MASK)
    assert torch.equal(dropout(packing.pack(x), 0.4, packing), packing.pack(whole))
    assert (packing.pack(whole) == 0).any()


def test_a_text_encoder_computes_the_packed_tokens_alone():
    encoder = TextEncoder(32, 8, depth=2, width=16, heads=2, dropout=0.0)
    seen = []
    encoder.blocks[1].mlp.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    encoder(torch.randint(32, (3, 6)), MASK)
    assert seen == [(7, 16)]


def test_texts_that_read_images_are_packed_too_and_read_their_own():
    encoder = FusionEncoder(depth=2, width=16, heads=2, image_width=12, dropout=0.0)
    seen = []
    encoder.blocks[0].mlp.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    text, images = torch.randn(3, 6, 16), torch.randn(3, 5, 12)
    out = encoder(Tokens(text, MASK), [encoder.context(Tokens(images))])
    assert seen == [(7, 16)]
    for b, length in enumerate(LENGTHS.tolist()):
        alone = encoder(Tokens(text[b : b + 1, :length]), [encoder.context(Tokens(images[b : b + 1]))])
        torch.testing.assert_close(out.x[b : b + 1, :length], alone.x)
    kept = encoder(Tokens(text, MASK), [encoder.context(Tokens(images))], torch.tensor([[1], [3], [0]]))
    torch.testing.assert_close(kept.x[:, 0], out.x[torch.arange(3), torch.tensor([1, 3, 0])])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_has_the_same_losses_and_gradients(padded, checkpointing):
    def step():
        t = task(("itc", "itm", "mlm", "wpa")).train()
        for tower in (t.model.text, t.model.fusion):
            tower.checkpointing = checkpointing
            for block in tower.blocks:
                block.dropout.rate = block.attn.dropout = 0.2  # the draws are the same as well
        torch.manual_seed(1)
        out = t(batch(pad=3), 0)
        out.loss.backward()
        return out.losses, {name: p.grad for name, p in t.named_parameters() if p.grad is not None}

    losses, gradients = step()
    padded()
    wanted, theirs = step()
    torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients, theirs, rtol=1e-4, atol=1e-6)


def test_compiled_blocks_take_packed_texts():
    encoder = TextEncoder(32, 8, depth=1, width=16, heads=2, dropout=0.0)
    ids = torch.randint(32, (3, 6))
    wanted = encoder(ids, MASK).x
    encoder.blocks[0].compile(dynamic=True, backend="eager", fullgraph=True)
    torch.testing.assert_close(encoder(ids, MASK).x, wanted)
