"""Muon: what its iteration does to singular values, and that all else is AdamW's."""

import copy

import pytest
import torch
from torch import nn

from mmkit.nn.adamw import AdamW
from mmkit.nn.muon import AT_ONCE, Muon, orthogonal


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.fc1, self.fc2 = nn.Linear(6, 18), nn.Linear(6, 24), nn.Linear(24, 6)

    def forward(self, x):
        return self.fc2((self.fc1(x) + self.qkv(x).sum(-1, keepdim=True)).tanh())


def groups(module, names, **options):
    every = dict(module.named_parameters())
    return [
        {"params": [(f"b.{n}", every[n]) for n in names], "muon": True, **options},
        {"params": [(n, p) for n, p in every.items() if n not in names]},
    ]


def trained(module, optimizer, steps=3):
    for i in range(steps):
        optimizer.zero_grad()
        module(random(4, 6) + i).square().sum().backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("shape", [(2, 8, 20), (1, 8, 8)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    x = random(*shape)
    got = orthogonal(x) / (0.2 * shape[2] ** 0.5)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    turned = u.mT @ got @ v.mT  # diagonal, where the directions are those of x
    values = turned.diagonal(dim1=1, dim2=2)
    assert 0.5 < values.min() < values.max() < 1.3
    assert (turned - torch.diag_embed(values)).abs().max() < 1e-4


def test_a_step_is_a_fifth_wide_whatever_the_gradient_and_zeros_stay():
    x = random(1, 64, 64)
    width = orthogonal(1e-6 * x).square().mean().sqrt()
    assert width == pytest.approx(0.2, rel=0.2)
    assert torch.allclose(orthogonal(1e-3 * x), orthogonal(x), atol=1e-4)
    assert not orthogonal(torch.zeros(1, 3, 3)).any()


@pytest.mark.parametrize("half", [True, False])
def test_steps_are_those_of_pytorchs_muon(half):
    """In its setting for the width of AdamW's steps; it has bfloat16 alone."""
    ours, theirs = Block(), Block()
    theirs.load_state_dict(ours.state_dict())
    names, start = ["fc1.weight", "fc2.weight"], copy.deepcopy(ours.state_dict())
    trained(ours, Muon(groups(ours, names, weight_decay=0.5), half=half, lr=0.02, betas=(0.9, 0.98)))
    every = dict(theirs.named_parameters())
    matrices = torch.optim.Muon([every[n] for n in names], lr=0.02, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    rest = torch.optim.AdamW([p for n, p in every.items() if n not in names], lr=0.02, betas=(0.9, 0.98))
    for i in range(3):
        theirs.zero_grad()
        theirs(random(4, 6) + i).square().sum().backward()
        matrices.step()
        rest.step()
    for name, p in ours.named_parameters():
        moved = (every[name] - start[name]).norm()
        assert (p - every[name]).norm() < 0.2 * moved, name


def test_the_other_groups_take_steps_of_adamw_to_the_bit():
    ours, theirs = Block(), Block()
    theirs.load_state_dict(ours.state_dict())
    trained(ours, Muon(groups(ours, ["fc1.weight"], lr=0.0, weight_decay=0.0), lr=0.02))
    optimizer = AdamW([p for n, p in theirs.named_parameters() if n != "fc1.weight"], lr=0.02)
    trained(theirs, optimizer)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_layers_of_several_maps_are_known_by_name():
    made = Block()
    start = made.qkv.weight.detach().clone()
    optimizer = Muon(groups(made, ["qkv.weight"], lr=1.0, weight_decay=0.0), lr=0.0, half=False)
    trained(made, optimizer, steps=1)
    step = (start - made.qkv.weight).detach().unflatten(0, (3, 6))
    assert torch.allclose(step, orthogonal(made.qkv.weight.grad.unflatten(0, (3, 6))), atol=1e-5)
    assert optimizer.state[made.qkv.weight].keys() == {"step", "exp_avg"}


def test_matrices_pass_in_portions_and_those_without_gradients_stay(monkeypatch):
    made = Block()
    more = copy.deepcopy(made)
    one, several = (Muon(groups(m, ["fc1.weight", "qkv.weight"], weight_decay=0.1), lr=0.1) for m in (made, more))
    trained(made, one, 1)
    monkeypatch.setattr("mmkit.nn.muon.AT_ONCE", 1)
    trained(more, several, 1)
    assert torch.allclose(made.fc1.weight, more.fc1.weight, atol=1e-3)
    assert torch.allclose(made.qkv.weight, more.qkv.weight, atol=1e-3)
    before = made.qkv.weight.detach().clone()
    one.zero_grad()
    one.step()
    assert torch.equal(made.qkv.weight, before)
    assert AT_ONCE >= 768 * 3072


def test_a_step_whose_scaled_gradients_overflowed_is_left_out():
    made = Block()
    optimizer = Muon(groups(made, ["fc1.weight"], weight_decay=0.1), lr=0.1)
    before = made.fc1.weight.detach().clone()
    made.fc1.weight.grad = torch.ones(24, 6)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert torch.equal(made.fc1.weight, before)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert not torch.equal(made.fc1.weight, before)
