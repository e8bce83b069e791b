"""MAE, SimMIM and BEiT against transformers, at tiny random sizes: outputs, losses, gradients."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from mmkit.draws import Draws
from mmkit.errors import UserError
from mmkit.nn.patch import patchify
from mmkit.nn.positions import sincos_positions
from mmkit.task import Task
from mmkit.types import Batch
from projects.mim.beit import BEiT
from projects.mim.mae import MAE
from projects.mim.relative import relative_sight
from projects.mim.simmim import SimMIM
from tests.parity.measure import assert_near
from tests.sizes import vision_tiny

OUTPUT, GRADIENT = 1e-5, 5e-5
SIZES = {
    "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 128, "layer_norm_eps": 1e-6, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2}
PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def block_of(theirs, prefix):
    """Our names -> theirs of a block of transformers' ViT; works on weights and on gradients."""
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
        "attn.proj": "attention.o_proj",
    }  # fmt: skip
    found = {f"{ours}.{part}": theirs[f"{prefix}.{other}.{part}"] for ours, other in names.items() for part in PARTS}
    for part in PARTS:
        qkv = [theirs[f"{prefix}.attention.{name}_proj.{part}"] for name in "qkv"]
        found[f"attn.qkv.{part}"] = torch.cat(qkv)
    return found


PARTS = ("weight", "bias")


def tower_of(theirs, vit, depth=2):
    """Of a ViT below ``vit`` in the names of transformers; works on weights and on gradients."""
    embeddings = f"{vit}embeddings."
    found = {
        "cls": theirs[f"{embeddings}cls_token"],
        "patch.proj.weight": theirs[f"{embeddings}patch_embeddings.projection.weight"].flatten(1),
        "patch.proj.bias": theirs[f"{embeddings}patch_embeddings.projection.bias"],
        **{f"norm.{part}": theirs[f"{vit}layernorm.{part}"] for part in PARTS},
    }
    if f"{embeddings}position_embeddings" in theirs:
        found["positions.table"] = theirs[f"{embeddings}position_embeddings"][0]
    for i in range(depth):
        found |= {f"blocks.{i}.{k}": v for k, v in block_of(theirs, f"{vit}layers.{i}").items()}
    return found


def plain_of(theirs, vit):
    return {f"model.image.{k}": v for k, v in tower_of(theirs, vit).items()}


def rows_of(prediction):
    """Rows of a prediction in the order (row, column, colour) -> (colour, row, column)."""
    return (
        prediction.reshape(8, 8, 3, *prediction.shape[1:])
        .permute(2, 0, 1, *range(3, 2 + prediction.ndim))
        .flatten(0, 2)
    )


def decoder_of(theirs):
    found = {
        "mask": theirs["decoder.mask_token"],
        **{f"{ours}.{part}": theirs[f"decoder.{other}.{part}"]
           for ours, other in (("embed", "decoder_embed"), ("norm", "decoder_norm")) for part in PARTS},
        **{f"pixels.{part}": rows_of(theirs[f"decoder.decoder_pred.{part}"]) for part in PARTS},
    }  # fmt: skip
    for i in range(2):
        found |= {f"blocks.{i}.{k}": v for k, v in block_of(theirs, f"decoder.decoder_layers.{i}").items()}
    return found


def filled_from(task, found):
    """The task with these weights; every parameter but fixed positions is given."""
    places = dict(task.named_parameters())
    assert {name for name, p in places.items() if p.requires_grad} <= found.keys()
    with torch.no_grad():
        for name, value in found.items():
            places[name].copy_(value)
    return task


def compare(task, found_gradients):
    largest = max(g.abs().max().item() for g in found_gradients.values())
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            if name.endswith("attn.qkv.bias"):  # what a key's bias adds, softmax ignores
                ours, theirs = (torch.cat(g.chunk(3)[::2]) for g in (parameter.grad, found_gradients[name]))
                assert_near(ours, theirs, GRADIENT, name, "gradients", largest)
            else:
                may_cancel = largest if "attn.qkv" in name else 0.0
                assert_near(parameter.grad, found_gradients[name], GRADIENT, name, "gradients", may_cancel)


