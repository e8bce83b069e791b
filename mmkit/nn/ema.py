"""The momentum teacher: an exponential moving average of modules (Tarvainen & Valpola 2017; ALBEF, section 3.3)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA(nn.Module):
    """A copy of some modules that follows their parameters, always in eval mode and without gradient.

    ``teacher`` = momentum * ``teacher`` + (1 - momentum) * ``student`` at each ``update``. Buffers, such as the running
    statistics of a batch norm, are the student's own: they are averages already, or no numbers to average.
    """

    def __init__(self, modules: dict[str, nn.Module], momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self._source = modules  # a plain dict, so that the student's modules are not registered twice
        self.copies = nn.ModuleDict({name: copy.deepcopy(module) for name, module in modules.items()})
        self.requires_grad_(False)
        self.train(False)

    def __getitem__(self, name: str) -> nn.Module:
        return self.copies[name]

    def train(self, mode: bool = True) -> EMA:
        """Stays in eval mode, whatever the parent does: a teacher answers without dropout."""
        return super().train(False)

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average, as one multi-tensor call."""
        pairs = [
            (own, student.detach())
            for name, module in self._source.items()
            for own, student in zip(self.copies[name].parameters(), module.parameters(), strict=True)
        ]
        own, students = zip(*pairs, strict=True)
        torch._foreach_lerp_(own, students, 1.0 - self.momentum)
        self._copy_buffers()

    @torch.no_grad()
    def reset(self) -> None:
        """Makes the copies equal to their sources again, after those were loaded."""
        for name, module in self._source.items():
            for own, student in zip(self.copies[name].parameters(), module.parameters(), strict=True):
                own.copy_(student)
        self._copy_buffers()

    def _copy_buffers(self) -> None:
        for name, module in self._source.items():
            for own, student in zip(self.copies[name].buffers(), module.buffers(), strict=True):
                own.copy_(student)
