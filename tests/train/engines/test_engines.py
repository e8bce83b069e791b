"""Engines against one process with the joined batch, on two and four processes; each number of them in one launch."""

import re
from functools import cache

import pytest
import torch

from tests.several import on_processes
from tests.train.engines.on_several import look, on_four, on_two
from tests.train.engines.steps import CASES, take


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return found_on(2, on_two, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return found_on(4, on_four, tmp_path_factory.mktemp("four"))


def found_on(world, work, folder):
    on_processes(world, work, folder)
    return torch.load(folder / "found.pt", weights_only=False)


@pytest.fixture(scope="module")
def alone():
    """What one process does with the joined batch, by the name of the case."""
    return cache(lambda name: take(CASES[name], "ddp", look if name in ("albef", "odd") else None))


def close(value, expected, rtol, atol=0.0):
    torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(expected), rtol=rtol, atol=atol)


def assert_same_run(found, expected):
    """Losses and norms of all steps to 1e-6, and all that they left behind."""
    close(found["losses"], expected["losses"], 1e-6)
    close(found["norms"], expected["norms"], 1e-6)
    for own, theirs in zip(found["logs"], expected["logs"], strict=True):
        assert own.keys() == theirs.keys()
        for name in own.keys() & {"own/scale", "own/shift", "itc/temperature", "sigmoid/bias", "itc/chance"}:
            close(own[name], theirs[name], 1e-5)
    assert found["task"].keys() == expected["task"].keys()
    for name, value in expected["task"].items():
        assert found["task"][name].shape == value.shape, name
        close(found["task"][name], value, 1e-4, 2e-5)
    groups = [
        [{k: v for k, v in g.items() if k != "params"} for g in of["optimizer"]["param_groups"]]
        for of in (found, expected)
    ]
    assert groups[0] == groups[1]
    for number, moments in expected["optimizer"]["state"].items():
        for name, value in moments.items():
            own = found["optimizer"]["state"][number][name]
            assert own.shape == value.shape, (number, name)
            close(own, value, 1e-3, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_with_shards_take_the_steps_of_one(two, alone, name):
    assert_same_run(two["fsdp"][name], alone(name))
    assert 0.49 < two["fsdp"][name]["local"] < 0.52


@pytest.mark.parametrize(("engine", "name", "share"), [("hsdp", "odd", 0.5), ("fsdp", "accumulated", 0.25)])
def test_four_processes_take_the_steps_of_one(four, alone, engine, name, share):
    assert_same_run(four[engine], alone(name))
    assert share <= four[engine]["local"] < share + 0.02


def test_ddp_is_pytorchs_own_to_the_bit(two):
    expected = two["by hand"]
    for name, value in expected.items():
        assert torch.equal(two["ddp"]["task"][name], value), name
    assert two["ddp"]["local"] == 1.0


def test_evaluators_see_whole_weights_as_often_as_they_ask(two, four, alone):
    for found, name in ((two["fsdp"]["albef"], "albef"), (four["hsdp"], "odd")):
        seen, expected = found["looked"], alone(name)["looked"]
        assert seen["plain"]
        assert seen["scalar"] == ()
        close(seen["seen"], expected["seen"], 1e-4, 1e-5)


@pytest.mark.parametrize("name", ["albef", "siglip"])
def test_weights_gathered_in_bfloat16_give_the_bits_of_autocast(two, name):
    gathered, cast = two["half"][name]
    assert gathered["looked"] == ("torch.bfloat16", "torch.float32")
    assert cast["looked"] == ("torch.float32", "torch.float32")
    assert gathered["losses"] == cast["losses"]
    assert gathered["norms"] == cast["norms"]
    assert gathered["losses"] != two["fsdp"][name]["losses"][:1]


def test_what_is_gathered_when_a_step_ends_is_refused(two):
    assert "parameters are still gathered after the backward pass (model." in two["fsdp"]["own head"]["looked"]["said"]


def test_a_state_in_shards_has_the_shapes_of_one_process(two, alone):
    found = two["fsdp"]["own head"]["looked"]["task"]
    whole = alone("own head")["task"]
    assert {name: shape for name, (shape, _) in found.items()} == {
        name: tuple(value.shape) for name, value in whole.items() if isinstance(value, torch.Tensor)
    }
    plain = {name for name, (_, sharded) in found.items() if not sharded}
    assert plain == {name for name in found if ".queue." in name or found[name][0] == ()}
    assert {"model.temperature.value", "heads.own.scale"} <= plain


def test_the_model_for_use_is_whole_on_the_first_process_alone(two):
    assert two["fsdp"]["own head"]["looked"]["devices"] == [{"cpu"}, {"meta"}]


def test_the_plan_says_what_a_process_holds(two):
    told = two["fsdp"]["own head"]["looked"]["told"]
    found = re.fullmatch(
        r"fsdp: each of 2 processes holds its share; this process (\d\.\d) MiB of (\d\.\d) MiB of weights, teacher, "
        "gradients and optimizer",
        told,
    )
    assert found is not None, told
    assert float(found[1]) == pytest.approx(float(found[2]) / 2, abs=0.1)
