"""Garbage at chosen steps: bounded, and everything as it was after."""

import gc
import runpy
import weakref
from functools import partial

import pytest

from mmkit.train import garbage as module
from mmkit.train.garbage import Garbage
from mmkit.train.loop import train
from tests.train.fakes import tiny


class Circle:
    def __init__(self):
        self.own = self


def circle():
    return weakref.ref(Circle())


@pytest.fixture(autouse=True)
def enabled():
    assert gc.isenabled()
    yield
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_nothing_is_collected_but_at_every_nth_step():
    garbage = Garbage(3)
    with garbage.held():
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        ref = circle()
        garbage.tick()
        garbage.tick()
        assert ref() is not None
        garbage.tick()
        assert ref() is None
        with garbage.let_go():
            assert gc.isenabled()
        assert not gc.isenabled()


def test_what_was_lost_before_is_collected_first_however_old(monkeypatch):
    monkeypatch.setattr(module, "OLDEST", runpy.run_path(module.__file__)["OLDEST"])  # tests leave the old ones alone
    made = Circle()
    gc.collect()  # it lives, and so grows old
    ref = weakref.ref(made)
    del made
    gc.collect(1)
    assert ref() is not None
    with Garbage(3).held():
        assert ref() is None


def test_zero_leaves_it_to_python():
    garbage = Garbage(0)
    with garbage.held():
        assert gc.isenabled()
        garbage.tick()
        with garbage.let_go():
            assert gc.isenabled()
        assert gc.isenabled()


def test_who_had_it_off_keeps_it_off():
    gc.disable()
    try:
        with Garbage(2).held():
            assert gc.get_freeze_count() == 0
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_error_inside_puts_all_back():
    with pytest.raises(KeyError), Garbage(2).held():
        raise KeyError


class Looks:
    """An evaluator that says whether Python collects meanwhile."""

    def __call__(self, predictor):
        return {"enabled": float(gc.isenabled())}


def test_a_run_holds_it_in_its_steps_and_lets_go_in_evaluations(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Garbage, "tick", lambda self: seen.append((gc.isenabled(), self.every)))
    metrics = train(
        tiny(run=dict(steps=3, gc_every_steps=7, eval_every_steps=1), evals={"looks": partial(Looks)}), tmp_path / "run"
    )
    assert seen == [(False, 7)] * 3
    assert metrics["looks.enabled"] == 1
