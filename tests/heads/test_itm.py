"""Image-text matching: which negatives are drawn, and how often."""

import math
from dataclasses import replace

import pytest
import torch

from mmkit.errors import UserError
from mmkit.heads.itm import ITM, gumbel_choice, log_similarities
from mmkit.types import ModelSpec
from tests.examples import batch, task


def test_draws_follow_the_softmax_of_the_weights():
    torch.manual_seed(0)
    weights = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]]).expand(60_000, -1)
    noise = -torch.empty_like(weights).exponential_().log()
    share = torch.bincount(gumbel_choice(weights, noise), minlength=4) / 60_000
    torch.testing.assert_close(share, torch.softmax(weights[0], 0), atol=0.01, rtol=0)


def test_same_picture_or_words_are_never_negatives_even_when_all_else_is_unlikely():
    t = task(["itm"])
    t.model.temperature.value.data.fill_(0.001)  # similarities of +-1000: a softmax underflows
    b = replace(batch(6), image_id=torch.tensor([1, 1, 1, 2, 3, 4]), caption_id=torch.tensor([5, 6, 7, 8, 8, 9]))
    for step in range(50):
        f = t.features(b, step)
        image, text, valid = t.heads["itm"]._choose(f)
        assert not f.same[torch.arange(6), image].any()
        assert not f.same[torch.arange(6), text].any()
        assert valid.all()


def test_a_row_without_a_negative_is_left_out():
    t = task(["itm"])
    b = replace(batch(3), image_id=torch.tensor([1, 1, 1]))
    assert t(b, 0).loss.isfinite()
    positives_alone = t.heads["itm"](t.features(b, 0))
    assert positives_alone.count == t.heads["itm"].counts(t.features(b, 0)) == 3
    assert positives_alone.logs["chance"].item() == 0.0  # who always says "match" is always right
    assert positives_alone.logs["chance_accuracy"].item() == 1.0


def test_of_some_rows_without_a_negative_those_alone_are_left_out():
    t = task(["itm"])
    head = t.heads["itm"]
    b = replace(batch(4), image_id=torch.tensor([1, 1, 1, 2]), caption_id=torch.tensor([5, 6, 7, 5]))
    # the first shares its picture or its words with each of the others; these have one negative or two
    f = t.features(b, 0)
    image, text, valid = head._choose(f)
    assert valid.tolist() == [False, True, True, True]
    assert image[1:3].tolist() == text[1:3].tolist() == [3, 3]
    out = head(t.features(b, 0))
    assert out.count == head.counts(t.features(b, 0)) == 4 + 2 * 3
    fused = f.fuse([(None, None), (text, None), (None, image)]).first
    labels = torch.tensor([1] * 4 + [0] * 8)
    losses = torch.nn.functional.cross_entropy(head.match_logits(fused), labels, reduction="none")
    kept = torch.tensor([True] * 4 + [False, True, True, True] * 2)
    torch.testing.assert_close(out.loss, losses[kept].mean())
    hits = (head.match_logits(fused).argmax(1) == labels)[kept].float().mean()
    torch.testing.assert_close(out.logs["accuracy"], hits)
    assert out.logs["chance_accuracy"].item() == pytest.approx(6 / 10)
    assert out.logs["chance"].item() == pytest.approx(-0.6 * math.log(0.6) - 0.4 * math.log(0.4))


def test_a_constant_classifier_scores_the_chance_level():
    t = task(["itm"])
    torch.nn.init.zeros_(t.heads["itm"].classify.weight)
    t.heads["itm"].classify.bias.data = torch.tensor([2 / 3, 1 / 3]).log()
    out = t(batch(), 0)
    assert out.loss.item() == pytest.approx(0.6365, abs=1e-4)
    assert out.logs["itm/chance"].item() == pytest.approx(0.6365, abs=1e-4)
    assert out.logs["itm/chance_accuracy"].item() == pytest.approx(2 / 3)
    assert out.logs["itm/accuracy"].item() == pytest.approx(2 / 3)


def test_draws_depend_on_the_step_alone():
    t = task(["itm"])
    choose = lambda step: t.heads["itm"]._choose(t.features(batch(), step))[0]  # noqa: E731
    assert torch.equal(choose(3), choose(3))
    assert any(not torch.equal(choose(3), choose(step)) for step in range(4, 9))


def test_the_pictures_and_the_texts_are_drawn_apart():
    t = task([])
    head = ITM(t.model.spec, negatives="random")
    image, text, _ = head._choose(t.features(batch(), 0))
    assert not torch.equal(image, text)


