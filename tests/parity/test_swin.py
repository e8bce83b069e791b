"""Swin of timm and of torchvision, as our image towers, against transformers': tokens and gradients at a tiny size."""

import pytest
import timm
import torch
import transformers
from torchvision import models

from mmkit.encoders.backbone.by_name import backbone
from tests.parity.measure import assert_near

OUTPUT, GRADIENT = 1e-5, 5e-5
PARTS = ("weight", "bias")
DEPTHS, HEADS, WIDTH, WINDOW = (2, 2), (1, 2), 8, 4  # maps of 16 and 8 cells: the second block of each shifts
REAL = timm.create_model


def net_of(theirs, library):
    """transformers' Swin in the names of timm or torchvision; works on weights and on gradients."""
    timms = library == "timm"
    stage = (lambda i: f"layers.{i}.blocks") if timms else (lambda i: f"features.{2 * i + 1}")
    pairs = [
        ("patch_embed.proj" if timms else "features.0.0", "embeddings.patch_embeddings.projection"),
        ("patch_embed.norm" if timms else "features.0.2", "embeddings.norm"), ("norm", "layernorm"),
    ]  # fmt: skip
    merges = "layers.1.downsample" if timms else "features.2"
    pairs += [(f"{merges}.{part}", f"encoder.layers.0.downsample.{part}") for part in ("norm", "reduction")]
    found = {}
    for i, depth in enumerate(DEPTHS):
        for j in range(depth):
            ours, other = f"{stage(i)}.{j}", f"encoder.layers.{i}.blocks.{j}"
            mlp = ("mlp.fc1", "mlp.fc2") if timms else ("mlp.0", "mlp.3")
            names = {
                "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj",
                mlp[0]: "mlp.fc1", mlp[1]: "mlp.fc2",
            }  # fmt: skip
            pairs += [(f"{ours}.{own}", f"{other}.{name}") for own, name in names.items()]
            table = "relative_position_bias_table"
            found[f"{ours}.attn.{table}"] = theirs[f"{other}.attention.relative_position_bias.{table}"]
            for part in PARTS:
                three = [theirs[f"{other}.attention.{name}_proj.{part}"] for name in "qkv"]
                found[f"{ours}.attn.qkv.{part}"] = torch.cat(three)
    return found | {
        f"{own}.{part}": theirs[f"{name}.{part}"] for own, name in pairs for part in PARTS if f"{name}.{part}" in theirs
    }


def small(monkeypatch, library):
    """The tower, whose library makes a small network of its name."""
    if library == "timm":
        sizes = {"embed_dim": WIDTH, "depths": DEPTHS, "num_heads": HEADS, "window_size": WINDOW}
        monkeypatch.setattr(timm, "create_model", lambda name, **more: REAL(name, **sizes, **more))
        return backbone("timm:swin_tiny_patch4_window7_224", (64, 64))
    sizes = {"embed_dim": WIDTH, "depths": list(DEPTHS), "num_heads": list(HEADS), "window_size": [WINDOW, WINDOW]}
    made = lambda name, **more: models.SwinTransformer([4, 4], stochastic_depth_prob=0.0, **sizes)  # noqa: E731
    monkeypatch.setattr(models, "get_model", made)
    return backbone("torchvision:swin_t", (64, 64))


@pytest.mark.parity("Swin of timm and torchvision", "transformers")
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_swin(library, monkeypatch):
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=WIDTH, depths=list(DEPTHS), num_heads=list(HEADS), window_size=WINDOW,
        drop_path_rate=0.0,
    )  # fmt: skip
    theirs, ours = transformers.SwinModel(config, add_pooling_layer=False).eval(), small(monkeypatch, library).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.5)
        found = net_of({name: p.detach() for name, p in theirs.named_parameters()}, library)
        own = dict(ours.net.named_parameters())
        assert own.keys() == found.keys()
        for name, value in found.items():
            own[name].copy_(value)
    pixels = torch.randn(2, 3, 64, 64)
    tokens, expected = ours(pixels).x, theirs(pixels).last_hidden_state
    assert tokens.shape == (2, 64, 2 * WIDTH)
    assert_near(tokens, expected, OUTPUT, "tokens")
    weigh = torch.randn(tokens.shape)
    (tokens * weigh).sum().backward()
    (expected * weigh).sum().backward()
    gradients = net_of({name: p.grad for name, p in theirs.named_parameters()}, library)
    largest = max(value.abs().max().item() for value in gradients.values())
    for name, value in gradients.items():
        mine = own[name].grad
        if name.endswith("qkv.bias"):  # what a key's bias adds, softmax ignores
            mine, value = (torch.cat(g.chunk(3)[::2]) for g in (mine, value))
        assert_near(mine, value, GRADIENT, name, "gradients", largest if "attn.qkv" in name else 0.0)
