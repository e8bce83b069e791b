"""A step over several micro-batches is the step of the joined batch, wherever samples do not see each other."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkit.errors import UserError
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.base import Head
from mmkit.heads.classify import Classify
from mmkit.losses import masked_mean
from mmkit.task import StepCounts, Task
from mmkit.types import Batch, HeadOutput, MaskedText
from tests.examples import VOCAB, batch, task
from tests.sizes import albef_tiny

SIZE = 6
CPU = torch.device("cpu")


class CountWords(Head):
    """README's."""

    def __init__(self, spec):
        super().__init__()
        self.guess = nn.Linear(spec.image_width, 1)

    def forward(self, f):
        guess = self.guess(f.image.x[:, 0]).squeeze(-1).float()
        words = f.batch.mask.sum(1).float()
        return HeadOutput(loss=F.smooth_l1_loss(guess, words), count=len(words))


class ShortOnes(CountWords):
    """Counts what only its forward knows."""

    def forward(self, f):
        guess = self.guess(f.image.x[:, 0]).squeeze(-1).float()
        words = f.batch.mask.sum(1).float()
        known = words < 8
        return HeadOutput(loss=masked_mean((guess - words).square(), known), count=known.sum())


class Drawn(CountWords):
    """Counts those that it draws, which are known beforehand where the draws are those of the step."""

    def forward(self, f):
        guess = self.guess(f.image.x[:, 0]).squeeze(-1).float()
        drawn = f.random("drawn").uniform() < 0.5
        return HeadOutput(loss=masked_mean(guess.square(), drawn), count=drawn.sum())


class DrawnAndTold(Drawn):
    def counts(self, f):
        return (f.random("drawn").uniform() < 0.5).sum()


class Two(CountWords):
    """Two losses with two denominators, as boxes and their classes have."""

    tells = True

    def forward(self, f):
        guess = self.guess(f.image.x[:, 0]).squeeze(-1).float()
        words = f.batch.mask.sum(1).float()
        known, counts = words < 8, (len(words), (words < 8).sum())
        near = guess.square().mean(), masked_mean((guess - words).square(), known)
        parts = dict(zip(("size", "words"), zip(near, counts, strict=True), strict=True))
        return HeadOutput(parts=parts, logs={"guess": guess.detach().mean(), "known": (near[1].detach(), counts[1])})

    def counts(self, f):
        words = f.batch.mask.sum(1)
        return {"size": len(words), "words": (words < 8).sum()} if self.tells else None


class Untold(Two):
    tells = False


def hidden(b: Batch, index: list[int]) -> Batch:
    """With these of the twelve hidden words alone."""
    at = torch.tensor(index, dtype=torch.int64)
    m = b.masked
    return replace(b, masked=MaskedText(ids=m.ids, positions=m.positions, index=at, labels=m.labels[at]))


