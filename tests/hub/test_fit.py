"""What a described model must have of its weights: names and shapes, counted before memory is taken."""

import threading
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmkit.errors import UserError
from mmkit.hub import fit
from mmkit.hub.fit import check_plan, check_shapes, no_more_than, state_of, state_of_all
from mmkit.nn.queue import FeatureQueue


class Part(nn.Module):
    """Weights, a buffer, a queue within and one beside, and state that is no tensor."""

    def __init__(self, width=3):
        super().__init__()
        self.a = nn.Linear(width, 2)
        self.register_buffer("kept", torch.zeros(4))
        self.register_buffer("made", torch.zeros(4), persistent=False)
        self.queue = FeatureQueue(5, {"image": 2})
        self.queue_size = nn.Parameter(torch.zeros(1))

    def get_extra_state(self):
        return torch.tensor(3)

    def set_extra_state(self, state):
        pass


WANTED = {"a.weight": (2, 3), "a.bias": (2,), "kept": (4,), "queue_size": (1,)}


def test_what_a_part_has_in_a_file():
    assert {name: tuple(value.shape) for name, value in state_of(Part())} == WANTED
    assert list(state_of(FeatureQueue(5, {"image": 2}))) == []
    found = state_of_all(nn.Linear(2, 1, bias=False), {"x": Part()})
    assert set(found) == {"model.weight", *(f"heads.x.{name}" for name in WANTED)}


def test_what_does_not_fit_is_listed_by_its_kind(tmp_path):
    wanted = {name: torch.zeros(shape) for name, shape in WANTED.items()}
    check_shapes(wanted, WANTED, tmp_path / "w")
    found = {"a.weight": (3, 2), "a.bias": (2,), "kept": (4, 1), "more": (1,)}
    with pytest.raises(UserError) as error:
        check_shapes(wanted, found, tmp_path / "w")
    assert str(error.value) == (
        f"{tmp_path / 'w'}: does not fit {tmp_path / 'config.json'}:\n"
        "  weights that the model needs and the file lacks: queue_size\n"
        "  weights in the file that the model has no place for: more\n"
        "  weights of another shape: a.weight [3, 2], wanted [2, 3], kept [4, 1], wanted [4]"
    )
    for number, more in ((8, ""), (9, ", ... (9 in all)")):
        with pytest.raises(UserError) as error:
            check_shapes({}, {f"w{i}": (1,) for i in range(number)}, tmp_path / "w")
        assert str(error.value).endswith(f"w7{more}")


def test_tensors_are_counted_as_they_are_made_and_no_longer():
    nn.Linear(2, 2)
    with no_more_than(4, "too many"):
        nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"^too many$"), no_more_than(3, "too many"):
        nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"^too many$"), no_more_than(1, "too many"):
        nn.BatchNorm1d(2, affine=False)  # buffers count too
    with no_more_than(2, "too many"):
        for make in (partial(nn.Linear, 2, 2), partial(nn.BatchNorm1d, 2)):  # somebody else's models are none of this
            other = threading.Thread(target=make)
            other.start()
            other.join()
        nn.Linear(2, 2)
    nn.Linear(2, 2)


def test_constants_that_no_model_has_are_refused(monkeypatch):
    monkeypatch.setattr(fit, "SPARE_VALUES", 10)
    for sizes in ((10,), (4, 6), (2, 2, 6)):
        with no_more_than(99, "too large"):
            nn.Module().register_buffer("a", torch.zeros(0))
            for i, size in enumerate(sizes):
                nn.Module().register_buffer(f"b{i}", torch.zeros(size))
    for sizes in ((11,), (4, 7)):
        with pytest.raises(UserError, match=r"^too large \(b of \[\d+\]\)$"), no_more_than(99, "too large"):
            [nn.Module().register_buffer("b", torch.zeros(size)) for size in sizes]


def test_a_plan_is_made_without_memory_and_compared(tmp_path):
    class Model(nn.Linear):
        spec = "spec"

    devices = []

    def head(spec):
        assert spec == "spec"
        made = Part()
        devices.append(made.a.weight.device.type)
        return made

    file = tmp_path / "model.safetensors"
    state = state_of_all(nn.Linear(2, 1), {"x": Part()})
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    check_plan(partial(Model, 2, 1), {"x": head}, file)
    assert devices == ["meta"]
    with pytest.raises(UserError, match=r"no place for: heads\.x"):
        check_plan(partial(Model, 2, 1), {}, file)

    class Many(Model):
        def __init__(self):
            super().__init__(2, 1)
            self.more = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(2 * len(state) + fit.SPARE_TENSORS))

    with pytest.raises(UserError, match=r"config\.json: describes a far larger model than the weights beside it are$"):
        check_plan(Many, {"x": head}, file)
