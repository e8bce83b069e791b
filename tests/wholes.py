"""A batch whole, in parts, and in halves on two processes: what is learned of it is the same."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mmkit.task import Task
from mmkit.types import Batch
from tests.several import on_processes

Learned = Callable[[str, Sequence[int]], dict[str, Tensor]]


def taught(task: Task, batch: Batch, step: int = 5) -> dict[str, Tensor]:
    """The loss of a batch, and by name the gradient of each parameter that has one."""
    out = task(batch, step)
    out.loss.backward()
    return {"loss": out.loss.detach()} | {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


def check_parts_teach_as_the_whole(task: Task, same: Task, whole: Batch, parts: Sequence[Batch], step: int = 3) -> None:
    """Parts that are counted together, each by itself, and the whole: the same loss and gradients; none is nothing.

    same: another task of the same numbers.
    """
    of_whole = taught(task, whole, step)
    totals = same.count(parts, step, torch.device("cpu")).totals
    losses = []
    for i, batch in enumerate(parts):
        losses.append(same(batch, step, i, totals).loss)
        losses[-1].backward()
    assert of_whole["loss"].isfinite()
    assert all(loss > 0 for loss in losses)
    torch.testing.assert_close(sum(losses), of_whole.pop("loss"), atol=1e-5, rtol=1e-5)
    for name, gradient in of_whole.items():
        torch.testing.assert_close(same.get_parameter(name).grad, gradient, atol=1e-5, rtol=1e-3, msg=name)


def check_two_processes_are_as_one(folder: Path, names: Iterable[str], learned: Learned) -> None:
    """``learned(name, rows)``, of a loss and gradients, of rows 0 to 3, and the mean of those of two halves.

    It must lie in a module, for the other processes.
    """
    names = tuple(names)
    on_processes(2, partial(_half, names=names, learned=learned), folder)
    for name in names:
        expected = learned(name, range(4))
        for rank in range(2):
            found = torch.load(folder / f"{name}-{rank}.pt")
            assert found.keys() == expected.keys()
            for part, value in expected.items():
                torch.testing.assert_close(found[part], value, atol=1e-5, rtol=1e-3, msg=f"{name} {part}")


def _half(rank: int, world: int, folder: Path, names: Sequence[str], learned: Learned) -> None:
    for name in names:
        found = learned(name, range(2 * rank, 2 * rank + 2))
        for value in found.values():
            dist.all_reduce(value)
            value /= world
        torch.save(found, folder / f"{name}-{rank}.pt")
