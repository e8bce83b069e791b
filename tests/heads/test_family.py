"""Any head on any model that offers what it needs; an error that says what is missing on any other."""

import pytest
import torch

from mmkit.errors import UserError
from mmkit.heads.pairs import mixed
from mmkit.heads.sigmoid import Sigmoid
from mmkit.types import Batch
from tests.examples import HEADS, batch, task
from tests.sizes import albef_tiny, dual_tiny, lit_tiny, siglip_tiny, vilt_tiny

MODELS = {"albef": albef_tiny, "vilt": vilt_tiny, "clip": dual_tiny, "siglip": siglip_tiny, "lit": lit_tiny}
LACKS = {
    "vilt": {"itc": "joint space", "sigmoid": "joint space", "itm": "joint space"},
    **{
        dual: {"itm": "no fuse", "itm_mixed": "no fuse", "mlm": "no fuse", "mlm_untied": "no fuse", "wpa": "no fuse"}
        for dual in ("clip", "siglip", "lit")
    },
    "albef": {},
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_works_or_says_what_the_model_lacks(model, head):
    if head in LACKS[model]:
        with pytest.raises(UserError, match=LACKS[model][head]):
            task([head], model=MODELS[model])
        return
    t = task([head], model=MODELS[model], momentum=None)
    b = batch(4)
    out = t(b, 0)
    out.loss.backward()
    assert out.loss.isfinite()
    assert all(p.grad is not None for p in t.heads.parameters())
    trained = [p for p in t.model.parameters() if p.requires_grad]
    if model != "lit" or not head.startswith(("image", "caption")):  # whose image tower is frozen
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    assert all(p.grad is None or p.grad.isfinite().all() for p in t.parameters())


@pytest.mark.parametrize(("model", "heads"), [
    ("albef", ["itc", "itm", "mlm", "wpa", "sigmoid"]), ("vilt", ["itm_mixed", "mlm_untied", "wpa"]),
    ("clip", ["itc", "sigmoid"]),
])  # fmt: skip
def test_together_they_train_every_parameter(model, heads):
    t = task(heads, model=MODELS[model])
    t(batch(), 0).loss.backward()
    left = [name for name, p in t.named_parameters() if p.requires_grad and p.grad is None]
    assert not left


def mixed_of(b: Batch, step: int):
    return mixed(task(["itm_mixed"], momentum=None).features(b, step))


def test_mixed_pairs_are_made_once_for_all_heads(monkeypatch):
    t = task(["itm_mixed", "wpa"], model=vilt_tiny, momentum=None)
    calls, fuse = [], t.model.fuse
    monkeypatch.setattr(t.model, "fuse", lambda *args: calls.append(1) or fuse(*args))
    t(batch(4), 0)
    assert len(calls) == 1


def test_a_view_of_ones_own_is_made_once_under_its_key():
    f = task(["itm_mixed"], momentum=None).features(batch(4), 0)
    made = []
    for key in ("a", "b", "a"):
        assert f.memo(key, lambda views, key=key: made.append(key) or (views is f, key)) == (True, key)
    assert made == ["a", "b"]


def test_half_of_the_mixed_pairs_belong_together():
    shares = [mixed_of(batch(8), step).match_B.float().mean().item() for step in range(5)]
    assert shares == [0.5] * 5
    assert len({tuple(mixed_of(batch(8), step).match_B.tolist()) for step in range(5)}) > 1


def test_mixed_pairs_show_the_image_that_they_say():
    t = task(["itm_mixed"], momentum=None)
    b = batch(6)
    f = t.features(b, 2)
    pairs = mixed(f)
    match, image = pairs.match_B, pairs.image.x
    own = (image == f.image.x).flatten(1).all(1)
    assert torch.equal(own, match)
    torch.testing.assert_close(pairs.fused.text.x[match], f.fused.text.x[match], rtol=1e-5, atol=1e-5)


def test_the_sigmoid_loss_counts_equal_pictures_and_words_as_belonging_together():
    t = task(["sigmoid"], momentum=None)
    b = batch(2)
    f = t.features(b, 0)
    logits = f.image_embed @ f.text_embed.T / f.temperature + t.heads["sigmoid"].bias
    same = type(b)(**{**vars(b), "caption_id": torch.zeros(2, dtype=torch.int64)})
    expected = -torch.nn.functional.logsigmoid(logits).sum() / 2
    torch.testing.assert_close(t.heads["sigmoid"](t.features(same, 0)).loss, expected)
    pair = Sigmoid(t.model.spec, positives="pair")
    signs = 2 * torch.eye(2) - 1
    expected = -torch.nn.functional.logsigmoid(signs * logits).sum() / 2
    torch.testing.assert_close(pair(t.features(same, 0)).loss, expected)
