"""The one-stream model against transformers' ViLT at tiny random sizes, in both directions; and what it adds."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mmkit.convert.read_file import read_checkpoint
from mmkit.convert.tables import vilt as convert
from mmkit.convert.tables.table import Constant, Dropped, Entry, read, write
from mmkit.convert.towers import copy_into, fill
from mmkit.encoders.joint import sample_patches
from mmkit.errors import UserError
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.vilt import vilt, vilt_base
from mmkit.types import Tokens
from tests.examples import VOCAB, batch
from tests.models import one_stream
from tests.parity.measure import assert_near as close
from tests.sizes import vilt_tiny

OUTPUT, GRADIENT = 1e-5, 5e-5
parity = pytest.mark.parity("ViLT", "transformers")
SIZES = [(40, 64), (64, 24), (16, 16), (64, 64)]  # of pictures, in pixels; 32 is learned


@pytest.fixture(scope="module")
def theirs():
    return one_stream.theirs()


@pytest.fixture
def ours(theirs):
    return one_stream.ours(theirs)


def uneven(b):
    """Pictures of unequal size, with noise where there is no picture, and the true mask."""
    g = torch.Generator().manual_seed(1)
    pixels = torch.randn(len(SIZES), 3, 64, 64, generator=g)
    mask = torch.zeros(len(SIZES), 64, 64, dtype=torch.bool)
    for i, (high, wide) in enumerate(SIZES):
        mask[i, :high, :wide] = True
    return pixels, mask


@parity
@pytest.mark.parametrize("pictures", ["equal", "larger", "uneven"])
def test_outputs_equal_those_of_transformers(theirs, ours, pictures):
    b, model = batch(4), ours.model
    pixels, pixel_mask = (b.pixels, None) if pictures == "equal" else uneven(b)
    if pictures == "larger":
        pixels, pixel_mask = torch.randn(4, 3, 40, 56), None
    whole = torch.ones(4, *pixels.shape[2:], dtype=torch.bool)
    states, pooled = one_stream.read_by(theirs, b.ids, b.mask, pixels, whole if pixel_mask is None else pixel_mask)
    fused = model.fuse(model.encode_text(b.ids, b.mask), [model.image_context(model.encode_image(pixels, pixel_mask))])
    close(fused.text.x[b.mask], states[:, :10][b.mask], OUTPUT)
    close(ours.heads["itm"].pool(fused.first).tanh(), pooled, OUTPUT)
    log_odds = ours.heads["itm"].match_logits(fused.first).diff(dim=1)
    close(log_odds, theirs.rank_output(pooled), OUTPUT)
    # theirs puts an image's patches in random order: they are compared as sets
    for row in range(4):
        real = fused.image.full_mask()[row]
        a, b_ = fused.image.x[row][real], states[row, 10:][: int(real.sum())]
        close(torch.stack([a.sum(0), a.square().sum(0)]), torch.stack([b_.sum(0), b_.square().sum(0)]), OUTPUT)


def gradients_agree(theirs, found):
    """Each gradient of ours, by name, against that of the tensor it was read from; how many there are."""
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    compared = 0
    for row in convert.table(theirs.state_dict()):
        if not isinstance(row, Entry) or row.theirs[0] not in wanted or row.ours.startswith("heads.itm.classify"):
            continue
        expected = torch.cat([wanted[name] for name in row.theirs]) if len(row.theirs) > 1 else wanted[row.theirs[0]]
        expected = row.read(expected) if row.read else expected
        if row.ours.endswith("qkv.bias"):  # the gradient of keys' biases is 0, and rounding in both
            expected, width = expected.clone(), 32
            expected[width : 2 * width] = found[row.ours][width : 2 * width]
        close(found[row.ours], expected, GRADIENT, row.ours, "gradients")
        compared += 1
    return compared


def agree(theirs, ours, ours_loss, theirs_loss):
    close(ours_loss.detach(), theirs_loss.detach(), OUTPUT, "loss", "loss")
    for module in (theirs, ours):
        module.zero_grad()
    theirs_loss.backward()
    ours_loss.backward()
    return gradients_agree(theirs, {name: p.grad for name, p in ours.named_parameters()})


@parity
def test_the_mlm_loss_and_its_gradients_equal_those_of_transformers(theirs, ours):
    b = batch(4)
    loss = ours.heads["mlm"](ours.features(b, 0)).loss
    assert agree(theirs, ours, loss, one_stream.their_mlm_loss(theirs, b)) >= 40


@parity
def test_the_matching_loss_and_its_gradients_equal_those_of_transformers(theirs, ours):
    b = batch(4)
    loss = ours.heads["itm"](ours.features(b, one_stream.STEP)).loss
    assert agree(theirs, ours, loss, one_stream.their_matching_loss(theirs, ours, b)) >= 35


@pytest.mark.parity("ViLT, on two processes", "transformers")
def test_two_processes_give_the_losses_and_gradients_of_transformers(two_processes, theirs, ours):
    b = batch(4)
    expected = one_stream.their_mlm_loss(theirs, b) + one_stream.their_matching_loss(theirs, ours, b)
    theirs.zero_grad()
    expected.backward()
    loss = json.loads((two_processes / "losses.json").read_text())["vilt"]["ours"]
    close(torch.tensor(loss), expected.detach(), OUTPUT, "loss", "loss")
    assert gradients_agree(theirs, load_file(two_processes / "vilt.safetensors")) >= 45


def test_there_and_back_under_either_name(theirs):
    state = theirs.state_dict()
    rows = convert.table(state)
    ours = read(rows, state)
    back = write(rows, ours)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    again = write([r for r in convert.table_of_ours(ours, (8, 8), "transformers") if not isinstance(r, Constant)], ours)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    unequal = ours | {"heads.itm.classify.weight": torch.randn(2, 32), "heads.itm.classify.bias": torch.randn(2)}
    rank = write(convert.table_of_ours(unequal, (8, 8), "transformers"), unequal)["rank_output.weight"]
    assert torch.equal(rank, unequal["heads.itm.classify.weight"].diff(dim=0))  # the logarithm of the odds
    official = write(convert.table_of_ours(unequal, (8, 8), "official"), unequal)
    assert {"transformer.blocks.0.attn.qkv.weight", "itm_score.fc.weight", "mlm_score.bias"} <= official.keys()
    assert convert.fits_official(official)
    assert not convert.fits_transformers(official)
    third = read(convert.table(official), official)
    assert third.keys() == ours.keys()
    assert all(torch.equal(third[name], unequal[name]) for name in ours)
    ranking = write(convert.table_of_ours(ours, (8, 8), "official"), ours)
    assert "rank_output.weight" in ranking
    assert "itm_score.fc.weight" not in ranking
    assert convert.arguments(official, {}, heads=4) == convert.arguments(
        state, {"num_attention_heads": 4, "layer_norm_eps": 1e-6}
    )


def test_a_pooler_that_no_head_reads_is_kept_beside(theirs):
    state = {name: value for name, value in theirs.state_dict().items() if "rank_output" not in name}
    rows = convert.table(state)
    assert not [row for row in rows if isinstance(row, Dropped)]
    assert torch.equal(read(rows, state)["beside.pooler.weight"], state["vilt.pooler.dense.weight"])
    with pytest.raises(UserError, match="not a ViLT"):
        convert.table({"cls_token": torch.zeros(1)})


def test_an_unequal_batch_reads_each_picture_as_alone():
    torch.manual_seed(0)
    model = vilt_tiny(VOCAB).eval()
    b = batch(4)
    pixels, mask = uneven(b)
    text = model.encode_text(b.ids, b.mask)
    together = model.fuse(text, [model.image_context(model.encode_image(pixels, mask))]).together().x
    for i, (high, wide) in enumerate(SIZES):
        alone = model.encode_image(pixels[i : i + 1, :, :high, :wide])
        words = Tokens(text.x[i : i + 1], text.mask[i : i + 1])
        fused = model.fuse(words, [model.image_context(alone)]).together().x
        torch.testing.assert_close(together[i, :10][b.mask[i]], fused[0, :10][b.mask[i]], rtol=1e-5, atol=1e-5)


def test_only_wanted_states_are_the_same_states():
    torch.manual_seed(0)
    model = vilt_tiny(VOCAB).eval()
    b = batch(4)
    text, image = model.encode_text(b.ids, b.mask), model.image_context(model.encode_image(b.pixels))
    whole = model.fuse(text, [image]).together().x
    keep = torch.tensor([[0, 3], [1, 2], [12, 5], [0, 26]])
    some = model.fuse(text, [image], keep).text.x
    torch.testing.assert_close(some, whole.gather(1, keep[..., None].expand(-1, -1, 32)), rtol=1e-5, atol=1e-6)


def test_patches_are_sampled_at_random_in_training_and_evenly_in_evaluation():
    x = torch.arange(12.0)[None, :, None].expand(3, -1, 1)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, 6:] = False
    mask[2, [0, 1, 2, 3, 4, 5, 6, 7, 8]] = False
    kept, real = sample_patches(x, mask, 4, at_random=False)
    assert kept[:2, :, 0].tolist() == [[0, 3, 6, 9], [0, 1, 3, 4]]
    assert kept[2, real[2], 0].tolist() == [9, 10, 11]
    assert real.sum(1).tolist() == [4, 4, 3]
    torch.manual_seed(0)
    seen = set()
    for _ in range(20):
        kept, real = sample_patches(x, mask, 4, at_random=True)
        assert real.sum(1).tolist() == [4, 4, 3]
        assert all(len(set(row.tolist())) == 4 for row in kept[..., 0])
        assert set(kept[1, :, 0].tolist()) <= set(range(6))
        seen.add(tuple(kept[0, :, 0].tolist()))
    assert len(seen) > 10
    torch.manual_seed(0)
    model = vilt(VOCAB, image_size=32, max_tokens=16, patch=8, depth=1, width=32, heads=2, max_patches=9)
    pixels = torch.randn(2, 3, 32, 32)
    assert model.eval().encode_image(pixels).x.shape[1] == 1 + 9
    assert torch.equal(model.encode_image(pixels).x, model.encode_image(pixels).x)
    assert not torch.equal(model.train().encode_image(pixels).x, model.encode_image(pixels).x)


def test_the_named_size_is_the_papers():
    with torch.device("meta"):
        model = vilt_base()
    words = sum(p.numel() for p in model.text.parameters())
    assert (sum(p.numel() for p in model.parameters()) - words) / 1e6 == pytest.approx(87.5, abs=0.2)


def test_a_vit_starts_the_image_side(tmp_path):
    torch.manual_seed(0)
    other = timm.create_model("vit_base_patch16_224", img_size=48, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    save_file(other.state_dict(), tmp_path / "model.safetensors")
    model = vilt_tiny(VOCAB)
    heads = {"mlm": MLM(model.spec, tied=False)}
    filling = fill(model, heads, "image", read_checkpoint(tmp_path))
    copy_into(model, heads, filling, "image", "a ViT")
    assert torch.equal(model.image.blocks[1].attn.qkv.weight, other.blocks[1].attn.qkv.weight)
    cells = other.pos_embed[0, 1:].T.view(1, 32, 6, 6)
    resized = F.interpolate(cells, size=(4, 4), mode="bilinear", align_corners=True)  # as the model itself resizes
    torch.testing.assert_close(model.image.positions.table[1:], resized[0].flatten(1).T, rtol=1e-5, atol=1e-6)
