"""How long processes wait for one another: long at the start and where one works alone, short in the steps."""

from datetime import timedelta

import pytest
import torch.distributed as dist

from mmkit.config import Run, validate
from mmkit.errors import UserError
from mmkit.train import waits
from mmkit.train.waits import Waits
from tests.several import on_processes
from tests.train.fakes import tiny

LONG, SHORT = timedelta(minutes=7), timedelta(seconds=90)
RUN = Run(steps=1, timeout_minutes=7, step_timeout_minutes=1.5)


@pytest.fixture
def told(monkeypatch):
    """What all groups were told, in order."""
    found = []
    monkeypatch.setattr(waits, "set_timeout", found.append)
    return found


def test_the_first_step_is_waited_for_as_the_start_is(told):
    one = Waits(RUN)
    with one.in_step(8):
        pass
    assert told == [LONG]
    with one.in_step(9):
        assert told == [LONG, SHORT]
    assert told == [LONG, SHORT, LONG]


def test_the_place_is_named_with_its_setting(told):
    one = Waits(RUN)
    assert one.where() == "before the first step was done (run.timeout_minutes = 7): "
    with one.in_step(8):
        assert one.where().startswith("before the first step")
    assert one.where() == "after step 8 (run.timeout_minutes = 7): "
    with pytest.raises(KeyError), one.in_step(9):
        raise KeyError
    assert one.where() == "after step 8 (run.step_timeout_minutes = 1.5): "


def test_a_step_is_never_waited_for_longer_than_the_start(told):
    assert Waits(Run(steps=1, timeout_minutes=2)).short == timedelta(minutes=2)
    assert Run(steps=1).step_timeout_minutes == 5


@pytest.mark.parametrize("name", ["timeout_minutes", "step_timeout_minutes"])
@pytest.mark.parametrize(("value", "says"), [(0.0, "positive"), (-1.0, "positive"), (float("inf"), "at most 525600")])
def test_what_is_no_time_is_refused(name, value, says):
    with pytest.raises(UserError, match=says):
        validate(tiny(run={name: value}))


def test_all_groups_of_a_process_are_told(tmp_path):
    on_processes(2, in_groups, tmp_path)


def in_groups(rank, world, folder):
    other = dist.new_group()
    waits.set_timeout(timedelta(seconds=17))
    for group in (dist.group.WORLD, other):
        assert group._get_backend(dist.distributed_c10d.torch.device("cpu")).options._timeout == timedelta(seconds=17)
