"""A step on shapes alone, against the same step with numbers."""

from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmkit.config import Rule, mmkit_rules
from mmkit.errors import UserError
from mmkit.heads.base import Head
from mmkit.heads.classify import Classify
from mmkit.nn.attention import attend
from mmkit.nn.dropout import dropout
from mmkit.nn.kernels import as_on_a_gpu, written_out
from mmkit.train.build import make_task
from mmkit.train.needs import trial
from mmkit.train.needs.samples import make_batch
from mmkit.train.needs.trial import FEW, Passed, Trial, Words, make_shapes, passed, tried
from tests.sizes import albef_tiny
from tests.train.fakes import tiny

WORDS = Words(vocab_size=60)


@pytest.fixture(scope="module")
def exp():
    return tiny()


@pytest.fixture(scope="module")
def shapes(exp):
    return make_shapes(exp, WORDS)


def test_it_counts_the_operations_and_the_memory_of_the_step_itself(exp, shapes):
    told = passed(shapes, exp, 8, gpu=False, precision="no")
    task = make_task(exp, WORDS, 1).train()
    batch = make_batch(exp, dict(task.heads.items()), 8, True)
    with FlopCounterMode(display=False) as counter:
        out = task(batch, 1)
        out.loss.backward()
    assert told.flops == counter.get_total_flops() > 0
    saved = {}

    def keep(x):
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = task(batch, 1)
    own = {p.untyped_storage().data_ptr() for p in (*task.parameters(), *task.buffers())}
    kept = sum(size for place, size in saved.items() if place not in own)
    assert kept <= told.bytes < 1.6 * kept + sum(4 * p.numel() for p in task.parameters())


def test_memory_grows_in_a_line_with_the_samples(exp, shapes):
    at = {n: passed(shapes, exp, n, gpu=True, precision="bf16").bytes for n in (16, 32, 48)}
    assert at[32] - at[16] == pytest.approx(at[48] - at[32], rel=0.02)
    assert at[32] - at[16] > 16 * 4 * 17 * 32  # a sample's image tokens alone
    exact = passed(shapes, exp, 48, gpu=True, precision="no").bytes
    assert at[48] < 0.85 * exact
    assert passed(shapes, exp, 48, gpu=False, precision="no").bytes < exact  # where activations are made once more


def test_nothing_is_left_behind(exp, shapes):
    before = torch.get_rng_state()
    names = {name: (id(p), p.device.type) for name, p in shapes.named_parameters()}
    passed(shapes, exp, 4, gpu=True, precision="bf16")
    make_shapes(exp, WORDS)
    assert {name: (id(p), p.device.type) for name, p in shapes.named_parameters()} == names
    assert {device for _, device in names.values()} == {"meta"}
    assert all(p.grad is None for p in shapes.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert written_out(torch.zeros(1))


def test_what_is_frozen_has_no_gradient_and_needs_less(exp, shapes):
    rules = (Rule(pattern=r"^model\.image\.", freeze=True), *mmkit_rules())
    frozen = replace(exp, optim=replace(exp.optim, rules=rules))
    task = make_shapes(frozen, WORDS)
    assert not any(p.requires_grad for p in task.model.image.parameters())
    ways = [passed(t, e, 16, gpu=True, precision="no") for t, e in ((task, frozen), (shapes, exp))]
    assert ways[0].flops < 0.8 * ways[1].flops
    assert ways[0].bytes < ways[1].bytes


def test_checkpointing_takes_less_memory_and_more_arithmetic(exp, shapes):
    deep = {"image_depth": 6}
    plain, saving = (
        replace(exp, model=partial(albef_tiny, **deep, checkpointing=checkpointing)) for checkpointing in (False, True)
    )
    chunks = replace(plain, run=replace(plain.run, chunks=4))
    one, other, parts = (
        passed(make_shapes(e, WORDS), e, 64, gpu=True, precision="bf16") for e in (plain, saving, chunks)
    )
    assert other.bytes < 0.4 * one.bytes
    assert parts.bytes < 0.3 * one.bytes
    assert other.flops > 1.1 * one.flops
    assert parts.flops > 1.1 * one.flops


def test_targets_of_heads_that_sort(exp):
    sorting = replace(exp, heads={"sort": partial(Classify, classes=("a", "b", "c"))}, teacher=None)
    task = make_shapes(sorting, WORDS)
    assert passed(task, sorting, 4, gpu=True, precision="no").flops > 0


class Asks(Head):
    """Looks at the values, which shapes alone do not have."""

    def __init__(self, spec):
        super().__init__()

    def forward(self, f):
        return float(f.image.x.sum())


def test_a_head_of_ones_own_that_cannot_be_tried_is_named(exp):
    asking = replace(exp, heads={"asks": partial(Asks)}, teacher=None)
    asked = Trial(asking, WORDS, make_shapes(asking, WORDS), gpu=True, precision="no")
    with pytest.raises(UserError, match=r"of asks cannot be taken on shapes alone .*nor in numbers .*heads.NAME=null"):
        asked.step(4)
    with pytest.raises(UserError, match="cannot be taken on shapes alone"):
        tried(asking, asked.task, 4, gpu=True, precision="no")


def test_a_step_that_depends_on_values_is_a_line_through_two_in_numbers(exp, shapes, monkeypatch):
    wanted = [passed(shapes, exp, size, gpu=True, precision="bf16") for size in FEW]
    monkeypatch.setattr(trial, "passed", Mock(side_effect=RuntimeError("no values here")))
    asked = Trial(exp, WORDS, shapes, gpu=True, precision="bf16")
    two, four, six = (asked.step(size) for size in (2, 4, 6))
    for found, told in zip((two, four), wanted, strict=True):  # in numbers is counted what is counted on shapes,
        assert found.bytes == pytest.approx(told.bytes, rel=1e-4)  # where a norm's means of bfloat16 are half as wide
        assert replace(found, bytes=told.bytes) == told
    assert six == Passed(size=6, bytes=2 * four.bytes - two.bytes, flops=2 * four.flops - two.flops)
    assert trial.passed.call_count == 1  # the others follow the line


def test_the_fused_way_gives_the_numbers_of_the_one_that_is_written_out():
    q, k, v = torch.randn(3, 2, 4, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])[:, None, None]
    plain = attend(q, k, v, mask)
    with as_on_a_gpu():
        assert not written_out(q)
        torch.testing.assert_close(attend(q, k, v, mask), plain)
        assert (dropout(torch.ones(4000), 0.25) == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert written_out(q)
