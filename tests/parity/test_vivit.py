"""ViViT's four models: shapes, plain loops, transformers, and what a model of pictures becomes as one of clips."""

import math

import pytest
import torch
from torch import nn

from mmkit.encoders.vit import ViT
from mmkit.encoders.vivit import FactorisedAttention, FactorisedDotProduct, FactorisedEncoder, SpaceTimeViT
from mmkit.errors import UserError
from mmkit.nn.patch import inflated
from tests.parity.measure import assert_near

SIZE, PATCH = (4, 16, 24), (2, 8, 8)  # a grid of 2 x 2 x 3
SMALL = {"depth": 2, "width": 16, "heads": 4, "mlp_width": 24}


def clips(*size, b=2):
    return torch.randn(b, 3, *(size or SIZE), generator=torch.Generator().manual_seed(1))


def made(kind, image_size=SIZE, patch=PATCH, **more):
    torch.manual_seed(0)
    model = kind(image_size, patch, **SMALL, **more)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [(SpaceTimeViT, 1569), (FactorisedEncoder, 9), (FactorisedAttention, 1568), (FactorisedDotProduct, 1568)],
)
def test_the_shapes_of_the_paper(kind, tokens):
    """16 x 224 x 224 with tubelets of 2 x 16 x 16: 8 x 14 x 14 patches."""
    with torch.device("meta"):
        model = kind((16, 224, 224), (2, 16, 16), **{**SMALL, "depth": 1})
        found = model(torch.empty(1, 3, 16, 224, 224)).x
    assert found.shape == (1, tokens, 16)
    if kind is FactorisedEncoder:
        assert len(model.space.positions.table) == 1 + 196
        assert len(model.time.positions.table) == 1 + 8


def weights_of(attention, x):
    """(q, k, v) of all heads (B, N, H, d)."""
    return [part.unflatten(-1, (attention.heads, -1)) for part in attention.qkv(x).chunk(3, -1)]


def attended(q, k, v):
    """One head of one sequence, (N, d) each, written out."""
    out = torch.zeros_like(q)
    for i in range(len(q)):
        scores = torch.stack([(q[i] * k[j]).sum() / math.sqrt(q.shape[1]) for j in range(len(k))])
        out[i] = (scores.softmax(0)[:, None] * v).sum(0)
    return out


def plain_attention(attention, x):
    """Of one sequence (N, D), head by head."""
    q, k, v = (part[0] for part in weights_of(attention, x[None]))
    heads = [attended(q[:, h], k[:, h], v[:, h]) for h in range(attention.heads)]
    return attention.proj(torch.cat(heads, -1))


def gradients(model, loss):
    names = [name for name, parameter in model.named_parameters()]
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return {name: value for name, value in zip(names, found, strict=True) if value is not None}


def same(model, pixels, reference):
    """Outputs and gradients of both, weighed by fixed random numbers."""
    ours, theirs = model(pixels).x, reference(model, pixels)
    assert_near(ours, theirs, 1e-5)
    weigh = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    one, other = gradients(model, (ours * weigh).sum()), gradients(model, (theirs * weigh).sum())
    assert one.keys() == other.keys()
    largest = max(value.abs().max().item() for value in other.values())
    for name in one:
        assert_near(one[name], other[name], 5e-5, name, "gradients", largest)


