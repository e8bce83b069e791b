"""One piece of work on several processes, as ranks of one gloo group, and what each of them says to the test."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""Forks need not import everything again, and those of a server of their own know nothing of what the tests did before:
after a compiled backward pass no fork of a process can take one."""
mp.set_forkserver_preload(
    ["pytest", "mmkit.train.loop", "mmkit.hub.folder", "mmkit.explanation.explain", "torch._dynamo", "tests.frozen"]
)


def on_processes(world: int, work: Callable[[int, int, Path], None], folder: Path) -> None:
    """``work(rank, world, folder)`` on ``world`` processes of one thread each; an error of one is raised here."""
    mp.start_processes(_begin, (world, work, folder), nprocs=world, start_method=METHOD)


def _begin(rank: int, world: int, work: Callable[[int, int, Path], None], folder: Path) -> None:
    torch.set_num_threads(1)  # also because threads that were started before a fork are not in the new process
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    work(rank, world, folder)
    dist.destroy_process_group()