def named(model, pick):
    return {name: value for name, p in model.named_parameters() if (value := pick(p)) is not None}


@pytest.mark.parity("MAE, pre-training", "transformers")
@pytest.mark.parametrize("norm_pix", [False, True])
def test_mae(norm_pix, monkeypatch):
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        **SIZES, **DECODER, decoder_intermediate_size=64, mask_ratio=0.75, norm_pix_loss=norm_pix
    )
    theirs = transformers.ViTMAEForPreTraining(config).train()
    with torch.no_grad():  # as in published weights, see ``test_fixed_positions``
        theirs.vit.embeddings.position_embeddings.copy_(sincos_positions((4, 4), 32, 1))
        theirs.decoder.decoder_pos_embed.copy_(sincos_positions((4, 4), 16, 1))
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(Draws, "uniform", lambda self, *shape: noise)
    model = vision_tiny(fixed_positions=True)
    task = Task(model, {"mae": MAE(model.spec, norm_pix=norm_pix, depth=2, width=16, heads=2)}, momentum=None)

    def ours(state):
        return plain_of(state, "vit.") | {f"heads.mae.{k}": v for k, v in decoder_of(state).items()}

    filled_from(task, ours(named(theirs, lambda p: p.detach())))
    b = Batch(pixels=PIXELS, image_id=torch.arange(3))
    wanted, f = theirs(PIXELS, noise=noise), task.features(b, 0)
    hidden = wanted.mask.bool()
    order, predicted = task.heads["mae"]._predicted(f)
    at = order[:, 4:].argsort(1)  # ours come in the order of the noise, theirs in that of the grid
    ascending = torch.stack([row[i] for row, i in zip(predicted, at, strict=True)])
    logits = wanted.logits[hidden].unflatten(0, (3, 12)).unflatten(-1, (8, 8, 3)).permute(0, 1, 4, 2, 3).flatten(2)
    assert_near(ascending, logits, OUTPUT, "prediction")
    out = task(b, 0)
    assert_near(out.loss, wanted.loss, OUTPUT, "loss", "loss")
    out.loss.backward()
    wanted.loss.backward()
    compare(task, ours(named(theirs, lambda p: p.grad)))


