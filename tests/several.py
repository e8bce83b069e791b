"""One piece of work on several processes, as ranks of one gloo group, and what each of them says to the test."""

import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ROOT = Path(__file__).parent.parent
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


def as_launched(world: int, command: Sequence[object], folder: Path) -> tuple[str, str]:
    """A script, or ``-m MODULE``, with its arguments on ``world`` processes; what they said on stdout and stderr.

    They are told what a launcher tells, and are forks, which import nothing again: three seconds less for each. To be
    taken where the launcher does nothing for what is tested.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = (world, port, [str(word) for word in command], folder)
    said = [folder / f"said-{stream}-{port}.txt" for stream in ("out", "err")]
    try:
        mp.start_processes(_run, given, nprocs=world, start_method=METHOD)
    except mp.ProcessExitedException as error:
        raise AssertionError(said[1].read_text()[-4000:]) from error
    return said[0].read_text(), said[1].read_text()


def _run(rank: int, world: int, port: int, command: list[str], folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    torch.set_num_threads(1)
    os.chdir(ROOT)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"said-{name}-{port}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), stream)
    module = command[0] == "-m"
    sys.argv = command[module:]
    if module:
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