def test_each_text_gets_a_picture_and_each_picture_a_text(monkeypatch):
    t = task(["itm"])
    f, head, seen = t.features(batch(), 0), t.heads["itm"], []
    fuse = f.fuse
    monkeypatch.setattr(f, "fuse", lambda pairs, keep: seen.append(pairs) or fuse(pairs, keep))
    to_image, to_text = (torch.arange(6).roll(-by) for by in (1, 2))  # the first row of scores is of texts to images
    head.draw = lambda weights, noise: torch.stack([to_image, to_text])
    head(f)
    ((own, other_texts, other_images),) = seen
    assert own == (None, None)
    assert other_texts[1] is other_images[0] is None
    assert other_texts[0].tolist() == to_text.tolist()
    assert other_images[1].tolist() == to_image.tolist()


def test_similarities_are_those_of_the_students_queries_and_the_teachers_keys():
    t = task(["itm"])
    with torch.no_grad():
        for proj in (t.model.image_proj, t.model.text_proj):
            proj.weight += torch.randn_like(proj.weight)
        t.model.temperature.value.fill_(0.3)
    f = t.features(batch(4), 0)
    wanted = [
        f.text_embed @ f.teacher.all_image_embed.T / 0.3,
        f.image_embed @ f.teacher.all_text_embed.T / 0.3,
    ]
    torch.testing.assert_close(log_similarities(f), torch.stack(wanted).detach())
    alone = task(["itm"], momentum=None).features(batch(4), 0)
    wanted = torch.stack([alone.text_embed @ alone.image_embed.T, alone.image_embed @ alone.text_embed.T]) / 0.07
    torch.testing.assert_close(log_similarities(alone), wanted.detach())


def test_the_accuracy_over_mixed_pairs():
    t = task(["itm_mixed"])
    torch.nn.init.zeros_(t.heads["itm_mixed"].classify.weight)
    t.heads["itm_mixed"].classify.bias.data = torch.tensor([0.2, 0.8]).log()  # says of each pair that it matches
    out = t(batch(5), 0)
    assert out.logs["itm_mixed/accuracy"].item() == pytest.approx(2 / 5)
    assert out.loss.item() == pytest.approx(-(2 * math.log(0.8) + 3 * math.log(0.2)) / 5)


def test_one_call_fuses_what_separate_calls_would():
    t = task(["itm"]).eval()
    f = t.features(batch(), 0)
    image, text = torch.tensor([1, 2, 3, 4, 5, 0]), torch.tensor([5, 4, 3, 2, 1, 0])
    joint = f.fuse([(None, None), (text, None), (None, image)]).text.x.chunk(3)
    apart = [f.fuse([pair]).text.x for pair in [(None, None), (text, None), (None, image)]]
    real = [f.mask, f.mask[text], f.mask]  # what stands in the place of padding says nothing
    for a, b, words in zip(joint, apart, real, strict=True):
        torch.testing.assert_close(a[words], b[words], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(joint[0][f.mask], f.fused.text.x[f.mask], rtol=1e-5, atol=1e-5)


def test_rows_that_are_asked_for_again_are_those_of_before():
    f = task(["itm_mixed"]).features(batch(), 0)
    rows = torch.tensor([1, 2, 3, 4, 5, 0])
    assert f.images(rows).x is f.images(rows).x
    assert f.texts(rows).x is not f.images(rows).x
    assert torch.equal(f.images(rows).x, f.image.x[rows])
    assert torch.equal(f.texts(rows.flip(0)).x, f.text.x[rows.flip(0)])


def test_what_the_model_lacks_is_said():
    spec = {"image_width": 8, "text_width": 8, "fused_width": 8, "vocab_size": 9}
    with pytest.raises(UserError, match="no fuse"):
        ITM(ModelSpec(embed_dim=4, fuses=False, **spec))
    with pytest.raises(UserError, match="random"):
        ITM(ModelSpec(embed_dim=0, fuses=True, **spec))


def test_gradients_reach_both_towers_when_negatives_are_drawn_first():
    t = task(["itm"])
    f = t.features(batch(4), 0)
    t.heads["itm"](f).loss.backward()
    assert t.model.image.cls.grad.abs().sum() > 0
    assert t.model.text.embeddings.words.weight.grad.abs().sum() > 0
    assert f.image_embed.requires_grad  # for an objective that asks after it
