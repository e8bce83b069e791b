"""Which library hands out main memory to this process, and glibc told how a training step wants it.

A step makes and frees the same few hundred large tensors again and again. glibc splits a piece off each, as they are
aligned, and keeps it for small requests: what is freed then fits no longer, so new tensors lie elsewhere, not in any
cache, and memory grows. Told to put pieces together at once, to keep what it has, and to ask for huge pages, it hands
out the same blocks again: a step of ``benchmarks/train_step.py`` takes a tenth less. It listens at a program's start
alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path

KNOWN = ("tcmalloc", "jemalloc", "mimalloc", "tbbmalloc")
MAPS = Path("/proc/self/maps")
GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
SETTINGS = {"tcache_count": 0, "mxfast": 0, "trim_threshold": 2**40, "mmap_threshold": 2**28, "hugetlb": 1}
TUNABLES = "GLIBC_TUNABLES"
BEGUN = "MMKIT_BEGUN_ANEW"

_told = False


def allocator(maps: Path = MAPS) -> str | None:
    """Its name; None where the system does not tell."""
    try:
        text = maps.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    libraries = {line.rpartition("/")[2] for line in text.splitlines() if "/" in line}
    for name in KNOWN:
        if any(library.startswith(f"lib{name}") for library in libraries):
            return name
    if any(library.startswith(("libc.so", "libc-")) for library in libraries):
        return "glibc"
    return "musl" if any(library.startswith("ld-musl") for library in libraries) else None


def advice(name: str | None) -> str:
    """A line about it for a run on the CPU; "" where there is nothing to say."""
    if name is None:
        return ""
    if name != "glibc":
        return f"allocator {name}"
    if _told:
        return "allocator glibc, told to keep large blocks whole"
    return (
        f"allocator glibc as it comes; without {TUNABLES} set, `mmkit train` and scripts/pretrain.py tell it to keep "
        "large blocks whole: a step was 1.1 times as fast, as with tcmalloc (LD_PRELOAD=libtcmalloc_minimal.so.4)"
    )


def begin_anew() -> None:
    """Replaces this program by itself, once, with glibc told; to be called before anything slow is imported.

    Nothing happens where that gains nothing or somebody chose otherwise, see ``to_begin_with``. The process keeps its
    number; what it starts later is not told.
    """
    global _told
    if os.environ.pop(BEGUN, None) is not None:
        os.environ.pop(TUNABLES, None)
        _told = True
        return
    settings = to_begin_with(os.environ)
    if settings and _is_program():
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | settings)


def _is_program() -> bool:
    """Whether Python was started with this very file or module and these arguments, and is not part of another one."""
    start = len(sys.orig_argv) - len(sys.argv) + 1
    before, after = sys.orig_argv[:start], sys.orig_argv[start:]
    named = before[-1:] == sys.argv[:1] or before[-2:-1] == ["-m"]
    return named and after == sys.argv[1:] and Path(sys.argv[0]).is_file() and parent_process() is None


def to_begin_with(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to an environment; none without glibc, with a GPU, or where memory has been chosen for.

    That is where ``GLIBC_TUNABLES`` or a ``MALLOC_...`` variable is set, if to nothing, or another allocator is loaded.
    """
    try:
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):  # not Linux
        glibc = False
    preloaded = environment.get("LD_PRELOAD", "")
    chosen = any(name == TUNABLES or name.startswith("MALLOC_") for name in environment)
    if not glibc or chosen or any(name in preloaded for name in KNOWN) or any(path.exists() for path in GPUS):
        return {}
    return {BEGUN: "1", TUNABLES: ":".join(f"glibc.malloc.{name}={value}" for name, value in SETTINGS.items())}
