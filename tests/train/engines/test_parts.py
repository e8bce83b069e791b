"""What an engine is made of: units, scalars with an axis, whole copies, the choice by settings. On one process."""

import importlib
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmkit.config import Optim, Rule, Run, mmkit_rules, validate
from mmkit.errors import UserError
from mmkit.train.engines import choose, sharded
from mmkit.train.engines.base import held, size
from mmkit.train.engines.choose import make_engine, refuse_launched, shards_of
from mmkit.train.engines.ddp import DDP
from mmkit.train.engines.scalars import give_axes
from mmkit.train.engines.units import units_of
from mmkit.train.engines.whole import Twin
from tests.examples import task
from tests.sizes import albef_tiny, vilt_tiny
from tests.train.engines.steps import borrowing, captioning, owning
from tests.train.fakes import tiny


def named(made, reshard=False):
    """The units of each pass, as (names, given up after the forward pass)."""
    names = {module: name for name, module in made.named_modules()}
    return [
        [(tuple(names[m] for m in unit.modules), unit.again) for unit in units]
        for units in units_of(made, made.ema, reshard)
    ]


def test_a_unit_is_what_a_block_multiplies_by():
    found = named(task(model=partial(albef_tiny, fusion_depth=2)))
    students = [units for units in found if units[0][0][0].startswith("model.")]
    assert students == [
        [((f"model.image.blocks.{i}.attn", f"model.image.blocks.{i}.mlp"), False) for i in (0, 1)],
        [(("model.text.blocks.0.attn", "model.text.blocks.0.mlp"), False)],
        [((f"model.fusion.blocks.{i}.cross.kv",), False) for i in (0, 1)],
        [(tuple(f"model.fusion.blocks.{i}.{part}" for part in ("attn", "cross", "mlp")), False) for i in (0, 1)],
    ]
    assert len(found) == 2 * len(students)


@pytest.mark.parametrize(("model", "towers"), [(albef_tiny, {"image"}), (vilt_tiny, set())])
@pytest.mark.parametrize("reshard", [False, True])
def test_what_a_step_passes_once_is_given_up_by_the_teacher_and_by_the_student_where_asked(model, towers, reshard):
    heads = ("itc", "itm") if model is albef_tiny else ("itm_mixed",)
    given_up = {
        names[0].split(".blocks")[0]
        for units in named(task(heads, model=model), reshard)
        for names, again in units
        if again
    }
    expected = {f"ema.copies.model.{tower}" for tower in towers} | {f"model.{t}" for t in towers if reshard}
    assert given_up == expected


@pytest.mark.parametrize("shared", ["a module", "a parameter"])
def test_a_block_that_something_else_reads_too_is_no_unit(shared):
    made = borrowing(momentum=None)
    if shared == "a parameter":
        made.heads.own.mlp = nn.Linear(32, 128)
        made.heads.own.mlp.weight = made.model.text.blocks[0].mlp.fc1.weight
    mine = {name for units in named(made) for names, _ in units for name in names}
    assert not any(name.startswith("model.text") for name in mine)
    assert "model.fusion.blocks.0.attn" in mine


def test_a_block_that_reads_a_weight_twice_within_itself_is_a_unit():
    made = borrowing(momentum=None)
    made.model.fusion.blocks[0].mlp.again = made.model.fusion.blocks[0].mlp.fc1
    assert "model.fusion.blocks.0.mlp" in {name for units in named(made) for names, _ in units for name in names}


def test_blocks_that_are_read_by_another_method_are_no_units():
    made = captioning()
    mine = {name for units in named(made) for names, _ in units for name in names}
    assert "heads.own.decoder.blocks.0.attn" in mine
    assert not any(name.startswith("heads.prefix") for name in mine)


def test_scalars_have_an_axis_inside_and_none_for_who_reads_them():
    made = owning(momentum=None)
    made.model.again = made.model.temperature
    before = made.model.temperature.value.item()
    assert give_axes(made) == {"model.temperature.value", "model.again.value", "heads.own.scale"} - {
        "model.again.value"
    }
    parameter = made.model.temperature._parameters["value"]
    assert parameter.shape == (1,)
    scalar = made.model.temperature.value
    assert scalar.shape == ()
    assert scalar.item() == before
    assert scalar.data_ptr() != parameter.data_ptr()  # what is logged outlives the shard
    (2 * made.model.temperature()).backward()
    assert parameter.grad.tolist() == [2.0]
    assert not any(p.ndim == 0 for p in made.parameters())


def test_a_scalar_with_two_owners_stays_one():
    one, other = nn.Module(), nn.Module()
    one.value = other.value = nn.Parameter(torch.tensor(3.0), requires_grad=False)
    both = nn.ModuleDict({"one": one, "other": other})
    assert give_axes(both) == {"one.value", "other.value"}
    assert len(list(both.parameters())) == 1
    assert not next(both.parameters()).requires_grad


class Counting(nn.Linear):
    """With a buffer, and a number that only its extra state tells."""

    def __init__(self):
        super().__init__(2, 2, bias=False)
        self.number = 1
        self.register_buffer("seen", torch.zeros(2))

    def get_extra_state(self):
        return self.number

    def set_extra_state(self, state):
        self.number = state