def published_table(width, height, across):
    """MAE's own code (util/pos_embed.py), in NumPy: the mesh is made with the columns first."""

    def half(places):
        speed = 1.0 / 10000 ** (np.arange(width // 4, dtype=float) / (width / 4.0))
        angles = np.einsum("m,d->md", places.reshape(-1), speed)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    columns, rows = np.meshgrid(np.arange(across, dtype=np.float32), np.arange(height, dtype=np.float32))
    return torch.from_numpy(np.concatenate([half(columns), half(rows)], axis=1)).float()


@pytest.mark.parity("sin-cos positions", "transformers, whose release 5 has rows first")
@pytest.mark.parametrize(("height", "across", "width"), [(14, 14, 768), (4, 4, 32), (3, 5, 16)])
def test_fixed_positions(height, across, width):
    ours = sincos_positions((height, across), width, prefix=1)
    assert_near(ours[1:], published_table(width, height, across), 1e-7, "published")
    rows_first = build_2d_sinusoidal_position_embedding(height, across, width, cls_token=True)
    assert torch.equal(ours, torch.cat(rows_first.chunk(2, 1)[::-1], 1))


BEIT = SIZES | {
    "use_mask_token": True, "use_absolute_position_embeddings": False, "layer_scale_init_value": 0.1,
    "use_relative_position_bias": False, "use_shared_relative_position_bias": True, "drop_path_rate": 0.0,
    "use_mean_pooling": False,
}  # fmt: skip


def larger(theirs):
    """A BEiT whose parameters are such that a fault is seen."""
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "table" in name or "mask_token" in name:
                parameter.normal_()
            elif "lambda" in name:
                parameter.normal_(1.0, 0.3)
            elif parameter.ndim == 2:
                parameter.mul_(5)
    return theirs


ON_BEIT = pytest.mark.parity("SimMIM, relative positions", "transformers, its head on its BEiT")


@pytest.mark.parametrize(
    "relative",
    [pytest.param(False, marks=pytest.mark.parity("SimMIM", "transformers")), pytest.param(True, marks=ON_BEIT)],
)
def test_simmim(relative):
    torch.manual_seed(0)
    theirs = transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**SIZES, encoder_stride=8)).train()
    model = vision_tiny()
    if relative:
        theirs.vit = larger(transformers.BeitModel(transformers.BeitConfig(**BEIT), add_pooling_layer=False).train())
        model = relative_sight(image_size=32, patch=8, depth=2, width=32, heads=2, drop_path=0.0)
    task = Task(model, {"simmim": SimMIM(model.spec, cell=8)}, momentum=None)

    def ours(state):
        head = {
            "mask": state["vit.embeddings.mask_token"].flatten(),
            "pixels.weight": state["decoder.0.weight"].flatten(1),
            "pixels.bias": state["decoder.0.bias"],
        }
        tower = relative_of if relative else plain_of
        return tower(state, "vit.") | {f"heads.simmim.{k}": v for k, v in head.items()}

    with torch.no_grad():
        theirs.vit.embeddings.mask_token.normal_()
    filled_from(task, ours(named(theirs, lambda p: p.detach())))
    b = Batch(pixels=PIXELS, image_id=torch.arange(3))
    f = task.features(b, 0)
    hidden = task.heads["simmim"]._predicted(f)[0]
    wanted = theirs(PIXELS, bool_masked_pos=hidden)
    shown = task.heads["simmim"].reconstruct(f)
    where = shown.hidden[:, None].expand_as(PIXELS)
    assert_near(shown.pixels[where], wanted.reconstruction[where], OUTPUT, "reconstruction")
    out = task(b, 0)
    assert_near(out.loss, wanted.loss, OUTPUT, "loss", "loss")
    out.loss.backward()
    wanted.loss.backward()
    compare(task, ours(named(theirs, lambda p: p.grad)))


@pytest.mark.parity("SimMIM's loss", "transformers, Swin")
def test_simmim_is_the_loss_of_swin():
    """Its formula on what a Swin of transformers said: cells of 32 pixels, each a token of its last stage."""
    from projects.mim.simmim import absolute_error

    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=4, encoder_stride=8
    )
    theirs = transformers.SwinForMaskedImageModeling(config).eval()
    pixels = torch.randn(2, 3, 64, 64)
    hidden = torch.rand(2, 2, 2).ge(0.5).index_fill(1, torch.tensor([0]), True)
    mask = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2).flatten(1)
    wanted = theirs(pixels, bool_masked_pos=mask)
    where = hidden.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, None].expand_as(pixels)
    assert_near(absolute_error(wanted.reconstruction[where], pixels[where]), wanted.loss, OUTPUT, "loss", "loss")


def relative_of(state, vit):
    """Of the tower ``vit`` of a BEiT of transformers, whose keys have no bias; works on weights and on gradients."""
    whole = dict(state)
    for i in range(2):
        prefix = f"{vit}layers.{i}.attention"
        whole[f"{prefix}.k_proj.bias"] = torch.zeros_like(whole[f"{prefix}.q_proj.bias"])
    found = plain_of(whole, vit)
    found["model.image.relative.0.table"] = state[f"{vit}shared_position_bias.relative_position_bias_table"]
    for i in range(2):
        found |= {f"model.image.blocks.{i}.scale{n}": state[f"{vit}layers.{i}.lambda_{n}"] for n in (1, 2)}
    return found


