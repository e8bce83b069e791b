"""What a run says before its first step."""

from dataclasses import replace

import pytest
from torch import nn

from mmkit.config import Optim
from mmkit.config.experiment import BatchPlan
from mmkit.train.plan import Plan, _warmup, count, count_parameters
from mmkit.train.precision import ProductChoice

PLAN = Plan(
    name="mine", records=1234, steps=50, steps_per_epoch=20, warmup_steps=5, start_step=0,
    batch=BatchPlan(rank_batch=4, accumulation_steps=3, global_batch=24, world=2), device="cpu", precision="no",
    product=ProductChoice(name="high", reason="as told"), threads=7,
    parameters={"model.image": (1500, 1500), "model.text": (0, 999), "heads.itm": (200, 1200)},
    loaded={"image": "x.pt", "text": "x.pt", "fusion": "at random"}, within=("itc", "itm"), counted=("mine",),
)  # fmt: skip


def test_its_lines():
    assert PLAN.lines() == [
        "mine: 1,234 records, 50 steps = 2.50 epochs of 20, warm-up 5",
        "batch: 4 a forward x 3 accumulated x 2 processes = 24 a step; 1,200 samples in all",
        "accumulation: itc, itm compare the 8 samples of a micro-batch with each other, not the 24 of a step",
        "accumulation: mine say only after a pass what they count, so each micro-batch passes them twice; a `counts` "
        "of their own would spare that (see mmkit.heads.base.Head)",
        "parameters: 1.7 k trainable (model.image 1.5 k, heads.itm 200); without gradient: model.text 999, "
        "heads.itm 1.0 k",
        "initialised: image, text from x.pt; fusion at random",
        "on cpu, precision no, float32 product 'high' (as told), 7 threads",
    ]


def test_its_lines_of_a_resumed_run_and_of_one_by_the_clock():
    plain = replace(PLAN, within=(), counted=(), loaded={}, start_step=1200, parameters={"model.image": (1, 1)})
    first, batch, parameters, loaded, _ = plain.lines()
    assert first.endswith("warm-up 5; resumes after step 1,200")
    assert (parameters, loaded) == (
        "parameters: 1 trainable (model.image 1)", "initialised: every part at random"
    )  # fmt: skip
    first, batch, *_ = replace(plain, minutes=2.5, steps=0, warmup="3 steps", start_step=0).lines()
    assert "steps for 2.5 minutes" in first
    assert "warm-up 3 steps; an epoch has 20 steps" in first
    assert "resumes" not in first
    assert batch.endswith("= 24 a step")


@pytest.mark.parametrize(("number", "text"), [
    (0, "0"), (999, "999"), (1000, "1.0 k"), (999_900, "999.9 k"), (10**6, "1.0 M"), (1_260_000, "1.3 M"),
    (10**9, "1.0 G"), (25 * 10**9, "25.0 G"),
])  # fmt: skip
def test_numbers_are_short(number, text):
    assert count(number) == text


def test_parameters_are_counted_by_part():
    task = nn.Module()
    task.model = nn.ModuleDict({"image": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), "text": nn.Linear(5, 1)})
    task.heads = nn.ModuleDict({"itm": nn.Linear(4, 2, bias=False)})
    task.ema = nn.ModuleDict({"model": nn.Linear(1, 1)}).requires_grad_(False)
    task.model["image"][0].bias.requires_grad_(False)
    assert count_parameters(task) == {
        "model.image": (10, 13), "model.text": (6, 6), "heads.itm": (8, 8), "ema": (0, 2),
    }  # fmt: skip


def test_the_warm_up_is_said_in_the_unit_in_which_it_is_given():
    given = dict(warmup_steps=None, warmup_epochs=None, warmup_frac=None)
    for name, value, text in (
        ("warmup_steps", 3, "3 steps"), ("warmup_steps", 0, "0 steps"), ("warmup_epochs", 0.5, "0.5 epochs"),
        ("warmup_frac", 0.1, "0.1 of it"),
    ):  # fmt: skip
        assert _warmup(Optim(**given | {name: value})) == text
    assert _warmup(Optim(**given)) == "none"