def test_a_twin_has_the_weights_of_now_for_a_while():
    made = nn.ModuleDict({"a": Counting(), "b": nn.Linear(2, 2)})
    made.b.weight = made.a.weight
    twin = Twin(made)
    made.a.number, made.a.seen = 7, torch.ones(2)
    made.b.bias.requires_grad_(False)
    asked = []

    def double(parameter):
        asked.append(parameter)
        return None if parameter is made.b.bias else 2 * parameter.detach()

    with twin.filled(double) as whole:
        assert torch.equal(whole.a.weight, 2 * made.a.weight)
        assert whole.b.weight is whole.a.weight
        assert whole.b.bias.is_meta
        assert whole.a.number == 7
        assert whole.a.seen is made.a.seen
        assert whole.a.weight.requires_grad
    assert len(asked) == 2  # what two share is made once
    assert all(p.is_meta for p in twin.copy.parameters())
    with pytest.raises(ZeroDivisionError), twin.filled(lambda p: p.detach()):
        raise ZeroDivisionError
    assert all(p.is_meta for p in twin.copy.parameters())


@pytest.mark.parametrize("engine", ["fsdp", "hsdp"])
def test_one_process_has_nothing_to_shard(engine):
    found = make_engine(Run(steps=1, engine=engine), SimpleNamespace())
    assert isinstance(found, DDP)
    assert found.told == f"{engine} on one process: nothing to shard"


@pytest.mark.parametrize(("found", "asked", "local", "world"), [
    (2, None, "2", 4), (4, 4, "2", 4), (3, 3, "2", 6), (6, None, "6", 6),
])  # fmt: skip
def test_hsdp_shards_over_a_node_or_as_asked(monkeypatch, found, asked, local, world):
    monkeypatch.setattr(choose, "world_size", lambda: world)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert shards_of(Run(steps=1, engine="hsdp", shard_ranks=asked)) == found
    assert shards_of(Run(steps=1, engine="fsdp")) == world


@pytest.mark.parametrize(("others", "asked", "local", "message"), [
    ([4], 4, "2", r"run.shard_ranks = 4 does not divide the 6 processes of the run; give run.shard_ranks = 2, 3 or 6$"),
    ([1], 1, "2", "run.shard_ranks = 1 leaves nothing to shard"),
    ([4], None, "4", r"the processes of a node \(LOCAL_WORLD_SIZE\) = 4 does not divide"),
    ([2, 4], None, "2", r"different numbers of processes \(2, 4\); give run.shard_ranks"),
    ([0], None, "", "the launcher does not say how many processes a node has"),
])  # fmt: skip
def test_what_hsdp_cannot_split_is_refused(monkeypatch, others, asked, local, message):
    monkeypatch.setattr(choose, "world_size", lambda: 6)
    monkeypatch.setattr(choose, "gather_objects", lambda value: [value, *others])
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    else:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match=message):
        shards_of(Run(steps=1, engine="hsdp", shard_ranks=asked))


def test_what_cannot_be_split_is_told_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(choose, "world_size", lambda: 6)
    monkeypatch.setattr(choose, "gather_objects", lambda value: [value])
    choose.check_engine(Run(steps=1, shard_ranks=4))
    with pytest.raises(UserError, match="does not divide the 6 processes"):
        choose.check_engine(Run(steps=1, engine="hsdp", shard_ranks=4))
    monkeypatch.setattr(choose, "world_size", lambda: 1)
    choose.check_engine(Run(steps=1, engine="hsdp", shard_ranks=4))


@pytest.mark.parametrize(("settings", "message"), [
    ({"engine": "zero3"}, "run.engine = 'zero3': must be one of ddp, fsdp, hsdp"),
    ({"engine": "fsdp", "shard_ranks": 2}, "run.shard_ranks = 2: is for run.engine = 'hsdp', and this is 'fsdp'"),
    ({"engine": "hsdp", "shard_ranks": 0}, "run.shard_ranks"),
    ({"reshard": True}, "run.reshard: is for run.engine = 'fsdp' or 'hsdp'"),
])  # fmt: skip
def test_settings_that_do_not_fit_the_engine_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        validate(tiny(run=settings), world=2)
    validate(tiny(run={"engine": "hsdp", "shard_ranks": 1, "reshard": True}), world=2)


def test_weights_of_several_types_are_refused():
    made = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    sharded._check(made)
    made.b.half()
    with pytest.raises(UserError, match=r"a.weight float32, b.weight float16\); take run.engine = 'ddp'"):
        sharded._check(made)


@pytest.mark.parametrize("variable", [
    "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
])  # fmt: skip
def test_a_launcher_that_shards_is_sent_to_the_setting(monkeypatch, variable):
    refuse_launched()
    monkeypatch.setenv(variable, "false")
    refuse_launched()
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match=rf"{variable}\), which mmkit leaves alone.*--set run.engine=fsdp"):
        refuse_launched()


def test_what_is_held_counts_gradient_and_optimizer_of_what_is_trained():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert held(layer, Optim()) == 4 * (6 * 4 + 2)
    assert held(layer, Optim(rules=(Rule(pattern="weight", muon=True), *mmkit_rules()))) == 4 * (6 * 3 + 2)
    assert (size(3 * 2**19), size(5 * 2**28)) == ("1.5 MiB", "1.25 GiB")


def test_compiling_within_blocks_leaves_what_lies_between_them(monkeypatch):
    importlib.import_module("torch._inductor.config")  # it uses what is replaced below
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: ("compiled", forward, dynamic))
    made = task(momentum=None)
    made.compile_blocks(within=True)
    block = made.model.fusion.blocks[0]
    for part in (block.attn, block.cross, block.mlp):
        assert part.forward == ("compiled", type(part).forward.__get__(part), True)
    assert block._compiled_call_impl is None
    assert "forward" not in vars(block)
    assert "forward" not in vars(block.cross.kv)
