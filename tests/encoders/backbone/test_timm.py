"""Networks of timm as image towers: tokens, grid, prefix, sizes and layers of each family."""

import sys

import pytest
import timm
import torch
from torch import nn

from mmkit.encoders.backbone.by_name import backbone
from mmkit.errors import UserError
from mmkit.models.vision import Vision
from tests.encoders.backbone.tiny import REAL, TINY, tiny, tower  # noqa: F401

# name, size, patch, prefix, pooling, unit, a size that fits too (None where only its own does), its last layer
FAMILIES = [
    ("vit_tiny_patch16_224", (32, 48), 16, 1, "first", 16, (64, 16), "blocks.1"),
    ("deit_tiny_distilled_patch16_224", (32, 32), 16, 2, "first", 16, (16, 48), "blocks.1"),
    ("vit_small_patch14_reg4_dinov2", (28, 42), 14, 5, "first", 14, (28, 28), "blocks.1"),
    ("vit_medium_patch16_reg4_gap_256", (32, 32), 16, 4, "mean", 16, (48, 32), "blocks.1"),
    ("beit_base_patch16_224", (32, 32), 16, 1, "mean", 16, None, "blocks.1"),
    ("swin_tiny_patch4_window7_224", (64, 96), 32, 0, "mean", 4, (64, 68), "layers.3"),
    ("swinv2_tiny_window8_256", (64, 64), 32, 0, "mean", 4, (96, 64), "layers.3"),
    ("test_convnext", (64, 64), 32, 0, "mean", 32, (96, 64), "stages.3"),
    ("test_resnet", (64, 64), 32, 0, "mean", 1, (65, 97), "layer4"),
    ("test_efficientnet", (64, 50), 32, 0, "mean", 1, (33, 64), "blocks.4"),
    ("mobilenetv3_small_050", (64, 64), 32, 0, "mean", 1, (70, 40), "blocks.5"),
    ("test_mambaout", (64, 64), 32, 0, "mean", 1, (33, 95), "stages.3"),
]


def flattened(net, x):
    """What ``forward_features`` gives, row by row, by each family's own layout."""
    last = net.forward_features(x)
    if last.ndim == 3:
        return last
    rows = last.flatten(1, 2) if getattr(net, "output_fmt", "NCHW") == "NHWC" else last.flatten(2).mT
    assert rows.shape[2] == net.num_features
    return rows


