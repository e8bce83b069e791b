"""What the processes of a run do together beside gradients. Each call is made by every process, or by none.

With one process nothing here needs a process group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from mmkit.errors import UserError
from mmkit.nn.gather import rank, world_size

T = TypeVar("T")


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_first(work: Callable[[], T]) -> T:
    """Run on the first process; the others wait and get its result. Its UserError or OSError is raised by all."""
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except (UserError, OSError) as error:
            outcome[1] = error
    if world_size() > 1:
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
