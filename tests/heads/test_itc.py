"""Image-text contrast: positives, queue, soft targets, chance."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mmkit.errors import UserError
from mmkit.heads.itc import ITC
from mmkit.types import ModelSpec
from tests.examples import batch, task


def test_equal_captions_and_pictures_are_positives():
    b = batch(4)
    b = replace(b, image_id=torch.tensor([1, 1, 2, 3]), caption_id=torch.tensor([7, 8, 9, 9]))
    head, f = task(["itc"]).heads["itc"], None
    f = task(["itc"]).features(b, 0)
    assert head._hard_targets(f).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_the_loss_of_a_constant_model_is_the_chance_level():
    t = task(["itc"], alpha=0.0)
    for proj in (t.model.image_proj, t.model.text_proj):
        torch.nn.init.zeros_(proj.weight)
        torch.nn.init.ones_(proj.bias)
    t.ema.reset()
    out = t(batch(6), 0)
    assert out.loss.item() == pytest.approx(out.logs["itc/chance"], abs=1e-5)
    assert out.logs["itc/chance"] == pytest.approx(math.log(6))


@pytest.mark.parametrize("sizes", [[3, 4, 5], [20, 3], [5, 50, 4, 1], [7, 7, 7, 7], [11, 3], [12, 10, 12, 2]])
def test_the_queue_holds_the_newest_rows_for_any_batch_size(sizes):
    queue = ITC(_spec(embed_dim=2), queue_size=11).queue
    pushed = []
    for size in sizes:
        ids = torch.arange(len(pushed), len(pushed) + size)
        queue.push(
            {
                "image": ids[:, None] * torch.ones(2),
                "text": -ids[:, None] * torch.ones(2),
                "image_id": ids,
                "caption_id": ids,
            }
        )
        pushed += ids.tolist()
        assert sorted(queue["image_id"].tolist()) == pushed[-11:]
        torch.testing.assert_close(queue["image"][:, 0], queue["image_id"].float())
        torch.testing.assert_close(queue["text"][:, 1], -queue["caption_id"].float())


def test_the_queue_and_its_counter_are_in_the_state():
    t = task(["itc"])
    for step in range(4):
        t.after_step([t(batch(seed=step), step).carry])
    other = task(["itc"], seed=1)
    other.load_state_dict(t.state_dict())
    assert len(other.heads["itc"].queue) == 20
    assert torch.equal(other.heads["itc"].queue["image_id"], t.heads["itc"].queue["image_id"])
    torch.testing.assert_close(other(batch(), 5).loss, t(batch(), 5).loss)


def test_a_sample_seen_before_is_a_positive_in_the_queue():
    t = task(["itc"])
    t.after_step([t(batch(), 0).carry])
    hard = t.heads["itc"]._hard_targets(t.features(batch(), 1))
    assert torch.equal(hard, torch.eye(6).repeat(1, 2))


def test_what_is_logged_is_over_all_candidates():
    head = ITC(_spec(embed_dim=3), queue_size=4, positives="pair")
    two = torch.arange(2)
    head.queue.push({"image": torch.zeros(2, 3), "text": torch.zeros(2, 3), "image_id": two, "caption_id": two})
    image, text = torch.eye(3), torch.tensor([[1.0, 0.9, 0.0], [0.5, 0.8, 0.7], [0.6, 0.1, 0.2]])
    f = SimpleNamespace(
        teacher=None, alpha=0.0, image_embed=image, text_embed=text, all_image_embed=image, all_text_embed=text,
        temperature=torch.tensor(0.5), own=torch.arange(3), all_image_id=torch.arange(3), batch=range(3),
        all_caption_id=torch.arange(3),
    )  # fmt: skip
    out = head(f)
    assert out.logs["candidates"] == 5
    assert out.logs["chance"] == pytest.approx(math.log(5))
    assert out.logs["temperature"] == 0.5
    assert out.logs["i2t_accuracy"].item() == pytest.approx(1 / 3)  # the first picture's own words are its likeliest
    assert out.logs["t2i_accuracy"].item() == pytest.approx(2 / 3)
    rows = [torch.cat([part, torch.zeros(3, 2)], 1).div(0.5).log_softmax(1).diagonal() for part in (text.T, text)]
    torch.testing.assert_close(out.loss, -torch.cat(rows).mean())


def test_loss_and_gradient_are_those_of_the_equations_written_out_with_a_queue_and_a_teacher():
    t = task(["itc"], alpha=0.4)
    with torch.no_grad():
        for parameter in t.ema.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    t.after_step([t(batch(seed=1), 0).carry])
    head, f = t.heads["itc"], t.features(batch(), 1)
    out = head(f)
    teacher, temperature, wanted = f.teacher, f.temperature, torch.zeros(())
    for query, own, keys in (
        (f.image_embed, teacher.image_embed, torch.cat([teacher.text_embed, head.queue["text"]])),
        (f.text_embed, teacher.text_embed, torch.cat([teacher.image_embed, head.queue["image"]])),
    ):
        soft = (own @ keys.T / temperature.detach()).softmax(1)
        target = 0.4 * soft + 0.6 * torch.eye(6, 12)
        wanted = wanted - (target * (query @ keys.T / temperature).log_softmax(1)).sum(1).mean() / 2
    torch.testing.assert_close(out.loss, wanted)
    learned = [t.model.temperature.value, t.model.image_proj.weight, t.model.text_proj.weight]
    gradients = [torch.autograd.grad(loss, learned, retain_graph=True) for loss in (out.loss, wanted)]
    assert all(gradient.abs().sum() > 0 for gradient in gradients[1])
    torch.testing.assert_close(*gradients)


def test_without_a_queue_the_candidates_are_those_of_the_batch():
    t = task([], momentum=None)
    t.heads["itc"] = ITC(t.model.spec, queue_size=0)
    t.weights["itc"] = 1.0
    for step in range(2):
        out = t(batch(), step)
        assert out.logs["itc/candidates"] == 6
        t.after_step([out.carry])
    assert len(t.heads["itc"].queue) == 0


def test_without_a_teacher_keys_get_gradient_too():
    t = task(["itc"], momentum=None)
    t(batch(), 0).loss.backward()
    assert t.model.image_proj.weight.grad.abs().sum() > 0


def test_a_model_without_joint_space_is_refused():
    with pytest.raises(UserError, match="joint space"):
        ITC(_spec(embed_dim=0))


def _spec(embed_dim):
    return ModelSpec(image_width=8, text_width=8, fused_width=8, embed_dim=embed_dim, vocab_size=9, fuses=True)
