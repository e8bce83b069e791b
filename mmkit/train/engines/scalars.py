"""Parameters without axes, such as the temperature: ``fully_shard`` takes none, so they get one of size 1.

Code that reads one sees a scalar as before, and code that changes one in place after a step changes the shard. Files
have scalars: who writes a state takes the axis away, see ``Sharded``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def give_axes(module: nn.Module) -> frozenset[str]:
    """Give every parameter without axes one of size 1; their names in the state dict, all of each."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    names = []
    for prefix, part in module.named_modules():
        own = [name for name, p in part._parameters.items() if p is not None and p.ndim == 0]
        for name in own:
            old = part._parameters[name]
            assert old is not None
            made.setdefault(old, nn.Parameter(old.detach().reshape(1), requires_grad=old.requires_grad))
            part._parameters[name] = made[old]
            names.append(f"{prefix}.{name}" if prefix else name)
        if own:
            kind = type(part)
            part.__class__ = type(kind.__name__, (kind,), {name: property(_scalar(name)) for name in own})
    return frozenset(names)


def _scalar(name: str) -> Any:
    def read(self: nn.Module) -> Tensor:
        """A scalar of its own while the parameter is whole, whose memory is given back after the step; else the shard.

        What is changed in place must be the shard: a change to a copy would be lost.
        """
        value = self._parameters[name]
        assert value is not None
        return value if isinstance(value, DTensor) else value.reshape(()).clone()

    return read
