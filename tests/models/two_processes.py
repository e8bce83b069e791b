"""What each of two processes computes: losses and gradients of halves of one batch."""

import json
from dataclasses import replace

import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss, SigLipLoss
from safetensors.torch import save_file

from mmkit.types import MaskedText
from tests.examples import batch
from tests.models import family, one_stream


def half(b, rank):
    size = len(b) // 2
    rows = slice(size * rank, size * (rank + 1))
    parts = {name: getattr(b, name)[rows] for name in ("pixels", "ids", "mask", "image_id", "caption_id")}
    if b.masked is not None:
        labels = b.masked.labels.view(len(b), 2)[rows].flatten()
        hidden, index = (b.masked.ids[rows], b.masked.positions[rows]), torch.arange(2 * size)
        parts["masked"] = MaskedText(ids=hidden[0], positions=hidden[1], index=index, labels=labels)
    return replace(b, **parts)


def mean(x):
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / dist.get_world_size()


def work(rank, world, out):
    losses = {}
    for kind in ("clip", "siglip"):
        model, b = family.theirs(kind), half(family.pairs(), rank)
        task = family.ours(kind, model.state_dict())
        if kind == "siglip":
            task.model.text.fill_id = 0
        loss = task(b, 0).loss
        loss.backward()
        grads = {name: mean(p.grad) for name, p in task.named_parameters()}
        features = model(b.pixels, b.ids)
        if kind == "siglip":
            expected = SigLipLoss(rank=rank, world_size=2)(*features)
        else:
            expected = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=2)(*features[:3])
        losses[kind] = {"ours": mean(loss).item(), "theirs": mean(expected).item()}
        if rank == 0:
            save_file({name: grad.contiguous() for name, grad in grads.items()}, out / f"{kind}.safetensors")
    task = one_stream.ours(one_stream.theirs())
    loss = task(half(batch(4), rank), one_stream.STEP).loss
    loss.backward()
    grads = {name: mean(p.grad) for name, p in task.named_parameters() if p.grad is not None}
    losses["vilt"] = {"ours": mean(loss).item()}
    if rank == 0:
        save_file({name: grad.contiguous() for name, grad in grads.items()}, out / "vilt.safetensors")
        (out / "losses.json").write_text(json.dumps(losses))
