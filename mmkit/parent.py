"""A rank does not outlive the launcher that started it, and a loading worker not its rank.

A launcher that is killed (SIGKILL, out of memory) cannot end its processes, which would hold their devices and wait for
one another. Linux sends a process SIGTERM at its parent's end where asked to; everywhere a thread looks after the
launcher once a second, sends SIGTERM, so that a run may save, and does not wait long for it. A run that no launcher
started (``mmkit train``, with ``nohup`` or from a shell that ends) goes on by itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from mmkit.errors import Stopped, UserError

PARENT = os.getppid()
"""Of this process, as early as it is known."""
EVERY, GRACE, LONG_GRACE = 1.0, 6.0, 600.0
"""Seconds between two looks, and to save after the launcher's end; the last for one who was told to stop before it."""
STEP = 60
"""Seconds for the step that a loading worker was told to stop in."""
_watching: list[threading.Thread] = []
_chain: list[psutil.Process] = []
_told: list[int] = []


def live_with_launcher() -> None:
    """From here on this process ends within ten seconds after its launcher has.

    UserError where the launcher has gone already. Without a launcher nothing happens.
    """
    if _watching:
        return
    chain = _launcher()
    if not chain:
        if "TORCHELASTIC_RUN_ID" in os.environ and (os.getppid() != PARENT or os.getppid() == 1):
            raise UserError("the launcher that started this process has ended already")
        return
    if len(chain) == 1 and _launches(chain[0]):
        end_with_parent(chain[0].pid, signal.SIGTERM)
    _chain[:] = chain
    thread = threading.Thread(target=_watch, args=(chain,), name="mmkit-launcher", daemon=True)
    _watching.append(thread)
    thread.start()


def restarts() -> int:
    """How often the launcher has started this process anew, as ``--max_restarts`` lets it."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def begun_anew() -> bool:
    """Whether a launcher or Slurm starts again what it started before, which may have ended a moment ago."""
    return restarts() > 0 or os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def launcher_patience() -> float | None:
    """Seconds from the launcher's SIGTERM to its SIGKILL; None without a launcher."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    seconds = os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "")
    return float(seconds) if seconds.isdecimal() else 30.0


@contextmanager
def stopped_when_told() -> Iterator[None]:
    """Inside, SIGTERM ends a process that is alone as Ctrl-C does, by ``Stopped``: what was begun is tidied up.

    One of several ends at once: the others may be waiting for it, where no signal of Python's comes through.
    """
    main = threading.current_thread() is threading.main_thread()
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if not main or several or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    own = os.getpid()

    def told(number: int, frame: object) -> None:
        if os.getpid() != own:  # a child that was forked has nothing to tidy up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Stopped(number)

    signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def launcher_name() -> str | None:
    """What tells the launcher from all others, the same for all its attempts; None where there is none."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run not in (None, "", "none"):
        return f"run {run}"
    if not (_chain or (chain := _launcher())):
        return None
    launcher = (_chain or chain)[-1]
    with suppress(psutil.Error):
        return f"process {launcher.pid} on {socket.gethostname()} since {launcher.create_time():.2f}"
    return None


def told_to_stop(number: int) -> None:
    """A signal came, and this process saves. If its launcher was told too and ends first, it has the time for that."""
    if all(_alive(process) for process in _chain):
        _told.append(number)


def end_with_parent(parent: int, number: int) -> None:
    """Let Linux send this process a signal when its parent ends, or now if it has; elsewhere nothing.

    To be called only where the thread that started this process stays as long as the parent: Linux looks at that.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with_rank(worker: int) -> None:
    """``worker_init_fn`` of a loader: the worker ends when the process that made it does, not later and not before.

    A terminal, a launcher or a batch system tells all processes to stop; the rank then finishes its step and saves, for
    which its workers must stay. Where a server forks workers, or Linux does not help, a thread waits for the rank.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        return
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(STEP) and None)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == os.getppid():
        end_with_parent(os.getppid(), signal.SIGKILL)
    if parent is not None and (parent.pid != os.getppid() or not sys.platform.startswith("linux")):
        threading.Thread(target=_end_after, args=(parent,), name="mmkit-rank", daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _launcher() -> list[psutil.Process]:
    """The parent of this process, its parent, and so on up to the launcher; empty where none started it."""
    try:
        above = psutil.Process().parents()
        for number, process in enumerate(above):
            if _launches(process):
                return above[: number + 1]
        parent = multiprocessing.parent_process()
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if above and (parent is not None or (several and _is_python(above[0]))):
            return above[:1]
    except psutil.Error:
        pass
    return []


def _launches(process: psutil.Process) -> bool:
    """Whether it is ``accelerate launch``, ``torchrun`` or ``python -m`` one of their modules."""
    words = process.cmdline()[:6]
    names = [Path(word).name.removesuffix(".exe") for word in words]
    modules = ("accelerate.commands.launch", "torch.distributed.run", "torch.distributed.launch")
    runs = "accelerate" in names and "launch" in names
    return runs or "torchrun" in names or "accelerate-launch" in names or any(module in words for module in modules)


def _is_python(process: psutil.Process) -> bool:
    return Path((process.cmdline() or [""])[0]).name.startswith("python")


def _watch(chain: list[psutil.Process]) -> None:
    while all(_alive(process) for process in chain):
        time.sleep(EVERY)
    with suppress(OSError):  # where it wrote to may be gone too
        sys.stderr.write("mmkit: the launcher of this process has ended, and so does it\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LONG_GRACE if _told else GRACE)
    os._exit(1)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
