"""The process around a run: Accelerate, threads, the float32 product, signals. All is put back at the end."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import parse_flag_from_env

from mmkit.config import Run
from mmkit.errors import Stopped, UserError
from mmkit.inference.predictor import Predictor, Progress
from mmkit.parent import live_with_launcher, restarts, told_to_stop
from mmkit.ranks import gather_objects, is_lost, world_size
from mmkit.slurm import is_alone_in_job, ranks_of_slurm
from mmkit.train.engines.choose import refuse_launched
from mmkit.train.folder import FLIGHTS

logger = logging.getLogger("mmkit.train")


def start_processes(run: Run, out: Path) -> PartialState:
    """Join the other processes of a run, and end with the launcher; the device of this one.

    out: the run's folder, for what NCCL's flight recorder has to tell. UserError where the launcher would shard or
    compile the model by itself.
    """
    refuse_launched()
    ranks_of_slurm()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        record_flight(out)
    return join_processes(on_cpu(), timeout=timedelta(minutes=run.timeout_minutes))


def record_flight(out: Path) -> None:
    """Let NCCL keep the last calls between processes, and write them to ``out/flight-recorder/rank_*`` at a time-out.

    Variables that are set stay; so does what an older PyTorch calls them.
    """
    for names, value in (
        (("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"), "2000"),
        (("TORCH_FR_DUMP_ON_TIMEOUT", "TORCH_NCCL_DUMP_ON_TIMEOUT"), "1"),
        (("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"), str(out.absolute() / FLIGHTS / "rank_")),
    ):
        if not any(name in os.environ for name in names):
            os.environ[names[0] if hasattr(torch.distributed, "set_timeout") else names[1]] = value  # since torch 2.15


def join_processes(cpu: bool, **settings: Any) -> PartialState:
    """Join the other processes, if a launcher or Slurm started several, and end with it; the device of this one.

    UserError where they do not find each other.
    """
    ranks_of_slurm()
    _warn_alone()
    live_with_launcher()
    state = PartialState(cpu=cpu, **settings, **_own_notes())
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != started:
        raise UserError(
            f"the launcher started {started} processes, but they do not find each other (Accelerate sees "
            f"{state.num_processes}); unset WORLD_SIZE for a single process"
        )
    return state


def _own_notes() -> dict[str, Any]:
    """Where processes find each other, for those that a launcher starts anew: apart from what the ones before left.

    The launcher keeps the notes of all its attempts in one store, where the addresses of ended processes would be read.
    """
    if not restarts() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    world, place = int(os.environ["WORLD_SIZE"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    store = torch.distributed.TCPStore(*place, world, False)
    apart = torch.distributed.PrefixStore(f"mmkit/attempt/{restarts()}", store)
    return {"store": apart, "rank": int(os.environ["RANK"]), "world_size": world}


@cache
def _warn_alone() -> None:
    if is_alone_in_job():
        logger.warning(
            "Slurm gave this job %s tasks, and this process is alone: start it by `srun`", os.environ["SLURM_NTASKS"]
        )


def local_processes() -> int:
    """How many of the run's processes share the cores that this one may use."""
    found, bound = os.environ.get("LOCAL_WORLD_SIZE", ""), os.environ.get("SLURM_CPUS_PER_TASK", "")
    if bound.isdecimal() and _cores() <= int(bound):  # Slurm has given each its own
        return 1
    return int(found) if world_size() > 1 and found.isdecimal() and int(found) else world_size()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_cpu() -> bool:
    """Whether the launcher was told to stay on the CPU, or there is nothing else."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def make_accelerator(run: Run, precision: str) -> Accelerator:
    """Accelerate with the run's precision; buffers are not broadcast, as ``Task`` keeps them equal by itself."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(
        mixed_precision=precision,
        cpu=on_cpu(),
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timedelta(minutes=run.timeout_minutes)),
        ],
    )


def threads_for(workers: int, local_processes: int) -> int:
    """Threads for torch in this process: the cores it may use, less one for each loading worker.

    ``OMP_NUM_THREADS`` decides where it is set.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return max(1, _cores() // local_processes - workers)


@contextmanager
def numeric_settings(product: str, threads: int) -> Iterator[None]:
    """The float32 product and the number of threads, for the time of a run.

    Attention is not cuDNN's, which PyTorch takes on an H100 since 2.11: its backward pass gives NaN now and then where
    a query's scores are low and keys do not fill a tile (pytorch/pytorch#196678). The other fused kernels are clean.
    """
    fused = torch.backends.cuda
    before = torch.get_float32_matmul_precision(), torch.get_num_threads(), fused.cudnn_sdp_enabled()
    torch.set_float32_matmul_precision(product)
    torch.set_num_threads(threads)
    fused.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.set_num_threads(before[1])
        fused.enable_cudnn_sdp(before[2])


class StopSignal:
    """Whether SIGTERM or SIGINT came: ``asked`` is its number, or 0. A second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.asked = 0
        self._at_once = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while inside; only a main thread can.

        Where another process has gone, this one listens on: its launcher's signal comes soon, and would end it before
        it has said what it knows.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with ExitStack() as stack:
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.signal(number, self._note)
                stack.callback(signal.signal, number, before)
            try:
                yield
            except Exception as error:
                if is_lost(error):
                    stack.pop_all()
                raise

    @contextmanager
    def at_once(self, predictor: Any) -> Iterator[Any]:
        """Inside, ``Stopped`` is raised as soon as may be, as nothing is lost by it. Gives the predictor.

        That is when the signal comes, or with several processes where the others learn of it: in their ``together``,
        or where the predictor tells of its progress.
        """
        if isinstance(predictor, Predictor):
            predictor.progress = self._stopping(predictor.progress)
        self._at_once = world_size() == 1
        try:
            self.raise_together()
            yield predictor
        finally:
            self._at_once = False
        self.raise_together()

    def raise_together(self) -> None:
        """Raise ``Stopped`` on all processes where one of them was told to stop; to be called by all."""
        if number := max(gather_objects(self.asked)):
            raise Stopped(number)

    def _stopping(self, tell: Progress) -> Progress:
        """The same progress, which stops the work when this process was asked to."""

        def progress(what: str, done: int, total: int) -> None:
            self._raise_if_asked()
            tell(what, done, total)

        return progress

    def _raise_if_asked(self) -> None:
        if self.asked:
            raise Stopped(self.asked)

    def _note(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or number
        told_to_stop(number)
        if self._at_once:
            raise Stopped(self.asked)
