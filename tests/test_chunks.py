"""Chunks: the loss and the gradients of one pass, dropout included, and less that is kept for the backward pass."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mmkit.chunks import in_chunks, joined, split
from mmkit.errors import UserError
from mmkit.heads.base import EachSample
from mmkit.task import Task
from mmkit.types import Fused, HeadOutput, Tokens
from tests.examples import HEADS, VOCAB, batch
from tests.sizes import albef_tiny, dual_tiny, vilt_tiny, vision_tiny
from tests.test_accumulation import OWN, answers, difference, hidden

SIZE = 7


class Layers(EachSample):
    """Reads a layer within the image tower."""

    reads_layers = ("blocks.0",)

    def __init__(self, spec):
        super().__init__()
        self.out = nn.Linear(spec.image_width, 1)

    def forward(self, f):
        layer = f.image_layers(self.reads_layers)["blocks.0"]
        return HeadOutput(loss=self.out(layer.x + f.image.x).square().mean(), count=self.counts(f))


def everything(model, heads, chunks, rate=0.1, **options):
    """A task in training, with dropout, and a batch with all that its heads read."""
    torch.manual_seed(0)
    made = model(VOCAB) if model is not vision_tiny else model()
    known = {**HEADS, **OWN, "layers": Layers}
    t = Task(made, {name: known[name](made.spec) for name in heads}, chunks=chunks, **options)
    with torch.no_grad():
        for p in t.parameters():
            p += 0.02 * torch.randn_like(p)  # also of what starts at zero
    for module in t.modules():
        for name in ("rate", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rate)
    b = batch(SIZE, seed=3)
    targets = {**b.targets, **answers(scores=False), "label": torch.arange(SIZE) % 3}
    b = replace(b, image_id=torch.tensor([1, 1, 2, 3, 4, 5, 6]), targets=targets)
    return t.train(), hidden(b, [0, 1, 3, 8, 11])


def step(t, b, precision=torch.float32):
    """Losses, gradients and the random numbers that come next, of a second step: queue and teacher are at work."""
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        t.after_step([t(b, 0).carry])
        out = t(b, 1)
    after = torch.rand(3)
    out.loss.backward()
    return out, {name: p.grad for name, p in t.named_parameters() if p.grad is not None}, after


def at_once(work, *rows, use_reentrant):
    """In place of a checkpoint: one graph."""
    assert not use_reentrant
    return work(*rows)


ALL = {
    "albef": (albef_tiny, ("itc", "itm", "mlm")), "vilt": (vilt_tiny, ("itm_mixed", "mlm_untied", "wpa")),
    "dual": (dual_tiny, ("sigmoid",)), "clip": (dual_tiny, ("itc",)), "vision": (vision_tiny, ("image", "layers")),
    "captions": (albef_tiny, ("caption", "caption_prefix")),
    "answers": (albef_tiny, ("decoder", "classes", "wpa", "itm")),
    "sigmoid": (albef_tiny, ("sigmoid", "itm_mixed", "layers")),
}  # fmt: skip


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradients_are_those_of_one_graph(name, precision, monkeypatch):
    model, heads = ALL[name]
    found = []
    for chunked in (True, False):
        t, b = everything(model, heads, 3)
        if not chunked:
            monkeypatch.setattr("mmkit.chunks.checkpoint", at_once)
        found.append(step(t, b, precision))
    (out, grads, after), (whole, whole_grads, whole_after) = found
    assert torch.equal(out.loss, whole.loss)
    assert out.losses.keys() == whole.losses.keys()
    assert all(torch.equal(out.losses[key], whole.losses[key]) for key in out.losses)
    assert out.logs == whole.logs
    assert torch.equal(after, whole_after)
    assert difference(grads, whole_grads) < 1e-6
    most = max(grad.abs().max() for grad in whole_grads.values())
    for key, grad in whole_grads.items():
        assert (grads[key] - grad).abs().max() <= 1e-6 * most, key


@pytest.mark.parametrize("name", ALL)
def test_without_dropout_it_does_not_matter_how_many_there_are(name):
    model, heads = ALL[name]
    results = [step(*everything(model, heads, chunks, rate=0.0)) for chunks in (1, 2, 7)]
    for out, grads, _ in results[1:]:
        torch.testing.assert_close(out.loss, results[0][0].loss, rtol=1e-5, atol=1e-6)
        assert difference(grads, results[0][1]) < 1e-5
        for key, value in results[0][0].logs.items():
            torch.testing.assert_close(torch.as_tensor(out.logs[key]), torch.as_tensor(value), rtol=1e-5, atol=1e-5)


def kept(chunks):
    """Bytes that a forward pass keeps for the backward one, chunks' own results aside: each tensor once."""
    t, b = everything(albef_tiny, ("itc", "itm", "mlm"), chunks, momentum=None)
    storages = {p.untyped_storage().data_ptr() for p in t.parameters()}
    seen = {}

    def pack(x):
        if x.untyped_storage().data_ptr() not in storages:
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        t(b, 0)
    return sum(storage.nbytes() for storage in seen.values())


