"""Checks of several processes: that they see each other, how fast they exchange, whether they are alike and on time."""

from __future__ import annotations

import socket
import time

import torch

from mmkit.doctor.finding import Check, Finding, at_least
from mmkit.doctor.machine import best_of, versions
from mmkit.ranks import gather_objects, rank, world_size

ROUNDS = 5
FAR = 1.0
"""Seconds by which clocks may differ: files and locks are compared by their times."""


def checks(device: torch.device) -> dict[str, Check]:
    """By name, to be run by all processes together."""
    return {"processes": processes, "clocks": clocks, "collectives": lambda: collectives(device)}


def processes() -> list[Finding]:
    """How many on which machine, and whether all run the same versions."""
    each = gather_objects((socket.gethostname(), versions()[0].said))
    nodes = list(dict.fromkeys(name for name, _ in each))
    counts = [sum(name == node for name, _ in each) for node in nodes]
    alike = len({said for _, said in each}) == 1
    even = len(set(counts)) == 1
    said = f"{len(each)} on {len(nodes)} machine(s): " + ", ".join(
        f"{node} {n}" for node, n in list(zip(nodes, counts, strict=True))[:16]
    )
    found = [
        Finding(
            name="processes", value=float(len(each)), said=said, wanted="as many on each machine",
            state="ok" if even else "look",
        )
    ]  # fmt: skip
    other = next((number for number, (_, said) in enumerate(each) if said != each[0][1]), 0)
    found.append(
        Finding(
            name="versions.alike", said="the same everywhere" if alike else f"process {other} has {each[other][1]}",
            wanted="the same everywhere", state="ok" if alike else "wrong",
        )
    )  # fmt: skip
    return found


def clocks() -> list[Finding]:
    """By how much the clocks of the processes differ, as they leave a barrier; the best of some rounds."""
    spread, who = float("inf"), 0
    for _ in range(ROUNDS):
        torch.distributed.barrier()
        times = gather_objects(time.time())
        if max(times) - min(times) < spread:
            spread, who = max(times) - min(times), times.index(min(times))
    return [
        Finding(
            name="clocks", value=spread, said=f"{spread:.3f} s apart, process {who} behind", state="ok" if spread <= FAR
            else "look", wanted=f"{FAR:g} s or less",
        )
    ]  # fmt: skip


def collectives(device: torch.device) -> list[Finding]:
    """GB/s that a process sends in an all-reduce, as rings count it, and in an exchange of all with all; right too."""
    world, megabytes = world_size(), 256 if device.type == "cuda" else 16
    x = torch.full((megabytes * 2**18,), float(rank() + 1), device=device)

    def reduce() -> None:
        torch.distributed.all_reduce(x.clone())

    total = x.clone()
    torch.distributed.all_reduce(total)
    own = x[: len(x) // world * world]
    given = torch.empty_like(own)

    def exchange() -> None:
        torch.distributed.all_to_all_single(given, own)

    seconds = max(gather_objects(best_of(reduce, device, seconds=60)))
    ring = 2 * (world - 1) / world * x.numel() * 4 / seconds / 1e9
    seconds = max(gather_objects(best_of(exchange, device, seconds=60)))
    all_to_all = (world - 1) / world * own.numel() * 4 / seconds / 1e9
    right = float(total[0]) == world * (world + 1) / 2 and float(given[-1]) == world
    wanted = 20.0 if device.type == "cuda" else 0.1
    return [
        Finding(
            name="collectives.right", said="sums and rows arrive" if right else "wrong numbers arrive", wanted="right",
            state="ok" if right else "wrong",
        ),
        at_least("collectives.reduce", ring, "GB/s", wanted),
        at_least("collectives.all_to_all", all_to_all, "GB/s", wanted / 2),
    ]  # fmt: skip
