"""The numbers that a run reports: each a mean over the items that it claims, of all steps since the last report.

A loss or an accuracy is weighted by how many items stand behind it, over micro-batches, steps and processes alike.
``loss`` is the mean over steps of what was minimised, and ``grad_norm`` that of the gradient's norm before clipping.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mmkit.ranks import gather_objects, world_size
from mmkit.types import Count, TaskOutput


class Means:
    """Adds up steps without waiting for the device; ``read`` waits. ``device``: where the numbers come from."""

    def __init__(self, device: torch.device) -> None:
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self.clear()

    def clear(self) -> None:
        """Forget what was added."""
        self._sums: dict[str, tuple[Count, Count]] = {}
        self._losses: dict[str, None] = {}

    def add(self, outputs: Sequence[TaskOutput], norm: Tensor) -> None:
        """One step: the outputs of its micro-batches on this process, and the norm of its gradient."""
        self._add("loss", torch.stack([output.loss.detach() for output in outputs]).sum(), 1)
        for output in outputs:
            self._losses |= dict.fromkeys(f"losses.{name}" for name in output.losses)
            for name, (value, count) in output.means.items():
                self._add(name, value, count)
        self._add("grad_norm", norm, 1)

    def _add(self, name: str, value: Count, count: Count) -> None:
        """A mean over no items adds nothing, whatever it is."""
        if isinstance(value, Tensor) or isinstance(count, Tensor):
            if not isinstance(value, Tensor):  # made on the device: a copy would wait for it
                value = torch.full((), value, device=self._device)
            value = value.detach().to(self._device, self._dtype)
            if isinstance(count, Tensor):
                count = count.detach().to(self._device, self._dtype)
                value = torch.where(count > 0, value * count, 0.0)
            else:
                value = value * count if count > 0 else torch.zeros_like(value)
        else:
            value = value * count if count > 0 else 0.0
        sums, counts = self._sums.setdefault(name, (0.0, 0.0))
        self._sums[name] = (sums + value, counts + count)

    def read(self) -> dict[str, float]:
        """The means of all processes, and begin anew; what was over no item at all is left out.

        A head with several losses has its sum too. To be called by all processes.
        """
        names = list(dict.fromkeys(name for found in gather_objects(list(self._sums)) for name in found))
        losses = list(dict.fromkeys(name for found in gather_objects(list(self._losses)) for name in found))
        pairs = [self._sums.get(name, (0.0, 0.0)) for name in names]
        numbers = torch.stack(
            [torch.as_tensor(x, dtype=self._dtype, device=self._device) for pair in pairs for x in pair]
            or [torch.zeros((), dtype=self._dtype, device=self._device)]
        )
        if world_size() > 1:
            dist.all_reduce(numbers)
        flat = numbers.tolist()
        means = {name: total / count for name, total, count in zip(names, flat[::2], flat[1::2], strict=False) if count}
        self.clear()
        return _ordered(means, losses)


def _ordered(means: dict[str, float], losses: Sequence[str]) -> dict[str, float]:
    """The loss, each head's with its parts, the rest."""
    found = {name: means[name] for name in ("loss",) if name in means}
    for name in losses:
        parts = [value for other, value in means.items() if other.startswith(f"{name}.")]
        if name in means or parts:
            found[name] = means[name] if name in means else sum(parts)
    return found | {name: value for name, value in means.items() if name not in found}
