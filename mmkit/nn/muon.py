"""Muon: the step of a matrix is its gradient's average with all singular values brought near one.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with the rate of Liu et al. 2025 (arXiv:2502.16982,
section 2.2), under which a step is as wide as one of AdamW: 0.2 on average, times the rate. Only groups that say
``muon`` are taken so; all others are AdamW's. Maps of one shape go through the iteration together.

Each process computes the steps of whole matrices, of shards too, whose averages travel for that. Left out: sharing
that work out among the processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mmkit.nn.adamw import AdamW

MOMENTUM = 0.95
WIDTH = 0.2
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial a x + b x^3 + c x^5, which brings (0, 1] near 1 fast rather than exactly: to 0.7 to 1.2."""
STACKED = {"qkv": 3, "kv": 2}
"""Layers whose weight holds several maps, one below the other: each is a matrix of its own."""
AT_ONCE = 2**24
"""Numbers that go through the iteration together, at most, unless one matrix has more."""


class Muon(AdamW):
    """Muon for the groups that have ``muon``, AdamW for the others.

    Args:
        half: iterate in bfloat16, as published; else in float32.

    A group of Muon has matrices alone, by ``param_names``, and uses ``lr`` and ``weight_decay``. It keeps one average
    of each, ``exp_avg``, and counts its steps, as AdamW does.
    """

    def __init__(self, groups: list[dict[str, Any]], *, half: bool = True, **options: Any) -> None:
        super().__init__(groups, **options)
        self.half = half

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of every group; None, or the loss that ``closure`` gives."""
        every = self.param_groups
        try:
            self.param_groups = [group for group in every if "muon" not in group]
            loss = super().step(closure)
        finally:
            self.param_groups = every
        overflown = getattr(self, "found_inf", None)  # of scaled gradients: AdamW leaves such a step out by itself
        if overflown is None or not overflown.item():
            for group in every:
                if "muon" in group:
                    self._orthogonal_step(group)
        return loss

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        for several in _alike(group):
            maps = torch.cat([_maps(self._update(p), n) for p, n in several])
            steps = orthogonal(maps).split([n for _, n in several])
            for (p, n), step_NRC in zip(several, steps, strict=True):
                step = step_NRC if _wide(p, n) else step_NRC.mT
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(_laid_out(step.reshape(p.shape).to(p.dtype), p), alpha=-group["lr"])

    def _update(self, p: Tensor) -> Tensor:
        """Of the whole parameter, from the gradient's average with this gradient counted again (Nesterov's)."""
        if p not in self.state:
            self.state[p] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p)}
        self.state[p]["step"] += 1
        average = self.state[p]["exp_avg"]
        average.lerp_(p.grad, 1 - MOMENTUM)
        update = p.grad.lerp(average, MOMENTUM).to(torch.bfloat16 if self.half else torch.float32)  # type: ignore[union-attr]
        return update.full_tensor() if isinstance(update, DTensor) else update


def orthogonal(x_NRC: Tensor) -> Tensor:
    """Steps for N matrices, (N, R, C) with R at most C: singular values near one, 0.2 wide on average.

    A matrix of zeros stays as it is.
    """
    a, b, c = COEFFICIENTS
    x = x_NRC / torch.linalg.vector_norm(x_NRC, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x * (WIDTH * math.sqrt(x.shape[2]))


def _alike(group: dict[str, Any]) -> Iterator[list[tuple[Tensor, int]]]:
    """The group's parameters that have gradients, each with its number of maps; those together whose maps are alike."""
    found: dict[tuple[int, ...], list[tuple[Tensor, int]]] = {}
    for name, p in zip(group["param_names"], group["params"], strict=True):
        if p.grad is not None:
            n = next((n for layer, n in STACKED.items() if name.endswith(f".{layer}.weight")), 1)
            found.setdefault(tuple(sorted((p.shape[0] // n, p.shape[1]))), []).append((p, n))
    for shape, own in found.items():
        most = max(1, AT_ONCE // math.prod(shape))
        for i in range(0, len(own), most):
            yield own[i : i + most]


def _wide(p: Tensor, n: int) -> bool:
    return p.shape[0] // n <= p.shape[1]


def _maps(x: Tensor, n: int) -> Tensor:
    """(n, R, C), R at most C: the n maps of a matrix, on their sides where they are tall."""
    maps = x.unflatten(0, (n, -1))
    return maps if _wide(x, n) else maps.mT


def _laid_out(step: Tensor, like: Tensor) -> Tensor:
    """The share of this process, where ``like`` is sharded; nothing travels."""
    if not isinstance(like, DTensor):
        return step
    return distribute_tensor(step, like.device_mesh, like.placements, src_data_rank=None)
