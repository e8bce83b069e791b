"""What the processes of a run do together. Each call is made by every process, or by none.

With one process nothing here needs a process group, and every function is a no-op. PyTorch is imported by who calls
it with several: a command that computes nothing does without.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from mmkit.errors import Stopped, UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


_apart = False


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself, as if it were the only one."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def group() -> Any:
    """``torch.distributed`` where processes work together, else None. Imports nothing: who works together has it."""
    if _apart:
        return None
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def world_size() -> int:
    """The number of processes that train together."""
    return 1 if (dist := group()) is None else int(dist.get_world_size())


def rank() -> int:
    """The number of this process among them, from 0."""
    return int(group().get_rank()) if world_size() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """(n, ...) of each rank -> (ranks * n, ...) in the order of ranks, without gradient."""
    if world_size() == 1:
        return x.detach()
    import torch

    every = x.new_empty(world_size() * len(x), *x.shape[1:])
    torch.distributed.all_gather_into_tensor(every, x.detach().contiguous())
    return every


@cache
def _with_grad() -> Any:
    import torch

    class GatherWithGrad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
            return gather(x)

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
            own = grad.new_empty(len(grad) // world_size(), *grad.shape[1:])
            torch.distributed.reduce_scatter_tensor(own, grad.contiguous())
            return own

    return GatherWithGrad


def gather_with_grad(x: Tensor) -> Tensor:
    """Like ``gather``; each row's gradient is the sum of what every rank's loss asks of it.

    Where the loss is the mean of the ranks' losses, as under DistributedDataParallel, the parameters then get the
    exact gradient of that mean.
    """
    return x if world_size() == 1 else _with_grad().apply(x)


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, without gradient."""
    if world_size() == 1:
        return x.detach()
    import torch.distributed as dist

    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def asking_the_largest(timeout: timedelta) -> Callable[[int], Callable[[], int]]:
    """From a number to a call that waits for the largest of all processes' numbers: asked at once, answered later.

    In a group of its own, on the CPU, beside what the devices do; the k-th question of one process is the k-th of all.
    """
    import torch
    import torch.distributed as dist

    beside: Any = dist.new_group(backend="gloo", timeout=timeout)

    def ask(number: int) -> Callable[[], int]:
        found = torch.tensor(number)
        work: Any = dist.all_reduce(found, dist.ReduceOp.MAX, group=beside, async_op=True)

        def answer() -> int:
            work.wait()
            return int(found)

        return answer

    return ask


def gather_objects(value: T, among: Any = None) -> list[T]:
    """The values of all processes, in the order of ranks. among: a group of all of them, None = the usual one."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, among)
    return values


def on_first(work: Callable[[], T]) -> T:
    """Run on the first process; the others wait and get its result. What stops it there is raised by all."""
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if rank() == 0:
        try:
            outcome[0] = work()
        except Exception as caught:  # noqa: BLE001  # whatever it is: the others wait
            error, outcome[1] = caught, travelling(caught)
    if world_size() > 1:
        import torch.distributed as dist

        dist.broadcast_object_list(outcome, src=0)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def together(work: Callable[[], T], among: Any = None) -> T:
    """Run this process's share. What stops one process stops all of them, with its message.

    Of several errors the first process's is raised by all, and ``Stopped`` only where nothing else went wrong. among:
    see ``gather_objects``.
    """
    result: Any = None
    error: BaseException | None = None
    try:
        result = work()
    except (Exception, Stopped) as caught:  # noqa: BLE001  # whatever it is: the others wait
        error = caught
    found = gather_objects(None if error is None else travelling(error), among)
    stops = [(isinstance(other, Stopped), number) for number, other in enumerate(found) if other is not None]
    if stops:
        _, first = min(stops)
        raise error if first == rank() and error is not None else found[first]  # type: ignore[misc]
    return result


def travelling(error: BaseException) -> BaseException:
    """The error as the other processes get it: bad input and the system's as they are, others by name and process."""
    if isinstance(error, Stopped):
        return Stopped(error.number)
    if isinstance(error, UserError):
        return UserError(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return UserError(f"process {rank()} stopped: {type(error).__name__}: {error}")


_blocks = itertools.count()
LOST = (
    "Timed out waiting", "timed out", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
    "ncclRemoteError",
)  # fmt: skip
"""Words by which the messages of PyTorch's backends tell that another process does not answer, or has gone."""
ROLL_CALL = 5.0
"""Seconds in which each process that lost another one says that it is still there."""


@contextmanager
def named_failures(where: Callable[[], str] = lambda: "") -> Iterator[None]:
    """What stops one process inside is told to those that only see it leave: they raise it as a UserError by its name.

    To be entered by all processes. An error that all of them raise together passes as it is. Where a process has gone
    without a word, or does not answer in time, the others find out which it is. where: what stands before the message
    then, as "after step 7: ".
    """
    key = f"mmkit/failed/{next(_blocks)}"
    try:
        yield
    except Exception as error:
        lost = is_lost(error)
        first = within(ROLL_CALL, partial(_first_failure, key, None if lost else error))
        if first is not None and not isinstance(error, UserError | OSError):
            raise UserError(first) from error
        if lost:
            raise UserError(where() + _who_is_lost(key, error)) from error
        raise


def is_lost(error: BaseException) -> bool:
    """Whether a call to all processes failed because one of them does not answer or has gone."""
    return world_size() > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)


def within(seconds: float, work: Callable[[], T]) -> T | None:
    """The result, or None where there is none in time: what asks a process that stopped may wait for ever."""
    found: list[T] = []

    def attempt() -> None:
        with suppress(RuntimeError):  # what was asked is gone
            found.append(work())

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def _first_failure(key: str, error: Exception | None) -> str | None:
    """Leave a note of this process's failure for the others; theirs, where another one was first."""
    if world_size() == 1:
        return None
    import torch.distributed as dist

    store = dist.distributed_c10d._get_default_store()
    if error is None:
        found = store.get(key).decode() if store.check([key]) else ""
    else:
        found = store.compare_set(key, "", f"{rank()} {travelling(error)}").decode()
    number, _, message = found.partition(" ")
    if not number or int(number) == rank():
        return None
    return message if message.startswith("process ") else f"process {number} stopped: {message}"


def _who_is_lost(key: str, error: Exception) -> str:
    """Which processes do not say that they are there, in a sentence."""
    import torch.distributed as dist

    store = dist.distributed_c10d._get_default_store()
    names = [f"{key}/here/{number}" for number in range(world_size())]
    there: set[int] = {rank()}
    reached: list[bool] = []

    def call() -> None:
        store.set(names[rank()], "")
        reached.append(True)
        while len(there) < world_size():
            there.update(number for number, name in enumerate(names) if number not in there and store.check([name]))
            time.sleep(0.05)

    within(ROLL_CALL, call)
    missing = [str(number) for number in range(world_size()) if number not in there]
    if not reached and rank() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        missing = ["0"]  # which keeps the notes, where no launcher does
    known = len(missing) == 1 or 0 < len(missing) < world_size() - 1  # of several all: then this one may be cut off
    who = f"process{'es' if len(missing) > 1 else ''} {', '.join(missing[:8])}" if known else "another process"
    what = (
        "did not answer in time (it hangs, or its disk, its card or the network does)" if "imed out" in str(error)
        else "has gone (where it said nothing itself, it was killed, as for its memory, or its node failed)"
    )  # fmt: skip
    return f"{who} {what}, so all processes end; what was saved is whole: go on with --resume"