def plain_model_2(model, pixels):
    """Each time of each clip through the ViT by itself, then its class tokens through the blocks of time."""
    rows = []
    for clip in pixels:
        first = [model.space(clip[None, :, 2 * t : 2 * t + 2]).x[0, 0] for t in range(clip.shape[1] // 2)]
        x = torch.stack([model.time.cls[0, 0], *first]) + model.time.positions.table
        for block in model.time.blocks:
            x = x + plain_attention(block.attn, block.norm1(x))
            x = x + block.mlp(block.norm2(x))
        rows.append(model.time.norm(x))
    return torch.stack(rows)


def plain_model_3(model, pixels):
    """Attention over time for each place, over space for each time, one MLP."""
    times, places = 2, 6
    rows = []
    for x in model.patch(pixels) + model.positions.table:
        for block in model.blocks:
            normed, out = block.time_norm(x), torch.zeros_like(x)
            for place in range(places):
                at = torch.arange(times) * places + place
                out = out.index_add(0, at, plain_attention(block.time_attn, normed[at]))
            x = x + out
            normed, out = block.norm1(x), torch.zeros_like(x)
            for time in range(times):
                at = torch.arange(places) + time * places
                out = out.index_add(0, at, plain_attention(block.attn, normed[at]))
            x = x + out
            x = x + block.mlp(block.norm2(x))
        rows.append(model.norm(x))
    return torch.stack(rows)


def plain_model_4(model, pixels):
    """Heads 0 and 1 over time, heads 2 and 3 over space, one projection of all."""
    times, places = 2, 6
    rows = []
    for x in model.patch(pixels) + model.positions.table:
        for block in model.blocks:
            q, k, v = (part[0] for part in weights_of(block.attn, block.norm1(x)[None]))
            heads = []
            for h in range(4):
                out = torch.zeros_like(q[:, h])
                groups = [torch.arange(times) * places + place for place in range(places)]
                if h >= 2:
                    groups = [torch.arange(places) + time * places for time in range(times)]
                for at in groups:
                    out = out.index_add(0, at, attended(q[at, h], k[at, h], v[at, h]))
                heads.append(out)
            x = x + block.attn.proj(torch.cat(heads, -1))
            x = x + block.mlp(block.norm2(x))
        rows.append(model.norm(x))
    return torch.stack(rows)


LOOPS = "loops written out"


@pytest.mark.parametrize(
    ("kind", "reference", "more"),
    [
        pytest.param(FactorisedEncoder, plain_model_2, {"time_depth": 1}, marks=pytest.mark.parity("ViViT, 2", LOOPS)),
        pytest.param(FactorisedAttention, plain_model_3, {}, marks=pytest.mark.parity("ViViT, 3", LOOPS)),
        pytest.param(FactorisedDotProduct, plain_model_4, {}, marks=pytest.mark.parity("ViViT, 4", LOOPS)),
    ],
)
def test_models_2_to_4_are_plain_loops(kind, reference, more):
    same(made(kind, **more), clips(), reference)


def test_space_first_is_the_paper_s_order():
    model = made(FactorisedAttention, order="space first")
    other = made(FactorisedAttention)
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(model(clips()).x, other(clips()).x, atol=1e-3)
    with pytest.raises(UserError, match='"time first"'):
        FactorisedAttention(SIZE, PATCH, **SMALL, order="both")


def test_model_2_without_blocks_of_time_is_the_mean_of_frames():
    model = made(FactorisedEncoder, time_depth=0)
    found = model(clips()).x
    torch.testing.assert_close(found[:, 0], found[:, 1:].mean(1))
    torch.testing.assert_close(found, model(clips().flip(2).unflatten(2, (2, 2)).flip(3).flatten(2, 3)).x[:, [0, 2, 1]])


@pytest.mark.parity("ViViT, 1", "transformers")
def test_model_1_is_that_of_transformers():
    from transformers import VivitConfig, VivitModel

    config = VivitConfig(
        image_size=16, num_frames=4, tubelet_size=[2, 8, 8], hidden_size=16, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=24, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = VivitModel(config, add_pooling_layer=False).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = SpaceTimeViT((4, 16, 16), (2, 8, 8), **SMALL, activation="gelu_tanh").eval()
    ours.load_state_dict(of_transformers(theirs.state_dict()))
    pixels = clips(4, 16, 16)
    a, b = ours(pixels).x, theirs(pixels.transpose(1, 2)).last_hidden_state
    assert_near(a, b, 1e-5)
    weigh = torch.randn(a.shape)
    (a * weigh).sum().backward()
    (b * weigh).sum().backward()
    wanted = of_transformers({name: parameter.grad for name, parameter in theirs.named_parameters()})
    largest = max(value.abs().max().item() for value in wanted.values())
    for name, parameter in ours.named_parameters():
        assert_near(parameter.grad, wanted[name], 5e-5, name, "gradients", largest)


def of_transformers(state):
    """Vivit's names as ours."""
    found = {
        "cls": state["embeddings.cls_token"], "positions.table": state["embeddings.position_embeddings"][0],
        "patch.proj.weight": state["embeddings.patch_embeddings.projection.weight"].flatten(1),
        "patch.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": state["layernorm.weight"], "norm.bias": state["layernorm.bias"],
    }  # fmt: skip
    for i in range(2):
        own = {k.removeprefix(f"layers.{i}."): v for k, v in state.items() if k.startswith(f"layers.{i}.")}
        for end in ("weight", "bias"):
            qkv = [own[f"attention.{name}_proj.{end}"] for name in "qkv"]
            found |= {
                f"blocks.{i}.norm1.{end}": own[f"layernorm_before.{end}"], f"blocks.{i}.attn.qkv.{end}": torch.cat(qkv),
                f"blocks.{i}.norm2.{end}": own[f"layernorm_after.{end}"],
                f"blocks.{i}.attn.proj.{end}": own[f"attention.o_proj.{end}"],
                f"blocks.{i}.mlp.fc1.{end}": own[f"mlp.fc1.{end}"],
                f"blocks.{i}.mlp.fc2.{end}": own[f"mlp.fc2.{end}"],
            }  # fmt: skip
    return found


def test_inflation():
    weight = torch.randn(5, 3 * 4)  # 3 colours, 2 x 2 pixels
    whole = weight.unflatten(1, (3, 4))
    central = inflated(weight, 2, 3, "central").unflatten(1, (3, 2, 4))
    assert torch.equal(central[:, :, 1], whole)  # of two frames the second
    assert not central[:, :, 0].any()
    assert torch.equal(inflated(weight, 3, 3, "central").unflatten(1, (3, 3, 4))[:, :, 1], whole)
    filling = inflated(weight, 2, 3, "filling").unflatten(1, (3, 2, 4))
    torch.testing.assert_close(filling.sum(2), whole)
    torch.testing.assert_close(filling[:, :, 0], filling[:, :, 1])


def test_any_number_of_frames_and_any_grid():
    for kind in (SpaceTimeViT, FactorisedEncoder, FactorisedAttention, FactorisedDotProduct):
        model = made(kind)
        assert model(clips(6, 16, 16)).x.isfinite().all()
        with pytest.raises(UserError, match="not a multiple of the patch 2x8x8"):
            model(clips(5, 16, 16))
    same = made(FactorisedEncoder)
    assert same(clips(8, 16, 24)).x.shape == (2, 5, 16)


def test_heads_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match="even number"):
        FactorisedDotProduct(SIZE, PATCH, depth=1, width=15, heads=3)
    with pytest.raises(UserError, match="three axes"):
        SpaceTimeViT((16, 16), (8, 8), **SMALL)


def test_a_picture_s_vit_is_not_changed_by_clips():
    assert ViT((16, 16), (8, 8), **SMALL).sight["hides"] == ("leave out", "replace")
