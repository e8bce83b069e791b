"""The optimizer: PyTorch's own numbers, without its compiler."""

import sys
from inspect import unwrap

import pytest
import torch
from torch import nn

from mmkit.nn.adamw import AdamW


def steps(kind, layer, state=None):
    optimizer = kind([{"params": [layer.weight], "weight_decay": 0.5}], lr=0.1, fused=True)
    optimizer.add_param_group({"params": [layer.bias], "lr": 0.03})
    if state is not None:
        optimizer.load_state_dict(state)
    for i in range(3):
        optimizer.zero_grad()
        layer(torch.arange(6.0).view(2, 3) - i).square().sum().backward()
        optimizer.step()
    return optimizer.state_dict()


def test_numbers_and_state_are_those_of_pytorch_where_its_compiler_cannot_be_imported(monkeypatch):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    plain = steps(torch.optim.AdamW, theirs)
    plain = steps(torch.optim.AdamW, theirs, plain)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    for name in (
        "add_param_group",
        "zero_grad",
        "state_dict",
        "load_state_dict",
    ):  # these remember it
        monkeypatch.delattr(unwrap(getattr(torch.optim.AdamW, name)), "__dynamo_disable")
    with pytest.raises(ImportError):
        torch.optim.AdamW([theirs.weight])
    state = steps(AdamW, ours, steps(AdamW, ours))
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    assert state["param_groups"] == plain["param_groups"]
    for number, moments in plain["state"].items():
        assert state["state"][number].keys() == moments.keys()
        assert all(torch.equal(state["state"][number][name], value) for name, value in moments.items())
