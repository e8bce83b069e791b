"""What each engine holds and sends, by numbers that can be checked by hand."""

from dataclasses import replace

import pytest

from mmkit.config import muon_rules
from mmkit.train.needs.memory import CONTEXT_GIB, Sent, Sizes, needed, sent, shards, sizes_of, state_of
from mmkit.train.needs.trial import Words, make_shapes
from tests.train.fakes import tiny

GIB = 2**30
SIZES = Sizes(
    trained=1000, frozen=200, teacher=600, buffers=80, gathered=2000, passing=300, entered=2600,
)  # fmt: skip


@pytest.mark.parametrize(("engine", "world", "node", "parts"), [
    ("ddp", 64, 8, 1), ("fsdp", 64, 8, 64), ("hsdp", 64, 8, 8), ("hsdp", 4, 8, 4), ("fsdp", 1, 8, 1),
])  # fmt: skip
def test_state_is_split_over_the_shards(engine, world, node, parts):
    assert shards(engine, world, node) == parts
    # four bytes for weights and teacher, twelve more for gradient and two averages; buffers are everywhere
    assert state_of(SIZES, engine, world, node) == -(-(4 * 1800 + 12 * 1000) // parts) + 80


def test_a_training_state_and_a_model_on_disk():
    assert SIZES.saved == 4 * 1800 + 8 * 1000 + 80
    assert SIZES.model == 4 * 1200


def test_muon_keeps_one_average():
    less = replace(SIZES, muon=300)
    assert SIZES.saved - less.saved == 4 * 300
    assert state_of(SIZES, "ddp", 8, 8) - state_of(less, "ddp", 8, 8) == 4 * 300
    task = make_shapes(tiny(), Words(vocab_size=60))
    assert sizes_of(task, False).muon == 0
    matrices = [p for n, p in task.named_parameters() if ".blocks." in n and p.ndim == 2 and not n.startswith("ema.")]
    assert sizes_of(task, False, rules=muon_rules()).muon == sum(p.numel() for p in matrices)


def test_gradients_come_in_the_course_of_a_pass_or_lie_there_from_the_start():
    def need(engine="ddp", world=1, accumulation=1, gpu=False):
        gib = needed(SIZES, engine, world, 8, passed=5000, accumulation=accumulation, gpu=gpu)
        return gib if gpu else round((gib - 0.5) * GIB)

    state = 4 * 1800 + 12 * 1000 + 80
    assert need() == state - 4000 + 5000
    assert need(accumulation=2) == need(world=2) == state + 5000
    shared = state_of(SIZES, "fsdp", 2, 8)
    assert need("fsdp", 2) == shared + 2000 + 300 + 5000
    assert need("fsdp", 2, accumulation=2) == need("fsdp", 2) + 4000
    assert need("fsdp", 1) == state + 5000
    assert need(gpu=True) == pytest.approx((state + 1000) / GIB / 0.95 + CONTEXT_GIB)


def test_bytes_of_a_step():
    assert sent(SIZES, "ddp", 1, 8) == Sent(0, 0)
    assert sent(SIZES, "ddp", 8, 8) == Sent(2 * 4000 * 7 / 8, 0)
    assert sent(SIZES, "ddp", 64, 8) == Sent(2 * 4000 * 63 / 64, 2 * 4000 * 63 / 64)
    assert sent(SIZES, "fsdp", 64, 8) == Sent(6600 * 63 / 64, 6600 * 63 / 64)
    assert sent(SIZES, "hsdp", 8, 8) == sent(SIZES, "fsdp", 8, 8) == Sent(6600 * 7 / 8, 0)
    across = 2 * 4000 * 7 / 8
    assert sent(SIZES, "hsdp", 64, 8) == Sent(6600 * 7 / 8 + across / 8, across)


def test_sizes_of_a_task():
    task = make_shapes(tiny(), Words(vocab_size=60))
    sizes = sizes_of(task, half=False)
    model = sum(p.numel() for p in task.model.parameters()) + sum(p.numel() for p in task.heads.parameters())
    teacher = sum(p.numel() for p in task.ema.parameters())
    assert (sizes.trained, sizes.frozen, sizes.teacher) == (model, 0, teacher)
    block = sum(p.numel() for part in ("attn", "mlp") for p in getattr(task.model.image.blocks[0], part).parameters())
    of_teacher = len(task.model.image.blocks) * block
    assert sizes.gathered == 4 * (model + teacher - of_teacher)
    assert sizes.passing == 2 * 4 * block
    assert sizes.entered == 4 * (model + teacher)


def test_half_precision_gathers_linear_layers_in_half_and_reshard_gives_the_image_tower_up():
    task = make_shapes(replace(tiny(), teacher=None), Words(vocab_size=60))
    plain, half, reshard = sizes_of(task, False), sizes_of(task, True), sizes_of(task, True, reshard=True)
    tower = sum(p.numel() for b in task.model.image.blocks for part in (b.attn, b.mlp) for p in part.parameters())
    assert half.gathered < 0.8 * plain.gathered
    assert reshard.gathered == half.gathered - 2 * tower
    assert reshard.entered == half.entered + 2 * tower  # for the backward pass again
    assert (half.passing, half.teacher) == (0, 0)
