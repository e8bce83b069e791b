"""A second set of modules, plain and without memory of their own, that whole weights are put into for a while."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Twin:
    """A copy of a module, made before this one is sharded. What it shares inside, its copy shares too."""

    def __init__(self, module: nn.Module) -> None:
        memo: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()
        }
        self.copy: nn.Module = copy.deepcopy(module, memo)
        self._pairs = list(zip(module.modules(), self.copy.modules(), strict=True))

    @contextmanager
    def filled(self, made: Callable[[nn.Parameter], Tensor | None]) -> Iterator[nn.Module]:
        """The copy with what ``made`` gives for each parameter of the original, once; without those that are None.

        Buffers are the original's own, and so is what it keeps as extra state.
        """
        values: dict[nn.Parameter, nn.Parameter | None] = {}
        empty: list[tuple[nn.Module, str, nn.Parameter | None]] = []
        try:
            for part, twin in self._pairs:
                for name, parameter in part._parameters.items():
                    if parameter is None:
                        continue
                    if parameter not in values:
                        value = made(parameter)
                        values[parameter] = None if value is None else nn.Parameter(value, parameter.requires_grad)
                    if (full := values[parameter]) is not None:
                        empty.append((twin, name, twin._parameters[name]))
                        twin._parameters[name] = full
                twin._buffers = dict(part._buffers)
                if type(part).get_extra_state is not nn.Module.get_extra_state:
                    twin.set_extra_state(part.get_extra_state())
            yield self.copy
        finally:
            for twin, name, nothing in empty:
                twin._parameters[name] = nothing