def rows(b: Batch, start: int, stop: int) -> Batch:
    """Some samples of a batch, with what belongs to them."""
    m, part = b.masked, slice(start, stop)
    width = m.positions.shape[1]
    inside = (m.index // width >= start) & (m.index // width < stop)
    targets = {}
    for name, value in b.targets.items():
        targets[name] = value[part] if name in ("label", "answer_scores") else value
    if "answer_of" in targets:
        mine = (targets["answer_of"] >= start) & (targets["answer_of"] < stop)
        length = targets["answer_ids"].shape[1]
        mine_N = mine[targets["answer_index"] // length]
        place = torch.cumsum(mine, 0) - 1
        at = targets["answer_index"][mine_N]
        targets |= {
            "answer_ids": targets["answer_ids"][mine], "answer_of": targets["answer_of"][mine] - start,
            "answer_weight": targets["answer_weight"][mine], "answer_labels": targets["answer_labels"][mine_N],
            "answer_index": place[at // length] * length + at % length,
        }  # fmt: skip
    return replace(
        b, pixels=b.pixels[part], ids=b.ids[part], mask=b.mask[part], image_id=b.image_id[part],
        caption_id=b.caption_id[part], targets=targets,
        masked=MaskedText(
            ids=m.ids[part], positions=m.positions[part], labels=m.labels[inside], index=m.index[inside] - start * width
        ),
    )  # fmt: skip


def step_of(t: Task, micro: list[Batch]) -> tuple[dict[str, torch.Tensor], list]:
    """The gradients of one step, as the loop takes it, and its outputs."""
    t.zero_grad(set_to_none=True)
    counts = t.count(micro, 3, micro[0].pixels.device) if len(micro) > 1 else None
    outputs, before = [], 0
    for b in micro:
        out = t(b, 3, before, counts.totals if counts else None)
        out.loss.backward()
        outputs.append(out)
        before += len(b)
    if counts:
        assert not any(counts.differ([out.counts for out in outputs]).values())
    return {name: p.grad.clone() for name, p in t.named_parameters() if p.grad is not None}, outputs


def difference(one: dict, other: dict) -> float:
    """Relative, of whole gradients."""
    assert one.keys() == other.keys()
    flat = [torch.cat([grads[name].flatten() for name in one]).double() for grads in (one, other)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def answers(scores: bool) -> dict[str, torch.Tensor]:
    if scores:  # of rows 1, 2 and 5 no answer is known
        known = torch.zeros(SIZE, 3)
        known[0, 1], known[3, 0], known[3, 2], known[4, 2] = 1.0, 0.6, 0.9, 0.3
        return {"answer_scores": known}
    ids = torch.randint(5, VOCAB, (9, 4), generator=torch.Generator().manual_seed(5))
    lengths = [4, 1, 3, 2, 4, 1, 2, 2, 3]
    index = [row * 4 + i for row, n in enumerate(lengths) for i in range(n)]
    return {
        "answer_ids": ids, "answer_of": torch.tensor([0, 0, 0, 0, 1, 2, 3, 4, 5]),
        "answer_weight": torch.tensor([0.4, 0.3, 0.2, 0.1, 1, 1, 0.5, 1, 1]), "answer_index": torch.tensor(index),
        "answer_labels": torch.randint(5, VOCAB, (len(index),), generator=torch.Generator().manual_seed(6)),
    }  # fmt: skip


OWN = {
    "words": CountWords, "short": ShortOnes, "two": Two, "untold": Untold, "drawn": Drawn,
    "classes": lambda spec: Classify(spec, 3),
    "scores": lambda spec: AnswerClassifier(spec, ["red", "blue", "two dogs"], pooler=True),
    "decoder": lambda spec: AnswerDecoder(spec, depth=1, heads=2, dropout=0.0),
}  # fmt: skip


def made(name: str) -> tuple[Task, Batch]:
    b = hidden(batch(SIZE, seed=4), [0, 1, 2, 3, 5, 9])  # five in the first half, one in the second
    b = replace(b, targets=answers(name == "scores") | {"label": torch.tensor([0, 2, 1, 1, 0, 2])})
    if name == "wpa":  # nothing else to pair with: each text stays with its own picture
        b = replace(b, image_id=torch.zeros(SIZE, dtype=torch.int64))
    if name not in OWN:
        return task([name], alpha=0.4), b
    torch.manual_seed(0)
    model = albef_tiny(VOCAB)
    return Task(model, {name: OWN[name](model.spec)}, momentum=0.9, alpha=0.4), b


CUTS = {"even": (3,), "thirds": (2, 4), "uneven": (1,), "one by one": (1, 2, 3, 4, 5)}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["mlm", "mlm_untied", "wpa", *OWN])
def test_micro_batches_give_the_gradients_of_the_joined_batch(name, cut, device):
    t, b = (one.to(device) for one in made(name))
    edges = (0, *CUTS[cut], SIZE)
    joined, (whole,) = step_of(t, [b])
    parts, outputs = step_of(t, [rows(b, *edges[i : i + 2]) for i in range(len(edges) - 1)])
    assert difference(parts, joined) < 1e-6
    for key, loss in whole.losses.items():
        torch.testing.assert_close(sum(out.losses[key] for out in outputs), loss, rtol=1e-5, atol=1e-6)


def test_several_heads_have_several_totals(device):
    torch.manual_seed(0)
    model = albef_tiny(VOCAB)
    heads = {name: OWN[name](model.spec) for name in ("scores", "classes", "two", "short")}
    t = Task(model, heads, weights={"scores": 0.3, "two": lambda step: 2.0 * step}, alpha=0.4).to(device)
    b = made("scores")[1].to(device)
    joined, _ = step_of(t, [b])
    parts, _ = step_of(t, [rows(b, 0, 1), rows(b, 1, 3), rows(b, 3, 6)])  # none of the scores is known in the second
    assert difference(parts, joined) < 1e-6


@pytest.mark.parametrize("name", ["mlm", "scores", "short", "two"])
def test_with_nothing_to_count_anywhere_there_is_no_gradient(name):
    t, b = made(name)
    b = hidden(replace(b, mask=torch.ones_like(b.mask), targets={"answer_scores": torch.zeros(SIZE, 3)}), [])
    for micro in ([b], [rows(b, 0, 3), rows(b, 3, 6)]):
        grads, outputs = step_of(t, micro)
        if name == "two":  # the other of its losses counts
            assert all(out.losses["two.words"] == 0 < out.losses["two.size"] for out in outputs)
            continue
        assert all(out.loss == 0 for out in outputs)
        assert grads
        assert all(grad.eq(0).all() for grad in grads.values())


def test_what_heads_tell_beforehand_is_what_they_count():
    t = task(["itc", "itm", "mlm", "itm_mixed", "sigmoid", "wpa"])
    same = replace(batch(4), image_id=torch.tensor([1, 1, 1, 1]))
    micro = [replace(batch(4, seed=1), image_id=torch.tensor([1, 1, 2, 1])), same]
    counts = t.count(micro, 0, CPU)
    assert dict(zip(counts.totals, counts.own.tolist()[0], strict=True))["itm"] == 12
    assert dict(zip(counts.totals, counts.own.tolist()[1], strict=True))["itm"] == 4  # no negatives: the pairs alone
    outputs = [t(b, 0, 4 * i, counts.totals) for i, b in enumerate(micro)]
    assert not any(counts.differ([out.counts for out in outputs]).values())
    assert all(head.counts(t.features(same, 0)) is not None for head in t.heads.values())


def test_a_head_that_tells_something_else_is_found_out():
    t, b = made("two")
    micro = [rows(b, 0, 3), rows(b, 3, 6)]
    t.heads["two"].counts = lambda f: {"size": len(f.batch), "words": len(f.batch)}
    counts = t.count(micro, 0, CPU)
    wrong = counts.differ([t(part, 0, 0, counts.totals).counts for part in micro])
    assert {name: bool(flag) for name, flag in wrong.items()} == {"two.size": False, "two.words": True}
    t.heads["two"].counts = lambda f: len(f.batch)
    with pytest.raises(UserError, match=r"count two\.size, two\.words; before the step they said two:"):
        t(b, 0, 0, t.count(micro, 0, CPU).totals)
    t.heads["two"].counts = lambda f: len(f.image.x)
    with pytest.raises(UserError, match="`counts` asked the model for 'encode_image'"):
        t.count(micro, 0, CPU)


def test_what_heads_draw_to_tell_beforehand_are_the_draws_of_the_step():
    t, b = made("drawn")
    t.heads["drawn"] = DrawnAndTold(t.model.spec)
    _, outputs = step_of(t, [rows(b, i, i + 1) for i in range(SIZE)])  # which compares them with what was told
    assert 0 < sum(int(out.counts["drawn"]) for out in outputs) < SIZE


def test_one_micro_batch_of_another_count_than_told_is_enough():
    told = StepCounts(
        own=torch.tensor([[4.0, 2.0], [4.0, 3.0]]), totals={"a": torch.tensor(8.0), "b": torch.tensor(5.0)}
    )
    found = told.differ([{"a": 4, "b": 2}, {"a": torch.tensor(4.0), "b": 2}])
    assert {name: bool(wrong) for name, wrong in found.items()} == {"a": False, "b": True}


def test_counting_changes_no_state_and_draws_nothing():
    torch.manual_seed(0)
    model = albef_tiny(VOCAB, dropout=0.5)
    head = ShortOnes(model.spec)
    head.guess = nn.Sequential(nn.BatchNorm1d(model.spec.image_width), nn.Dropout(0.5), head.guess)
    t = Task(model, {"short": head}, momentum=None).train()
    before = {name: value.clone() for name, value in t.state_dict().items()}
    state = torch.get_rng_state()
    t.count([batch(2), batch(2, seed=1)], 0, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in t.state_dict().items())
    assert all(module.training for module in t.modules())
    assert all(p.grad is None for p in t.parameters())
    t.eval().count([batch(2)], 0, CPU)
    assert not any(module.training for module in t.modules())


def test_a_head_gives_one_loss_or_parts_and_not_both():
    one = torch.tensor(1.0)
    whole = HeadOutput(parts={"a": (one, 1), "b": (2 * one, 0)})
    assert whole.loss == 3
    assert whole.count is None
    assert HeadOutput(loss=one, count=2).parts == {"": (one, 2)}
    for wrong in ({}, {"loss": one}, {"count": 1}, {"loss": one, "count": 1, "parts": {"a": (one, 1)}}):
        with pytest.raises(ValueError, match="and not both"):
            HeadOutput(**wrong)


def test_the_losses_of_a_head_with_parts_are_named():
    t, b = made("two")
    out = t(b, 0)
    assert out.losses.keys() == {"two", "two.size", "two.words"}
    torch.testing.assert_close(out.losses["two"], out.losses["two.size"] + out.losses["two.words"])
    torch.testing.assert_close(out.loss.detach(), out.losses["two"])
    short = int((b.mask.sum(1) < 8).sum())
    assert {name: int(count) for name, (_, count) in out.means.items()} == {
        "losses.two.size": SIZE, "losses.two.words": short, "two.guess": SIZE, "two.known": short,
    }  # fmt: skip
