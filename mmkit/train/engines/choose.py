"""Which engine a run has, by ``run.engine``; never by the launcher's file."""

from __future__ import annotations

import os

from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch.distributed.device_mesh import init_device_mesh

from mmkit.config import Run
from mmkit.errors import UserError
from mmkit.ranks import gather_objects, world_size
from mmkit.train.engines.base import Engine
from mmkit.train.engines.ddp import DDP
from mmkit.train.engines.sharded import Sharded

OTHERS = {
    "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}  # fmt: skip
"""What a launcher tells its processes by the environment."""


def refuse_launched() -> None:
    """UserError where the launcher was told to shard or to compile, by its file or flags."""
    for variable, name in OTHERS.items():
        if parse_flag_from_env(variable):
            raise UserError(
                f"the launcher asks for {name} ({variable}), which mmkit leaves alone: launch with a plain file for "
                "several processes (--multi_gpu), and say by run.engine who holds the weights: --set run.engine=fsdp, "
                "or hsdp on several nodes"
            )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO":
        raise UserError(
            "the launcher asks for compiling (--dynamo_backend), which is a setting of the run: give --dynamo_backend "
            "no, and --set run.compile=true"
        )


def check_engine(run: Run) -> None:
    """UserError where the processes cannot be split as the run asks for; by all of them, before anything is built."""
    if run.engine != "ddp" and world_size() > 1:
        shards_of(run)


def make_engine(run: Run, accelerator: Accelerator) -> Engine:
    """The engine of a run, by all processes. UserError where the processes cannot be split as the run asks for."""
    world = world_size()
    if run.engine == "ddp":
        return DDP(accelerator)
    if world == 1:
        return DDP(accelerator, told=f"{run.engine} on one process: nothing to shard")
    shards = shards_of(run)
    kind = accelerator.device.type
    if shards == world:
        mesh = init_device_mesh(kind, (world,), mesh_dim_names=("shard",))
        told = f"{run.engine}: each of {world} processes holds its share"
        return Sharded(run.engine, accelerator, mesh, run.reshard, told)
    mesh = init_device_mesh(kind, (world // shards, shards), mesh_dim_names=("replica", "shard"))
    told = f"hsdp: each of {shards} processes holds its share, in {world // shards} groups that hold the same"
    return Sharded(run.engine, accelerator, mesh, run.reshard, told)


def shards_of(run: Run) -> int:
    """Over how many processes weights are split; UserError where these do not divide all."""
    world = world_size()
    if run.engine == "fsdp":
        return world
    found = gather_objects(run.shard_ranks or int(os.environ.get("LOCAL_WORLD_SIZE", "0")))
    shards = found[0]
    whose = "run.shard_ranks" if run.shard_ranks is not None else "the processes of a node (LOCAL_WORLD_SIZE)"
    if len(numbers := sorted(set(found))) > 1:
        raise UserError(
            f"run.engine = 'hsdp': the nodes have different numbers of processes ({', '.join(map(str, numbers))}); "
            "give run.shard_ranks, a number that divides each"
        )
    if shards == 0:
        raise UserError(
            "run.engine = 'hsdp': the launcher does not say how many processes a node has (LOCAL_WORLD_SIZE); give "
            "run.shard_ranks"
        )
    if world % shards or shards == 1:
        raise UserError(
            f"run.engine = 'hsdp': {whose} = {shards} "
            + (f"does not divide the {world} processes of the run" if world % shards else "leaves nothing to shard")
            + "; give run.shard_ranks = "
            + _choices(world)
        )
    return shards


def _choices(world: int) -> str:
    found = [str(n) for n in range(2, world + 1) if world % n == 0]
    return " or ".join(found) if len(found) < 3 else f"{', '.join(found[:-1])} or {found[-1]}"
