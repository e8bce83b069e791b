"""ViT checkpoints against timm at tiny random sizes: the same tokens, and back to the same file."""

from functools import partial

import pytest
import timm
import torch

from mmkit.convert.fit import fit
from mmkit.convert.tables import vit
from mmkit.convert.tables.table import read, write
from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from tests.parity.measure import assert_near, assert_same_state

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}


def theirs(name="vit_base_patch16_224", **options):
    torch.manual_seed(0)
    model = timm.create_model(name, **(SIZES | options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def ours(state, image_size=(32, 32), patch=8) -> ViT:
    model = ViT(image_size, (patch, patch), depth=3, width=32, heads=4).eval()
    state = read(vit.table(state, "image", distilled=True), state)
    fitted, _ = fit({name.removeprefix("image."): value for name, value in state.items()}, model)
    model.load_state_dict(fitted)
    return model


agree = partial(assert_near, bound=1e-5)


@pytest.mark.parity("ViT", "timm")
@pytest.mark.parametrize("patch", [8, 16])
@torch.no_grad()
def test_same_tokens_as_timm(patch):
    other = theirs(patch_size=patch)
    pixels = torch.randn(2, 3, 32, 32)
    agree(ours(other.state_dict(), patch=patch)(pixels).x, other.forward_features(pixels))


@pytest.mark.parity("ViT, other sizes", "timm")
@torch.no_grad()
def test_same_tokens_as_timm_at_another_and_a_non_square_size():
    other = theirs()
    for size in ((48, 48), (24, 56)):
        larger = theirs(img_size=size)
        state = other.state_dict()
        side = {"size": [s // 8 for s in size], "mode": "bicubic", "align_corners": False}
        grid = state["pos_embed"][:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
        cells = torch.nn.functional.interpolate(grid, **side).permute(0, 2, 3, 1).reshape(1, -1, 32)
        larger.load_state_dict(state | {"pos_embed": torch.cat([state["pos_embed"][:, :1], cells], 1)})
        pixels = torch.randn(2, 3, *size)
        expected = larger.forward_features(pixels)
        agree(ours(state, size)(pixels).x, expected)  # resized when loaded
        agree(ours(state)(pixels).x, expected)  # resized when run


@pytest.mark.parity("DeiT, distilled", "timm, without that token")
@torch.no_grad()
def test_the_distillation_token_is_dropped_to_start_from_and_refused_otherwise():
    state = theirs("deit_base_distilled_patch16_224").state_dict()
    with pytest.raises(UserError, match="distillation token"):
        vit.table(state)
    without = theirs("deit_base_patch16_224")
    dropped = {k: v for k, v in state.items() if k not in ("dist_token", "head_dist.weight", "head_dist.bias")}
    dropped["pos_embed"] = state["pos_embed"][:, [0, *range(2, state["pos_embed"].shape[1])]]
    without.load_state_dict(dropped)
    pixels = torch.randn(2, 3, 32, 32)
    agree(ours(state)(pixels).x, without.forward_features(pixels))


@pytest.mark.parity("MAE", "timm")
@torch.no_grad()
def test_mae_leaves_its_decoder_behind():
    encoder = theirs("vit_base_patch16_224", num_classes=0)
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_norm.bias": torch.zeros(8),
    }
    state = encoder.state_dict() | decoder
    why = {row.theirs: row.why for row in vit.table(state) if isinstance(row, vit.Dropped)}
    assert why.keys() == decoder.keys()
    pixels = torch.randn(2, 3, 32, 32)
    agree(ours(state)(pixels).x, encoder.forward_features(pixels))


@pytest.mark.parity("ViT", "timm")
def test_there_and_back():
    state = {k: v for k, v in theirs(num_classes=0).state_dict().items()}
    read_in = read(vit.table(state), state)
    assert_same_state(write(vit.table_of_ours(read_in, (8, 8)), read_in), state)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vit_base_patch16_224.mae", "fc_norm"),
        ("deit3_base_patch16_224", "ls1"),
        ("vit_base_patch16_clip_224", "norm_pre"),
    ],
)
def test_what_a_vit_has_beyond_ours_is_named(name, part):
    options = {"global_pool": "avg"} if part == "fc_norm" else {}
    state = theirs(name.removesuffix(".mae"), **options).state_dict()
    with pytest.raises(UserError, match=part):
        read(vit.table(state), state)
