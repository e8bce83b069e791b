"""``srun python scripts/pretrain.py ...``: one task a process, without a launcher between them.

Slurm tells each task of a step its number and its node; what PyTorch and Accelerate want to know follows from that. Of
several tasks each becomes one rank; a task that is alone, a batch script and an interactive shell stay as they are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import MutableMapping
from contextlib import suppress

from mmkit.errors import UserError

NO_TASKS = 0xFFFFFFF0
"""From this number on a step is Slurm's own: a batch script, an interactive shell, what watches over a job."""
FIRST_PORT, PORTS = 15000, 15000
"""Of the ports that jobs take, below those that a system gives away by itself."""


def ranks_of_slurm(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Where a task of a job step of several has no launcher: set RANK, WORLD_SIZE, MASTER_ADDR and so on from Slurm's.

    Whether it was so. MASTER_ADDR and MASTER_PORT stay where they are given. UserError, with the variable, where Slurm
    does not tell what is needed.
    """
    if "RANK" in environment or not is_task(environment):
        return False
    world, rank = _number(environment, *_WORLD), _number(environment, "SLURM_PROCID")
    local = _number(environment, "SLURM_LOCALID")
    on_node = tasks_on_node(environment)
    if not 0 <= rank < world or not 0 <= local < on_node <= world:
        raise UserError(
            f"Slurm's variables contradict each other: task {rank} of {world} (SLURM_PROCID), and {local} of {on_node} "
            "on its node (SLURM_LOCALID); start the tasks by `srun`"
        )
    found = {
        "RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": on_node,
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(_nodes(environment)),
        "MASTER_PORT": environment.get("MASTER_PORT") or port_of(environment),
    }  # fmt: skip
    environment.update({name: str(value) for name, value in found.items()})
    return True


def is_task(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several tasks that ``srun`` started."""
    if "SLURM_PROCID" not in environment or not any(name in environment for name in _WORLD):
        return False
    return _in_step(environment) and _number(environment, *_WORLD) > 1


def _in_step(environment: MutableMapping[str, str]) -> bool:
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < NO_TASKS


def is_alone_in_job(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether a job was given several tasks and this process is none of them: it was started without ``srun``."""
    if "RANK" in environment or "SLURM_JOB_ID" not in environment or "SLURM_NTASKS" not in environment:
        return False
    tasks = environment["SLURM_NTASKS"]
    return not _in_step(environment) and tasks.isdecimal() and int(tasks) > 1


def tasks_on_node(environment: MutableMapping[str, str]) -> int:
    """How many tasks of the step are on this node: Slurm writes "2(x3),1" for the four nodes."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        if text := environment.get(name):
            counts: list[int] = []
            for part in text.split(","):
                match = re.fullmatch(r"\s*(\d+)(?:\(x(\d+)\))?\s*", part)
                if match is None:
                    raise UserError(f"{name}={text!r}: not what Slurm writes, as 8(x2)")
                counts += [int(match[1])] * int(match[2] or 1)
            node = _number(environment, "SLURM_NODEID")
            if node < len(counts):
                return counts[node]
    return _number(environment, "SLURM_NTASKS_PER_NODE")


def first_host(nodes: str) -> str:
    """The first name of Slurm's list of nodes, as "a07" of "a[07-09,12],b3"; by ``scontrol`` where it is there."""
    if shutil.which("scontrol") is not None:
        with suppress(OSError, subprocess.SubprocessError):
            command = ["scontrol", "show", "hostnames", nodes]
            found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
            if found:
                return found[0]
    first = re.match(r"(?:[^,\[\]]|\[\d[^\[\]]*\])+", nodes.strip())
    if first is None:
        raise UserError(f"{nodes!r}: no list of nodes as Slurm writes it; set MASTER_ADDR to the first node's name")
    return re.sub(r"\[(\d+)[^\[\]]*\]", r"\1", first[0])


def port_of(environment: MutableMapping[str, str]) -> int:
    """A port for the step: the same on every node, another one for another job or step."""
    job = _number(environment, "SLURM_JOB_ID", "SLURM_JOBID")
    return FIRST_PORT + (31 * job + _number(environment, "SLURM_STEP_ID")) % PORTS


_WORLD = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")


def _nodes(environment: MutableMapping[str, str]) -> str:
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if environment.get(name):
            return environment[name]
    raise UserError("Slurm names no nodes (SLURM_STEP_NODELIST); set MASTER_ADDR to the first node's name")


def _number(environment: MutableMapping[str, str], *names: str) -> int:
    """The first of these variables that is there."""
    for name in names:
        if text := environment.get(name):
            if not text.isdecimal():
                raise UserError(f"{name}={text!r}: not a whole number, so it is not Slurm's")
            return int(text)
    raise UserError(f"a task of Slurm without {names[0]}: start it by `srun`, or unset the SLURM_ variables")
