"""What stops a run: shares of bad pictures, what is not finite, what was miscounted, a signal on any process."""

import math

import pytest
import torch

from mmkit.errors import UserError
from mmkit.train.guard import FEW, Guard

CPU = torch.device("cpu")
FINE = torch.tensor(1.0)
NAN = torch.tensor(math.nan)


def watched(guard, bad=0, seen=8, step=1, losses=None, norm=FINE, stop=False, wrong=None):
    keys = [tuple(f"k{i}" for i in range(seen))]
    skipped = [f"bad {i}" for i in range(bad)]
    guard.watch(step, losses or [{"a": FINE, "loss": FINE}], norm, keys, skipped, stop, wrong)


@pytest.mark.parametrize(("share", "steps", "stops"), [
    (0.02, [(2, 8)], None),  # of few: 2 % of a hundred
    (0.02, [(3, 8)], "3 of 8 pictures"),
    (0.02, [(2, 92), (0, 8)], None),
    (0.02, [(2, 92), (1, 8)], "3 of 100 pictures"),
    (0.02, [(2, 100), (2, 100)], None),
    (0.02, [(2, 100), (3, 100)], "5 of 200 pictures"),
    (0.0, [(0, 8), (1, 8)], "1 of 16 pictures could not be read, more than data.max_bad_fraction = 0.0; first: bad 0."),
    (1.0, [(8, 8)] * 20, None),
])  # fmt: skip
def test_bad_pictures_stop_a_run_above_their_share(share, steps, stops):
    guard = Guard(CPU, max_bad_fraction=share)
    for bad, seen in steps[:-1]:
        watched(guard, bad, seen)
    if stops is None:
        watched(guard, *steps[-1])
    else:
        with pytest.raises(UserError, match=stops):
            watched(guard, *steps[-1])
    assert (guard.bad, guard.seen) == (sum(bad for bad, _ in steps), sum(seen for _, seen in steps))
    assert FEW == 100


def test_those_of_before_a_resume_count_and_the_first_are_named():
    guard = Guard(CPU, max_bad_fraction=0.1)
    guard.seen, guard.bad = 1000, 98
    watched(guard, 2, 8)
    with pytest.raises(UserError, match=r"107 of 1024 .*first: bad 0; bad 1; bad 0; bad 1; bad 2\. `mmkit data check`"):
        watched(guard, 7, 16)


def test_a_signal_is_remembered():
    guard = Guard(CPU, max_bad_fraction=0.0)
    watched(guard)
    assert guard.stop_asked is False
    watched(guard, stop=True)
    watched(guard)
    assert guard.stop_asked is True


@pytest.mark.parametrize("name", ["save", "failed"])
def test_what_one_process_asks_or_tells_of_saving_is_remembered(name):
    guard = Guard(CPU, max_bad_fraction=0.0)
    guard.watch(1, [{"a": FINE, "loss": FINE}], FINE, [("k",)], [], False)
    assert (guard.save_asked, guard.save_failed) == (False, False)
    guard.watch(2, [{"a": FINE, "loss": FINE}], FINE, [("k",)], [], False, **{name: True})
    watched(guard, bad=0, seen=3)
    assert (guard.save_asked, guard.save_failed) == (name == "save", name == "failed")
    assert (guard.stop_asked, guard.seen, guard.bad) == (False, 5, 0)


@pytest.mark.parametrize(("losses", "norm", "says"), [
    ([{"a": FINE, "b": NAN, "loss": NAN}], NAN, r"step 7: loss 'b' is not finite.*Samples: k0, k1, k2, k3\. "),
    ([{"a": FINE, "b": FINE, "loss": NAN}], FINE, "step 7: the weighted loss is not finite"),
    ([{"a": torch.tensor(math.inf), "loss": FINE}], FINE, "step 7: loss 'a' is not finite"),
    ([{"a": FINE, "loss": FINE}], torch.tensor(math.inf), r"step 7: the gradient is not finite.*k0, k1, k2, k3\. "),
])  # fmt: skip
def test_what_is_not_finite_is_named(losses, norm, says):
    guard = Guard(CPU, max_bad_fraction=0.0)
    with pytest.raises(UserError, match=says):
        watched(guard, seen=4, step=7, losses=losses, norm=norm)


def test_under_fp16_a_gradient_may_be_infinite_and_a_loss_not():
    guard = Guard(CPU, max_bad_fraction=0.0, gradients=False)
    watched(guard, norm=NAN)
    with pytest.raises(UserError, match="loss 'a'"):
        watched(guard, losses=[{"a": NAN, "loss": NAN}])


def test_of_several_micro_batches_the_sick_one_is_named():
    guard = Guard(CPU, max_bad_fraction=0.0)
    sick, well = {"a": NAN, "loss": NAN}, {"a": FINE, "loss": FINE}
    with pytest.raises(UserError, match=r"Samples: c, d\. Try") as caught:
        guard.watch(1, [well, sick, well], NAN, [("a", "b"), ("c", "d"), ("e",)], [], False)
    assert "and" not in str(caught.value).split("Samples: ")[1].split(".")[0]
    with pytest.raises(UserError, match=r"Samples: a, b, c, d, e\. Try"):
        guard.watch(1, [well, well, well], NAN, [("a", "b"), ("c", "d"), ("e",)], [], False)
    with pytest.raises(UserError, match=r"k63 and 2 more\."):
        watched(guard, seen=66, norm=NAN)


def test_a_miscount_is_named_by_its_loss():
    guard = Guard(CPU, max_bad_fraction=0.0)
    watched(guard, wrong={"a": torch.tensor(False), "b": torch.tensor(False)})
    with pytest.raises(UserError, match="step 2: the loss 'b' was over another number of items"):
        watched(guard, step=2, wrong={"a": torch.tensor(False), "b": torch.tensor(True)})


def test_on_a_device_flags_are_read_a_step_later_and_before_a_save(monkeypatch):
    """As on a GPU, whose flags are on their way for a while."""

    class Event:
        def record(self):
            pass

        def synchronize(self):
            pass

    monkeypatch.setattr(torch.cuda, "Event", Event)
    guard = Guard(CPU, max_bad_fraction=0.0)
    guard.device = type("Device", (), {"type": "cuda"})()
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: self)
    watched(guard, step=1)
    watched(guard, step=2, losses=[{"a": NAN, "loss": NAN}])
    with pytest.raises(UserError, match="step 2: loss 'a'"):
        watched(guard, step=3)
    watched(guard, step=4, losses=[{"a": NAN, "loss": NAN}])
    with pytest.raises(UserError, match="step 4: loss 'a'"):
        guard.check()
    guard.check()  # read once
    assert guard.seen == 8 * 4
