"""The dual encoder against open_clip's and transformers' CLIP and SigLIP at tiny random sizes."""

import json

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from mmkit.convert.clip_config import Told, told
from mmkit.convert.tables import clip as convert
from mmkit.convert.tables.table import Constant, Entry, read, write
from mmkit.errors import UserError
from mmkit.heads.itc import ITC
from mmkit.models.sizes import dual as sizes_dual
from mmkit.nn.temperature import LogScale
from mmkit.task import Task
from tests.examples import VOCAB, batch
from tests.models import family
from tests.parity.measure import assert_near as close
from tests.sizes import dual_tiny, lit_tiny, siglip_tiny

OUTPUT, GRADIENT = 1e-5, 5e-5


def marked(kind, layout, against="open_clip"):
    return pytest.param(kind, marks=pytest.mark.parity(layout, against))


KINDS = [marked("clip", "CLIP"), marked("quick_clip", "CLIP, quick-GELU"), marked("siglip", "SigLIP")]


def their_loss(kind, model, b):
    out = model(b.pixels, b.ids)
    if kind == "siglip":
        return SigLipLoss()(*out[:3], out[3])
    return ClipLoss()(*out[:3])


def gradients_agree(kind, model, task):
    """Each gradient of ours against that of the tensor it was read from."""
    grads = {name: p.grad for name, p in model.named_parameters()}
    found = dict(task.named_parameters())
    for row in convert.rows_of(convert.parts_of(model.state_dict())):
        assert isinstance(row, Entry)
        expected = torch.cat([grads[name] for name in row.theirs]) if len(row.theirs) > 1 else grads[row.theirs[0]]
        expected = row.read(expected) if row.read else expected
        if row.ours.endswith(("qkv.bias", "kv.bias")):  # keys' biases change nothing: rounding in both
            keys = slice(len(expected) // 3, -(len(expected) // 3)) if "qkv" in row.ours else slice(len(expected) // 2)
            expected = expected.clone()
            expected[keys] = found[row.ours].grad[keys]
        close(found[row.ours].grad, expected, GRADIENT, row.ours, "gradients")
    assert all(p.grad is not None for p in task.parameters())


def as_texts(kind, b):
    """SigLIP reads every position as a word."""
    return None if kind == "siglip" else b.mask


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_embeddings_and_factor_equal_those_of_open_clip(kind):
    model, b = family.theirs(kind), family.pairs()
    task = family.ours(kind, model.state_dict())
    image, text = task.model.encode_image(b.pixels), task.model.encode_text(b.ids, as_texts(kind, b))
    close(task.model.embed_image(image), model.encode_image(b.pixels, normalize=True), OUTPUT)
    close(task.model.embed_text(text), model.encode_text(b.ids, normalize=True), OUTPUT)
    close(1 / task.model.temperature(), model.logit_scale.exp(), OUTPUT)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_those_of_open_clip(kind):
    model, b = family.theirs(kind), family.pairs()
    task = family.ours(kind, model.state_dict())
    if kind == "siglip":
        task.model.text.fill_id = 0  # the batch's own padding
    loss, expected = task(b, 0).loss, their_loss(kind, model, b)
    close(loss.detach(), expected.detach(), OUTPUT, "loss", "loss")
    loss.backward()
    expected.backward()
    gradients_agree(kind, model, task)


@pytest.mark.parametrize(
    "kind", [marked("clip", "CLIP, on two processes"), marked("siglip", "SigLIP, on two processes")]
)
def test_two_processes_give_the_loss_and_gradients_of_open_clip(two_processes, kind):
    model, b = family.theirs(kind), family.pairs()
    expected = their_loss(kind, model, b)
    expected.backward()
    losses = json.loads((two_processes / "losses.json").read_text())[kind]
    close(torch.tensor(losses["ours"]), expected.detach(), OUTPUT, "loss", "loss")
    assert losses["theirs"] == pytest.approx(expected.item(), rel=OUTPUT)
    task = family.ours(kind, model.state_dict())
    grads = load_file(two_processes / f"{kind}.safetensors")
    for name, parameter in task.named_parameters():
        parameter.grad = grads[name]
    gradients_agree(kind, model, task)


def transformers_model(siglip):
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72}
    text = tower | {"vocab_size": VOCAB, "max_position_embeddings": 12, "eos_token_id": VOCAB - 1, "pad_token_id": 0}
    vision = tower | {"image_size": 32, "patch_size": 8}
    if siglip:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    else:
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    for name, parameter in model.named_parameters():
        if "logit" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