def test_what_made_the_tokens_is_not_kept():
    assert kept(7) < 0.1 * kept(1)


class Counted(nn.Module):
    """An encoder of numbers; notes the rows of each pass, and whether it was made for gradients."""

    def __init__(self):
        super().__init__()
        self.linear, self.passes = nn.Linear(2, 2), []

    def forward(self, x, mask):
        self.passes.append((len(x), torch.is_grad_enabled()))
        return Tokens(nn.functional.dropout(self.linear(x), 0.5), mask)


def test_each_chunk_passes_once_and_once_more_for_its_gradients():
    net = Counted()
    x, mask = torch.randn(7, 3, 2), torch.ones(7, 3) > 0
    tokens = in_chunks(net, x, mask, chunks=3)
    assert net.passes == [(3, True), (2, True), (2, True)]
    assert torch.equal(tokens.mask, mask)
    tokens.x.sum().backward()
    assert [rows for rows, _ in net.passes[3:]] == [2, 2, 3]
    net.passes.clear()
    with torch.no_grad():
        assert in_chunks(net, x, None, chunks=9).mask is None
    assert [rows for rows, _ in net.passes] == [1] * 7
    assert in_chunks(net, x[:0], mask[:0], chunks=3).x.shape == (0, 3, 2)
    assert in_chunks(net, x, mask, chunks=1).x.shape == (7, 3, 2)
    assert net.passes[-2:] == [(0, True), (7, True)]


def test_rows_in_parts_and_joined_again():
    text, image = Tokens(torch.arange(14.0).view(7, 2)), Tokens(torch.randn(7, 3), torch.ones(7, 3) > 0)
    parts = split([Fused(text, image), (None, torch.arange(7))], 3)
    assert [len(part[0].text.x) for part in parts] == [3, 2, 2]
    assert parts[1][0].text.x.tolist() == [[6, 7], [8, 9]]
    assert parts[1][1][1].tolist() == [3, 4]
    assert parts[0][0].text.mask is parts[0][1][0] is None
    whole, (nothing, rows) = joined(parts)
    assert isinstance(whole, Fused)
    assert isinstance(whole.image, Tokens)
    assert nothing is None
    for one, other in ((whole.text.x, text.x), (whole.image.x, image.x), (whole.image.mask, image.mask)):
        assert torch.equal(one, other)
    assert rows.tolist() == list(range(7))


class Normed(nn.Module):
    """A model that normalises over the batch."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_what_normalises_over_the_batch_is_refused():
    with pytest.raises(UserError, match=r"run.chunks = 2: the model's tower.1 normalises over the batch"):
        Task(Normed(), {}, momentum=None, chunks=2)
    Task(Normed(), {}, momentum=None)
