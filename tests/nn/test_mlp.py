"""The MLP: what it keeps for its backward pass, and that its gradients are the same."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from mmkit.nn.dropout import dropout, kept
from mmkit.nn.kernels import as_on_a_gpu
from mmkit.nn.mlp import MLP


def passed(mlp, x):
    """The output, all gradients, and the shapes of what was kept."""
    shapes = []

    def keep(tensor):
        shapes.append(tuple(tensor.shape))
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = mlp(x)
    return out, torch.autograd.grad(out.float().square().sum(), (x, *mlp.parameters())), shapes


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("half", [False, True])
def test_the_activation_is_made_again_and_not_kept(activation, half):
    torch.manual_seed(0)
    mlp, x = MLP(8, 24, activation=activation), torch.randn(2, 5, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out, gradients, shapes = passed(mlp, x)
        with as_on_a_gpu():
            wanted, theirs, more = passed(mlp, x)
    assert torch.equal(out, wanted)
    for own, their in zip(gradients, theirs, strict=True):
        assert torch.equal(own, their)
    wide = [sum(shape[-1] == 24 and len(shape) > 1 and shape[0] != 8 for shape in found) for found in (shapes, more)]
    assert wide[0] == wide[1] - 1


def test_with_dropout_what_is_dropped_is_kept():
    torch.manual_seed(0)
    mlp, x = MLP(8, 24, dropout=0.5), torch.randn(4, 8, requires_grad=True)
    torch.manual_seed(1)
    out, gradients, _ = passed(mlp, x)
    torch.manual_seed(1)
    wanted = mlp.fc2(dropout(mlp.act(mlp.fc1(x)), 0.5))
    theirs = torch.autograd.grad(wanted.square().sum(), (x, *mlp.parameters()))
    assert torch.equal(out, wanted)
    assert all(map(torch.equal, gradients, theirs))
    mlp.eval()
    assert torch.equal(mlp(x), mlp.fc2(mlp.act(mlp.fc1(x))))


def test_dropout_keeps_a_byte_of_each_value_for_its_gradient():
    x, seen = torch.randn(6, 50, requires_grad=True), []

    def keep(tensor):
        seen.append(tensor.dtype)
        return tensor

    torch.manual_seed(3)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = dropout(x, 0.25)
    torch.manual_seed(3)
    there, factor = kept(x, 0.25)
    assert seen == [torch.uint8]
    assert torch.equal(out, x * there * factor)
    (gradient,) = torch.autograd.grad(out, x, torch.full_like(out, 2.0))
    assert torch.equal(gradient, 2.0 * there * factor)
    assert factor == pytest.approx(4 / 3, abs=1e-4)
