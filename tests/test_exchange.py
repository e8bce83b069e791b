"""Rows of other ranks' samples: the right ones, their gradients, and no more bytes on more ranks."""

import json

import pytest
import torch
import torch.distributed as dist

from mmkit.exchange import rows_of_all
from mmkit.ranks import gather, gather_objects
from mmkit.types import Tokens
from tests.examples import batch, task
from tests.several import on_processes
from tests.test_task import part_of

SIZE, ASKED = 3, 5


def everything(world):
    """Pictures without and texts with a mask, of all ranks, and the rows of either that each rank asks for."""
    g = torch.Generator().manual_seed(world)
    image = torch.randn(world * SIZE, 4, 2, generator=g)
    text = torch.randn(world * SIZE, 2, 3, generator=g)
    mask = torch.rand(world * SIZE, 2, generator=g) < 0.5
    rows = torch.randint(world * SIZE, (world, 2, ASKED), generator=g)
    rows[0, 0] = world * SIZE - 1  # one row of the last rank and no other
    rows[-1, 1] = torch.arange(ASKED) % SIZE  # of the first rank alone
    return image, text, mask, rows


def asked_loss(tokens, weight):
    return (tokens.x * weight * torch.arange(1, 1 + len(tokens.x))[:, None, None]).sum()


def exchange(rank, world, folder):
    image, text, mask, rows = everything(world)
    own = slice(rank * SIZE, (rank + 1) * SIZE)
    parts = [x[own].clone().requires_grad_() for x in (image, text)]
    image_N, text_N = rows_of_all([(Tokens(parts[0]), rows[rank, 0]), (Tokens(parts[1], mask[own]), rows[rank, 1])])
    assert torch.equal(image_N.x, image[rows[rank, 0]])
    assert image_N.mask is None
    assert torch.equal(text_N.x, text[rows[rank, 1]])
    assert torch.equal(text_N.mask, mask[rows[rank, 1]])
    (asked_loss(image_N, rank + 1) + 2 * asked_loss(text_N, rank + 1)).backward()
    wholes = [x.clone().requires_grad_() for x in (image, text)]
    for r, (images, texts) in enumerate(rows):
        (asked_loss(Tokens(wholes[0][images]), r + 1) + 2 * asked_loss(Tokens(wholes[1][texts]), r + 1)).backward()
    for part, whole in zip(parts, wholes, strict=True):
        torch.testing.assert_close(part.grad, whole.grad[own])
    (rounded,) = rows_of_all([(Tokens(image[own]), rows[rank, 0])], torch.bfloat16)
    assert rounded.x.dtype == torch.float32
    assert torch.equal(rounded.x, image[rows[rank, 0]].bfloat16().float())
    assert gather(mask[own]).tolist() == mask.tolist()
    exact, halved = count(rank, world, torch.float32), count(rank, world, torch.bfloat16)
    if rank == 0:
        (folder / "bytes.json").write_text(json.dumps([exact, halved]))


def counted(call, calls):
    def counting(result, *args):
        calls.append(result.nbytes)
        return call(result, *args)

    return counting


def count(rank, world, precision):
    """Bytes that come to all ranks in a step of ITM without a teacher, by collective: one number for each call."""
    t = task(["itm"], momentum=None)
    own = part_of(batch(4 * world, seed=3), rank, world)
    came = {"all_to_all_single": [], "all_gather_into_tensor": [], "reduce_scatter_tensor": [], "all_reduce": []}
    with pytest.MonkeyPatch.context() as patch:
        for name, calls in came.items():
            patch.setattr(dist, name, counted(getattr(dist, name), calls))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = t(own, 0).loss
        loss.backward()
    return {name: [sum(call) for call in zip(*gather_objects(calls), strict=True)] for name, calls in came.items()}


@pytest.mark.parametrize("world", [2, 4])
def test_the_rows_asked_for_arrive_their_gradients_go_back_and_no_more_does(tmp_path, world):
    """Of 4 samples a rank come 4 other texts and 4 other pictures, however many ranks there are."""
    on_processes(world, exchange, tmp_path)
    exact, halved = json.loads((tmp_path / "bytes.json").read_text())
    texts, images = world * 4 * 10 * (32 + 1) * 4, world * 4 * 17 * 32 * 4
    assert exact["all_to_all_single"] == [texts, images, images, texts]
    assert halved["all_to_all_single"] == [texts // 2, images // 2, images // 2, texts // 2]
    each, ids = world * world * 4, 8  # ranks that get them, samples
    assert exact["all_gather_into_tensor"] == [each * 2 * ids, each * 16 * 4, each * 16 * 4, each * 2 * ids]
    assert exact["reduce_scatter_tensor"] == []
    assert exact["all_reduce"] == [world * 4]