@pytest.mark.parametrize(("name", "size", "patch", "prefix", "pooling", "unit", "other", "layer"), FAMILIES)
def test_each_family(name, size, patch, prefix, pooling, unit, other, layer):
    image = tower(name, size)
    spec = Vision(image).spec
    assert (spec.patch, spec.class_tokens, spec.pooling) == ((patch, patch), prefix, pooling)
    for side in (size, other) if other else (size,):
        x = torch.randn(2, 3, *side)
        with torch.no_grad():
            tokens, layers = image.intermediates(x, image.layers)
            grid = spec.grid(side)
            assert grid == (-(-side[0] // patch), -(-side[1] // patch))
            assert tokens.x.shape == (2, prefix + grid[0] * grid[1], spec.image_width)
            assert torch.equal(tokens.x, image(x).x)
            theirs = flattened(image.net, x)
            late = isinstance(getattr(image.net, "norm", None), nn.Identity) and pooling == "mean" and prefix
            torch.testing.assert_close(tokens.x, image.net.fc_norm(theirs) if late else theirs)
        for each, got in layers.items():
            high, wide = spec.grid(side, each)
            assert got.x.shape == (2, prefix + high * wide, spec.layer_width(each))
    assert image.layers[-1] == layer
    assert image.unit == (unit, unit) or other is None
    assert image.any_size is (other is not None)


def test_a_map_is_read_row_by_row():
    """The token of the row below is as far on as a row is long: the picture's lower half alone changes its tokens."""
    image = tower("test_resnet", (64, 96))
    x = torch.zeros(1, 3, 64, 96)
    with torch.no_grad():
        maps = image.intermediates(x, ["act1"])[1]["act1"].x.clone()
        x[:, :, 32:] = 1
        changed = (image.intermediates(x, ["act1"])[1]["act1"].x != maps).any(2)[0]
    high, wide = 32, 48
    assert not changed[: wide * (high // 2 - 2)].any()
    assert changed[wide * (high // 2 + 2) :].all()


def test_where_the_model_norms_after_pooling_its_tokens_are_normed():
    image = tower("beit_base_patch16_224", (32, 32))
    assert isinstance(image.net.norm, nn.Identity)
    with torch.no_grad():
        x = image(torch.randn(2, 3, 32, 32)).x
    torch.testing.assert_close(x.mean(-1), torch.zeros(x.shape[:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(-1, correction=0), torch.ones(x.shape[:2]), atol=1e-2, rtol=0)


def test_the_data_config_is_that_of_the_weights():
    mean = {
        name: tower(name, (64, 64)).sight["normalise"].mean
        for name in ("mobilenetv3_small_050", "vit_tiny_patch16_224")
    }
    assert mean == {"mobilenetv3_small_050": (0.485, 0.456, 0.406), "vit_tiny_patch16_224": (0.5, 0.5, 0.5)}
    assert tower("vit_tiny_patch16_224", (32, 32)).sight["normalise"].std == (0.5, 0.5, 0.5)
    assert tower("test_resnet", (64, 64)).sight["resample"] == timm.get_pretrained_cfg("test_resnet").interpolation


def test_sizes_that_do_not_fit_are_refused_with_the_next():
    with pytest.raises(UserError, match=r"image size 40x32 is not a multiple of the patch 16x16.*such as 48x32"):
        tower("vit_tiny_patch16_224", (32, 32))(torch.zeros(1, 3, 40, 32))
    with pytest.raises(UserError, match=r"reads no pictures of 72x64 pixels; the next size that fits is \d+x\d+"):
        backbone("timm:test_maxvit", (72, 64))
    with pytest.raises(UserError, match="was made for pictures of 32x32 pixels, and these have 48x32"):
        tower("beit_base_patch16_224", (32, 32))(torch.zeros(1, 3, 48, 32))
    with pytest.raises(UserError, match="pictures of one size"):
        tower("test_resnet", (64, 64))(torch.zeros(1, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool))


def test_what_timm_has_not_is_refused():
    for name, said in (
        ("resnot18", "no such model; did you mean resnet18"), ("resnet18.nowhere", "no weights of this tag; it has"),
        ("../x", "no such model"), ("hf-hub:a/b", "no such model"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            backbone(f"timm:{name}", (32, 32))
    with pytest.raises(UserError, match="takes no drop_path_rate"):
        backbone("timm:vgg11", (32, 32), drop_path=0.1)
    with pytest.raises(UserError, match=r"no such layer: blocks.7; there are: blocks.0, blocks.1"):
        tower("vit_tiny_patch16_224", (32, 32)).intermediates(torch.zeros(1, 3, 32, 32), ["blocks.7"])
    with pytest.raises(UserError, match="written timm:NAME or torchvision:NAME"):
        backbone("keras:resnet", (32, 32))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224"])
def test_another_size_is_resampled_by_timm(name):
    """As timm fits a checkpoint to a network that was made for the new size."""
    image, new = tower(name, (224, 224)), (64, 96)
    net = REAL(name, **TINY[name], num_classes=0, img_size=new).eval()
    state = sys.modules[type(net).__module__].checkpoint_filter_fn(image.net.state_dict(), net)
    net.load_state_dict(state)
    image.resize_(new)
    assert image.image_size == new
    assert not image.net.training
    x = torch.randn(1, 3, *new)
    with torch.no_grad():
        theirs = net.forward_features(x)
        theirs = theirs if theirs.ndim == 3 else theirs.flatten(1, 2)
        torch.testing.assert_close(image(x).x, net.fc_norm(theirs) if "beit" in name else theirs)


def test_batch_norms_keep_their_statistics_and_learn_the_rest():
    image = backbone("timm:test_resnet", (64, 64)).train()
    norms = [module for module in image.modules() if isinstance(module, nn.BatchNorm2d)]
    before = norms[0].running_mean.clone()
    image(torch.randn(4, 3, 64, 64) + 3).x.sum().backward()
    assert torch.equal(norms[0].running_mean, before)
    assert norms[0].weight.grad is not None
    assert image.net.training
    assert not any(norm.training for norm in norms)


def test_checkpointing_gives_the_same_gradients():
    x, grads = torch.randn(2, 3, 32, 32), []
    for again in (False, True):
        torch.manual_seed(1)
        image = backbone("timm:vit_tiny_patch16_224", (32, 32), checkpointing=again).train()
        assert image.net.grad_checkpointing is again
        image(x).x.square().sum().backward()
        grads.append(image.net.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*grads)


def test_groups_of_layers_rise_from_the_picture():
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "test_convnext", "test_resnet"):
        image = tower(name, (64, 64))
        depths = image.depths()
        assert depths.keys() == dict(image.named_parameters()).keys()
        own = list(depths.values())
        assert min(own) == 0
        assert own[0] == 0 or "pos_embed" in next(iter(depths)) or "cls" in next(iter(depths))
        assert depths[list(depths)[-1]] == max(own)
    vit = tower("vit_tiny_patch16_224", (32, 32)).depths()
    assert (vit["net.pos_embed"], vit["net.blocks.0.attn.qkv.weight"], vit["net.blocks.1.mlp.fc1.weight"]) == (0, 1, 2)