@pytest.mark.parametrize("siglip", [marked(i, ("CLIP", "SigLIP")[i], "transformers") for i in (False, True)])
@torch.no_grad()
def test_embeddings_equal_those_of_transformers(siglip):
    model, b = transformers_model(siglip), family.pairs()
    state = model.state_dict()
    arguments = convert.arguments(state, told(model.config.to_dict(), siglip))
    assert arguments["activation"] == ("gelu_tanh" if siglip else "quick_gelu")
    own = (sizes_dual.siglip if siglip else sizes_dual.clip)(VOCAB, **arguments).eval()
    read_state = read(convert.table(state), state)
    own.load_state_dict({k.removeprefix("model."): v for k, v in read_state.items() if k.startswith("model.")})
    out = model(input_ids=b.ids, pixel_values=b.pixels)
    close(own.embed_image(own.encode_image(b.pixels)), out.image_embeds, OUTPUT)
    close(own.embed_text(own.encode_text(b.ids, None if siglip else b.mask)), out.text_embeds, OUTPUT)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_there_and_back_under_either_name(kind):
    siglip = kind == "siglip"
    states = {"open_clip": family.theirs(kind).state_dict(), "transformers": transformers_model(siglip).state_dict()}
    for names, state in states.items():
        rows = convert.table(state)
        ours = read(rows, state)
        new = [row for row in convert.table_of_ours(ours, (8, 8), names) if not isinstance(row, Constant)]
        for table in (rows, new):
            back = write(table, ours)
            assert back.keys() == state.keys()
            assert all(torch.equal(back[name], state[name]) for name in state)
            assert all(back[name].shape == state[name].shape for name in state)
        other = "transformers" if names == "open_clip" else "open_clip"
        foreign = write(convert.table_of_ours(ours, (8, 8), other), ours)  # with what only old files have
        assert (convert.fits_transformers if other == "transformers" else convert.fits_open_clip)(foreign)
        again = read(convert.table(foreign), foreign)
        assert again.keys() == ours.keys()
        assert all(torch.equal(again[name], ours[name]) for name in ours)


def test_the_activation_comes_from_the_config_or_is_asked_for():
    state = family.theirs("clip").state_dict()
    with pytest.raises(UserError, match="activation"):
        convert.arguments(state, told({}, siglip=False))
    quick = told({"model_cfg": family.CONFIGS["quick_clip"]}, siglip=False)
    assert convert.arguments(state, quick)["activation"] == "quick_gelu"
    with pytest.raises(UserError, match="--image-heads"):
        convert.arguments(state, Told(image_activation="gelu", text_activation="gelu"))
    with pytest.raises(UserError, match="neither a CLIP nor a SigLIP"):
        convert.table({"cls_token": torch.zeros(1)})


def test_a_factor_stays_between_1_and_100():
    factor = LogScale()
    assert 1 / factor().item() == pytest.approx(1 / 0.07)
    for value, expected in ((9.0, 100.0), (-1.0, 1.0)):
        factor.value.data.fill_(value)
        factor.constrain()
        assert 1 / factor().item() == pytest.approx(expected, rel=1e-5)


def test_a_frozen_image_tower_gets_no_gradient_and_stays_in_evaluation():
    torch.manual_seed(0)
    model = lit_tiny(VOCAB).train()
    assert not model.image.training
    assert model.text.training
    task = Task(model, {"itc": ITC(model.spec, queue_size=0)}, momentum=None).train()
    assert not model.image.training
    task(batch(), 0).loss.backward()
    assert all(p.grad is None for p in model.image.parameters())
    assert all(p.grad is not None for name, p in task.named_parameters() if not name.startswith("model.image."))


@pytest.mark.parametrize("share", [1.0, -0.1, 1.5])
def test_patch_dropout_is_a_share(share):
    with pytest.raises(UserError, match=f"patch_dropout={share}"):
        dual_tiny(VOCAB, patch_dropout=share)


def test_patch_dropout_reads_fewer_patches_in_training_alone():
    torch.manual_seed(0)
    model = dual_tiny(VOCAB, patch_dropout=0.5)
    pixels = torch.randn(2, 3, 32, 32)
    assert model.train().encode_image(pixels).x.shape[1] == 1 + 8
    assert model.eval().encode_image(pixels).x.shape[1] == 1 + 16


def test_texts_filled_up_read_their_padding():
    torch.manual_seed(0)
    model = siglip_tiny(VOCAB, fill_id=1).eval()
    b = batch()
    filled = torch.cat([b.ids.masked_fill(~b.mask, 1), b.ids.new_full((6, 6), 1)], 1)
    tokens = model.encode_text(b.ids, b.mask)
    assert tokens.mask is None
    torch.testing.assert_close(tokens.x, model.encode_text(filled, None).x)


def test_the_named_sizes_have_their_parameters():
    with torch.device("meta"):
        models = sizes_dual.clip_base(), sizes_dual.siglip_base()
        counts = [sum(p.numel() for p in model.parameters()) / 1e6 for model in models]
    assert counts == [pytest.approx(149.62, abs=0.01), pytest.approx(203.2, abs=0.1)]
