"""The feed-forward half of a transformer block, and the activations that released checkpoints use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mmkit.nn.dropout import Dropout
from mmkit.nn.kernels import written_out


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x): what OpenAI's CLIP was trained with; other numbers than GELU's."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "quick_gelu": QuickGELU,
}


class MLP(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, width: int, hidden: int, *, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = ACTIVATIONS[activation]()
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        hidden = self.fc1(x_BND)
        active = self.act(hidden)
        if (self.dropout.rate and self.training) or not written_out(active) or torch.compiler.is_compiling():
            return self.fc2(self.dropout(active))
        with made_again(active, self.act, hidden.detach()):
            return self.fc2(active)


@contextmanager
def made_again(made: Tensor, make: Callable[[Tensor], Tensor], source: Tensor) -> Iterator[None]:
    """Inside, ``made = make(source)`` is not kept for the backward pass, but made there once more.

    An activation is the widest of what a block keeps, and is made in a fraction of the time of the products beside it.
    """
    place = made.data_ptr()

    def pack(kept: Tensor) -> Tensor | torch.Size:
        return kept.shape if kept.data_ptr() == place and kept.numel() == source.numel() else kept

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        return make(source).view(kept) if isinstance(kept, torch.Size) else kept

    with saved_tensors_hooks(pack, unpack):
        yield
