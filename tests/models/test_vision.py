"""The model of pictures alone: its tower is that of the others, and words are refused."""

import pytest
import torch

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.models.sizes.vision import vision_base, vision_small
from mmkit.nn.pool import pooled
from mmkit.protocol import Model
from mmkit.types import Batch, Tokens
from tests.examples import VOCAB, batch
from tests.sizes import albef_tiny, vision_tiny


def test_the_protocol_and_its_shapes():
    model = vision_tiny()
    assert isinstance(model, Model)
    assert (model.spec.vocab_size, model.spec.fuses, model.spec.embed_dim) == (0, False, 32)
    image = model.encode_image(torch.randn(2, 3, 32, 16))
    assert image.x.shape == (2, 1 + 4 * 2, 32)
    assert model.spec.grid((32, 16)) == (4, 2)
    torch.testing.assert_close(model.embed_image(image).norm(dim=-1), torch.ones(2))


def test_words_are_refused():
    model, b = vision_tiny(), batch(2)
    for ask in (
        lambda: model.encode_text(b.ids, b.mask), lambda: model.embed_text(Tokens(b.pixels)),
        lambda: model.image_context(Tokens(b.pixels)), lambda: model.fuse(Tokens(b.pixels), []),
    ):  # fmt: skip
        with pytest.raises(UserError, match="reads pictures alone"):
            ask()


def test_the_tower_is_that_of_a_model_with_words():
    other, model = albef_tiny(VOCAB).eval(), vision_tiny().eval()
    model.image.load_state_dict(other.image.state_dict())
    x = batch(2).pixels
    assert torch.equal(model.encode_image(x).x, other.encode_image(x).x)


def test_sizes_are_those_of_the_papers():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in make().parameters()) for make in (vision_base, vision_small)]
    assert counts == [85_798_656, 21_665_664]


def test_what_is_pooled():
    x = torch.randn(2, 5, 3)
    assert torch.equal(pooled(Tokens(x), 1), x[:, 0])
    torch.testing.assert_close(pooled(Tokens(x), 1, mean=True), x[:, 1:].mean(1))
    torch.testing.assert_close(pooled(Tokens(x), 0), x.mean(1))
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    torch.testing.assert_close(pooled(Tokens(x, mask), 1, mean=True)[0], x[0, 1:3].mean(0))


def test_a_batch_without_words_has_views_of_pictures_alone():
    b = Batch(pixels=torch.randn(3, 3, 32, 32), image_id=torch.tensor([1, 2, 1]))
    f = Features(vision_tiny(), b.to("cpu"))
    assert f.image_embed.shape == (3, 32)
    assert f.same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    for ask in (lambda: f.text, lambda: f.ids, lambda: f.mask, lambda: f.caption_id, lambda: f.all_caption_id):
        with pytest.raises(UserError, match="reads words, and this run has pictures alone"):
            ask()
