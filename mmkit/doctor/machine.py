"""Checks of one process on its machine: versions, device, products, memory, disk, tar files, decoding."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path

import torch

from mmkit.allocator import advice, allocator
from mmkit.doctor.finding import Check, Finding, at_least
from mmkit.files import to_disk
from mmkit.train.needs.devices import peak_of
from mmkit.train.needs.invented import photograph
from mmkit.train.precision import has_bf16

GIB = 2**30
SIZE, FILES, PICTURE = 64 * 2**20, 200, 32 * 2**10


def checks(device: torch.device, out: Path, processes: int) -> dict[str, Check]:
    """By name. out: where a run's folder would be. processes: of this machine."""
    return {
        "versions": versions, "device": partial(of_device, device), "product": partial(products, device),
        "allocator": of_allocator, "shared_memory": partial(shared_memory, processes), "open_files": open_files,
        "disk": partial(disk, out), "tar": partial(tar, out), "decode": decode,
    }  # fmt: skip


def versions() -> list[Finding]:
    """Of Python and of what computes."""
    names = ("mmkit", "torch", "torchvision", "accelerate", "transformers", "datasets")
    said = ", ".join([f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in names)])
    fresh = sys.version_info >= (3, 11)
    return [Finding(name="versions", said=said, wanted="Python 3.11 or newer", state="ok" if fresh else "wrong")]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # as of mmkit itself, where it runs from a clone
        return "not installed"


def of_device(device: torch.device) -> list[Finding]:
    """Which there is; a card that the system has and PyTorch does not see is wrong."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        said = f"{facts.name}, {facts.total_memory / GIB:.1f} GiB, CUDA {torch.version.cuda}"
        return [Finding(name="device", said=said, wanted="a GPU", state="ok", value=facts.name)]
    unseen = device.type == "cpu" and Path("/dev/nvidia0").exists() and "ACCELERATE_USE_CPU" not in os.environ
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = f"{device.type}, {cores} cores" + (", but there is a card that PyTorch cannot use" if unseen else "")
    return [
        Finding(
            name="device", said=said, value=device.type, state="wrong" if unseen else "ok",
            wanted="a driver and a PyTorch that fit each other" if unseen else "a GPU, for more than small models",
        )
    ]  # fmt: skip


def products(device: torch.device) -> list[Finding]:
    """How fast matrices multiply, in float32 and bfloat16; of a known card against its peak."""
    size = 8192 if device.type == "cuda" else 1024
    found = []
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        x = torch.randn(size, size, device=device).to(dtype)
        seconds = best_of(partial(torch.matmul, x, x), device)
        rate = 2 * size**3 / seconds / 1e12
        peak = peak_of(torch.cuda.get_device_name(device), "bf16") if device.type == "cuda" else None
        if dtype == torch.bfloat16 and peak is not None:
            found.append(at_least("product.bfloat16", rate, "TFLOP/s", round(0.6 * peak / 1e12)))
            continue
        usable = dtype == torch.float32 or has_bf16(device)
        found.append(
            Finding(
                name=f"product.{name}", value=rate, said=f"{rate:.3g} TFLOP/s",
                wanted="as fast as this processor gets" if usable else "not used here: it is emulated", state="ok",
            )
        )  # fmt: skip
    return found


def best_of(work: Callable[[], object], device: torch.device, times: int = 5, seconds: float = 0.3) -> float:
    """Seconds of the fastest of some runs, which take ``seconds`` together at the most, but for the first two."""
    begun, best = time.perf_counter(), float("inf")
    for i in range(times):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i:
            best = min(best, time.perf_counter() - start)
        if i and time.perf_counter() - begun > seconds:
            break
    return best


def of_allocator() -> list[Finding]:
    """Which library hands out main memory."""
    name = allocator()
    return [
        Finding(
            name="allocator", value=name, said=advice(name) or "not told by the system", state="ok",
            wanted="tcmalloc, where a run computes on the CPU",
        )
    ]  # fmt: skip


def shared_memory(processes: int, place: Path = Path("/dev/shm")) -> list[Finding]:
    """Through which loading workers hand over their batches."""
    if not place.is_dir():
        return []
    free = shutil.disk_usage(place).free / GIB
    return [at_least("shared_memory", free, "GiB free", 1.0 * processes, 0.125)]


def open_files() -> list[Finding]:
    """The limit on open files; workers and shards need many."""
    if sys.platform == "win32":
        return []
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [at_least("open_files", float("inf") if soft == resource.RLIM_INFINITY else soft, "at once", 4096, 256)]


def disk(out: Path) -> list[Finding]:
    """Free space, and how fast 64 MiB are written and brought to the disk."""
    data = os.urandom(2**20)
    with tempfile.TemporaryDirectory(prefix=".mmkit-doctor-", dir=out) as folder:
        path = Path(folder) / "data"
        start = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(SIZE // len(data)):
                file.write(data)
        to_disk(path)
        seconds = time.perf_counter() - start
        small = Path(folder) / "small"
        small.write_bytes(b"x")
        start = time.perf_counter()
        to_disk(small)
        sync = time.perf_counter() - start
    return [
        at_least("disk.free", shutil.disk_usage(out).free / GIB, "GiB free", 20.0, 0.5),
        at_least("disk.write", SIZE / seconds / 1e6, "MB/s with fsync", 200.0),
        Finding(
            name="disk.fsync", value=sync * 1000, said=f"{sync * 1000:.1f} ms", wanted="100 ms or less",
            state="ok" if sync <= 0.1 else "look",
        ),
    ]  # fmt: skip


def tar(out: Path) -> list[Finding]:
    """How many samples of a tar a second are read, one after the other; from memory, as it was just written."""
    with tempfile.TemporaryDirectory(prefix=".mmkit-doctor-", dir=out) as folder:
        path = Path(folder) / "0.tar"
        with tarfile.open(path, "w") as file:
            for i in range(FILES):
                member = tarfile.TarInfo(f"{i}.jpg")
                member.size = PICTURE
                file.addfile(member, BytesIO(os.urandom(PICTURE)))
        with tarfile.open(path) as file:
            places = [(member.offset_data, member.size) for member in file]
        start = time.perf_counter()
        with path.open("rb", buffering=0) as raw:
            for offset, size in places[::-1]:
                raw.seek(offset)
                raw.read(size)
        rate = FILES / (time.perf_counter() - start)
    return [at_least("tar.read", rate, "samples/s of 32 KiB", 5000.0)]


def decode() -> list[Finding]:
    """How many JPEGs of 340 x 256 pixels one core opens in a second of its own time."""
    from PIL import Image

    data = photograph(256, 340)
    start, done = time.process_time(), 0
    while time.process_time() - start < 0.3:
        Image.open(BytesIO(data)).convert("RGB").load()
        done += 1
    return [at_least("decode", done / (time.process_time() - start), "pictures/s on a core", 500.0)]
