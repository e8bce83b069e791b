"""What every model promises."""

import pytest
import torch

from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from mmkit.features import Model
from mmkit.models.sizes.albef import albef, albef_base, albef_mini, albef_small
from mmkit.types import Tokens
from tests.examples import VOCAB, batch
from tests.sizes import albef_tiny, dual_tiny, lit_tiny, siglip_tiny, vilt_tiny

MODELS = {"albef": albef_tiny, "vilt": vilt_tiny, "clip": dual_tiny, "siglip": siglip_tiny, "lit": lit_tiny}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param](VOCAB)


def fuse(model, b):
    return model.fuse(model.encode_text(b.ids, b.mask), [model.image_context(model.encode_image(b.pixels))])


def test_the_protocol_and_its_shapes(model):
    b = batch(3)
    assert isinstance(model, Model)
    image, text = model.encode_image(b.pixels), model.encode_text(b.ids, b.mask)
    assert image.x.shape[-1] == model.spec.image_width
    assert text.x.shape == (3, 10, model.spec.text_width)
    if model.spec.embed_dim:
        for embed in (model.embed_image(image), model.embed_text(text)):
            assert embed.shape == (3, model.spec.embed_dim)
            torch.testing.assert_close(embed.norm(dim=-1), torch.ones(3))
    if model.spec.fuses:
        assert fuse(model, b).x.shape[-1] == model.spec.fused_width


def words_of(model, b):
    """What the model makes of the real words of a batch: fused states where it fuses, else embeddings."""
    if model.spec.fuses:
        return fuse(model, b).x[:, : b.ids.shape[1]][b.mask]
    return model.embed_text(model.encode_text(b.ids, b.mask))


def test_padding_changes_nothing(model):
    model.eval()
    torch.testing.assert_close(words_of(model, batch()), words_of(model, batch(pad=4)), rtol=1e-5, atol=1e-5)


def test_samples_do_not_see_each_other(model):
    b = batch()
    alone = model.eval().encode_image(b.pixels[2:3]).x
    torch.testing.assert_close(model.encode_image(b.pixels).x[2:3], alone, rtol=1e-5, atol=1e-5)


def test_other_resolutions_run(model):
    beside = model.encode_image(torch.randn(2, 3, 32, 32)).x.shape[1] - 4 * 4
    assert model.encode_image(torch.randn(2, 3, 48, 24)).x.shape[1] == beside + 6 * 3


def test_checkpointing_changes_neither_loss_nor_gradient():
    options = {"image_size": 32, "max_tokens": 16, "patch": 8, "image_depth": 2, "image_width": 32, "image_heads": 2,
               "text_depth": 2, "fusion_depth": 2, "text_width": 32, "text_heads": 2, "dropout": 0.1}  # fmt: skip
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = albef(VOCAB, **options, checkpointing=checkpointing).train()
        torch.manual_seed(1)
        fuse(model, batch()).x.square().mean().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


def test_bf16_runs_and_is_close(model):
    b = batch()
    exact = words_of(model.eval(), b)
    with torch.autocast("cpu", torch.bfloat16):
        assert (words_of(model, b).float() - exact).abs().mean() < 0.05


def test_intermediates_are_named():
    vit = ViT((16, 16), (8, 8), depth=3, width=8, heads=2)
    tokens, seen = vit.intermediates(torch.randn(2, 3, 16, 16), ["embed", "blocks.2"])
    assert set(seen) == {"embed", "blocks.2"}
    torch.testing.assert_close(vit.norm(seen["blocks.2"]), tokens.x)
    with pytest.raises(ValueError, match=r"blocks\.7.*blocks\.2"):
        vit.intermediates(torch.randn(2, 3, 16, 16), ["blocks.7"])


def test_too_long_a_text_is_an_error(model):
    with pytest.raises(UserError, match=r"17 tokens.*16 positions"):
        model.encode_text(torch.ones(1, 17, dtype=torch.int64), None)


def test_the_named_sizes_have_their_parameters():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in size().parameters()) / 1e6 for size in (albef_base, albef_small)]
        assert albef_mini(2000).spec.vocab_size == 2000
    assert counts == [pytest.approx(209.3, abs=0.1), pytest.approx(58.6, abs=0.1)]


def test_images_made_ready_are_selected_by_row(model):
    if not model.spec.fuses:
        pytest.skip("does not fuse")
    model.eval()
    b = batch()
    image = model.encode_image(b.pixels)
    order = torch.tensor([3, 0, 5])
    text = model.encode_text(b.ids[:3], b.mask[:3])
    selected = model.fuse(text, [model.image_context(image).rows(order)])
    direct = model.fuse(text, [model.image_context(Tokens(image.x[order]))])
    torch.testing.assert_close(selected.x, direct.x, rtol=1e-5, atol=1e-6)
