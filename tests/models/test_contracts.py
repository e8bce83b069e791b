"""What every model promises."""

import pytest
import torch

from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Head
from mmkit.models.sizes.albef import albef, albef_base, albef_mini, albef_small
from mmkit.protocol import Model
from mmkit.task import Task
from mmkit.types import HeadOutput, Tokens
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
        assert fuse(model, b).text.x.shape[-1] == model.spec.fused_width


def words_of(model, b):
    """What the model makes of the real words of a batch: fused states where it fuses, else embeddings."""
    if model.spec.fuses:
        return fuse(model, b).text.x[b.mask]
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
        fuse(model, batch()).text.x.square().mean().backward()
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
    torch.testing.assert_close(vit.norm(seen["blocks.2"].x), tokens.x)
    with pytest.raises(ValueError, match=r"blocks\.7.*blocks\.2"):
        vit.intermediates(torch.randn(2, 3, 16, 16), ["blocks.7"])


def test_the_grid_is_told(model):
    spec, high, wide = model.spec, *model.spec.patch
    for size in ((32, 32), (6 * high, 3 * wide)):
        assert spec.grid(size) == (size[0] // high, size[1] // wide)
        tokens = model.eval().encode_image(torch.randn(1, 3, *size)).x
        assert tokens.shape[1] == spec.class_tokens + spec.grid(size)[0] * spec.grid(size)[1]
    with pytest.raises(UserError, match="multiple of the patch"):
        spec.grid((32, wide + 1))


def test_a_patch_changes_its_own_token_before_the_blocks(model):
    """So that token class_tokens + i is patch i, row-major, on an oblong grid."""
    if "embed" not in model.spec.layers:
        return
    (high, wide), prefix = model.spec.patch, model.spec.class_tokens
    grid = (3, 5)
    a = torch.randn(1, 3, grid[0] * high, grid[1] * wide)
    for row, column in ((0, 0), (0, 4), (2, 1)):
        b = a.clone()
        b[:, :, row * high : (row + 1) * high, column * wide : (column + 1) * wide] += 1
        seen = [model.eval().image_layers(x, None, ["embed"])[1]["embed"].x[0] for x in (a, b)]
        assert (seen[0] != seen[1]).any(1).nonzero()[:, 0].tolist() == [prefix + row * grid[1] + column]


class Reader(Head):
    """A head that reads a layer of the image tower."""

    reads_layers = ("blocks.0",)

    def forward(self, f):
        loss = f.image_layers(["blocks.0"])["blocks.0"].x.square().mean() + f.teacher.image_layers(["blocks.0"])[
            "blocks.0"].x.mean()  # fmt: skip
        return HeadOutput(loss=loss, count=len(f.batch))


class Looker(Head):
    """A head that reads what comes out of it."""

    def forward(self, f):
        return HeadOutput(loss=f.image.x.mean() + f.teacher.image.x.mean(), count=len(f.batch))


@pytest.mark.parametrize("order", [("looks", "reads"), ("reads", "looks")])
def test_layers_come_from_the_one_pass(order, monkeypatch):
    heads = {"looks": Looker(), "reads": Reader()}
    task = Task(albef_tiny(VOCAB), {name: heads[name] for name in order}, momentum=0.9)
    passes = []
    embed = ViT._embed
    monkeypatch.setattr(ViT, "_embed", lambda self, *given: passes.append(self) or embed(self, *given))
    task(batch(2), 0).loss.backward()
    assert len(passes) == len(set(passes)) == 2  # student and teacher, once each
    assert all(p.grad is not None for p in task.model.image.blocks[0].parameters())


def test_layers_are_those_of_the_tower():
    model, b = albef_tiny(VOCAB).eval(), batch(2)
    x = model.image._embed(b.pixels)
    f = Features(model, b)
    assert torch.equal(f.image_layers(["embed"])["embed"].x, x)
    for i, block in enumerate(model.image.blocks):
        x = block(x)
        assert torch.equal(f.image_layers([f"blocks.{i}"])[f"blocks.{i}"].x, x)
    assert torch.equal(f.image.x, model.encode_image(b.pixels).x)


def test_layers_that_no_head_named_are_not_made_by_a_second_random_pass():
    f = Features(albef_tiny(VOCAB).train(), batch(2))
    _ = f.image
    with pytest.raises(UserError, match=r"without keeping blocks\.1: name them.*reads_layers"):
        f.image_layers(["blocks.1"])


def test_what_heads_named_is_kept_also_where_another_layer_is_asked_for_first():
    f = Features(albef_tiny(VOCAB).train(), batch(2), layers=("blocks.1",))
    first = f.image_layers(["blocks.0"])["blocks.0"]
    assert f.image_layers(["blocks.1", "blocks.0"])["blocks.0"].x is first.x


def test_layers_that_are_none_are_named_before_training():
    class Wrong(Reader):
        reads_layers = ("blocks.0", "blocks.99")

    with pytest.raises(UserError, match=r"no such layer.*blocks\.99.*embed, blocks\.0"):
        Task(albef_tiny(VOCAB), {"wrong": Wrong()})
    with pytest.raises(UserError, match=r"no such layer.*blocks\.0; there are: none"):
        Features(vilt_tiny(VOCAB), batch(2)).image_layers(["blocks.0"])


def test_what_is_fused_has_names(model):
    if not model.spec.fuses:
        return
    b = batch(2)
    fused = fuse(model.eval(), b)
    assert fused.text.x.shape[:2] == b.ids.shape
    assert torch.equal(fused.text.full_mask(), b.mask)
    assert torch.equal(fused.first, fused.text.x[:, 0])
    image = model.encode_image(b.pixels)
    size = 0 if fused.image is None else image.x.shape[1]
    assert fused.together().x.shape[1] == b.ids.shape[1] + size
    assert torch.equal(fused.together().full_mask()[:, : b.ids.shape[1]], b.mask)
    keep = torch.tensor([[3], [1]])
    some = model.fuse(model.encode_text(b.ids, b.mask), [model.image_context(image)], keep)
    assert some.image is None
    torch.testing.assert_close(some.text.x[:, 0], fused.text.x[torch.arange(2), keep[:, 0]])


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
    torch.testing.assert_close(selected.text.x, direct.text.x, rtol=1e-5, atol=1e-6)