def beit_of(state):
    found = relative_of(state | {f"beit.layernorm.{part}": state[f"layernorm.{part}"] for part in PARTS}, "beit.")
    found |= {f"heads.beit.out.{part}": state[f"lm_head.{part}"] for part in PARTS}
    return found | {"heads.beit.mask": state["beit.embeddings.mask_token"].flatten()}


@pytest.mark.parity("BEiT, pre-training", "transformers")
def test_beit():
    torch.manual_seed(0)
    theirs = larger(transformers.BeitForMaskedImageModeling(transformers.BeitConfig(**BEIT, vocab_size=11)).train())
    model = relative_sight(image_size=32, patch=8, depth=2, width=32, heads=2, drop_path=0.0)
    task = Task(model, {"beit": BEiT(model.spec, codes=11, sample=16, axes=12)}, momentum=None)
    b = Batch(pixels=PIXELS, image_id=torch.arange(3))
    task.after_step([task(b, 0).carry])
    filled_from(task, beit_of(named(theirs, lambda p: p.detach())))
    head, f = task.heads["beit"], task.features(b, 1)
    hidden = head._hidden(f)[0]
    wanted = theirs(PIXELS, bool_masked_pos=hidden).logits
    logits = head.out(f.second_look("beit", hidden=head._hidden(f)[1], by=head.mask).tokens.x[:, 1:])
    assert_near(logits[hidden], wanted[hidden], OUTPUT, "logits")
    loss = F.cross_entropy(wanted[hidden], head.codes(patchify(PIXELS, (8, 8)))[hidden])
    out = task(b, 1)
    assert_near(out.loss, loss, OUTPUT, "loss", "loss")
    out.loss.backward()
    loss.backward()
    compare(task, beit_of(named(theirs, lambda p: p.grad)))


@pytest.mark.parity("BEiT, fine-tuning", "timm")
def test_a_table_for_each_block_is_that_of_timm():
    torch.manual_seed(0)
    theirs = timm.create_model(
        "beit_base_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, global_pool="token",
        num_classes=0, init_values=0.1,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.5 if parameter.ndim > 1 else 1.0)
    model = relative_sight(image_size=32, patch=8, depth=2, width=32, heads=2, shared=False).eval()
    state = {}
    for name, value in theirs.state_dict().items():
        for other, ours in (
            ("cls_token", "cls"), ("patch_embed.", "patch."), (".gamma_", ".scale"), (".attn.q_bias", ".attn.qkv.bias"),
        ):  # fmt: skip
            name = name.replace(other, ours)
        if name.endswith("attn.qkv.bias"):
            zero = torch.zeros_like(value)
            value = torch.cat([value, zero, theirs.state_dict()[name.replace("qkv.bias", "v_bias")]])
        if ".attn.relative_position_bias_table" in name:
            name = f"relative.{name.split('.')[1]}.table"
        if not name.endswith(("v_bias", "k_bias", "relative_position_index")):
            state[name] = value.flatten(1) if name == "patch.proj.weight" else value
    state["positions.table"] = torch.zeros(17, 32)
    model.image.load_state_dict(state)
    with torch.no_grad():
        assert_near(model.encode_image(PIXELS).x, theirs.forward_features(PIXELS), OUTPUT, "tokens")


def test_relative_positions_are_of_one_grid_and_of_whole_pictures():
    model = relative_sight(image_size=(16, 24), patch=8, depth=1, width=16, heads=2)
    bias = model.image.relative[0]
    with torch.no_grad():
        bias.table.copy_(torch.arange(3 * 5 + 3.0)[:, None].expand(-1, 2))
    found = bias(7)[1]
    assert found[0].tolist() == [17, 15, 15, 15, 15, 15, 15]
    assert found[1:, 0].tolist() == [16] * 6
    assert found[1, 1] == 1 * 5 + 2  # no distance
    assert found[6, 1] == 2 * 5 + 4  # a row below, two columns to the right
    assert model.spec.hides == ("replace",)
    with pytest.raises(UserError, match="pictures of one size"):
        model.encode_image(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="leave out patches"):
        MAE(model.spec, depth=1, width=16, heads=2)
