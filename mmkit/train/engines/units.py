"""Which parameters are gathered together: the attention and MLP of each transformer block, and all the rest.

``fully_shard`` keeps each unit's weights as shards and gathers them when one of its modules is called. A unit is the
attention, cross-attention and MLP of a block, without its norms: so its weights may be gathered in bfloat16, and the
norms stay float32, as under autocast. A picture's keys and values are projected outside the block, so ``cross.kv`` is a
unit of its own. The rest (embeddings, norms, projections, heads, and the teacher's) is gathered at the start of the
step and kept to its end; so are blocks that something else calls than the encoders here, and models without any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from mmkit.encoders.decoder import TextDecoder
from mmkit.encoders.joint import JointViT
from mmkit.encoders.prenorm_text import PreNormText
from mmkit.encoders.text import FusionEncoder, TextEncoder
from mmkit.encoders.vit import ViT
from mmkit.nn.block import PostNormBlock, PreNormBlock

TOWERS = (ViT, PreNormText, TextEncoder, FusionEncoder, TextDecoder)
"""Whose training passes call a block's modules by their ``forward`` alone, before which weights are gathered."""


@dataclass(frozen=True)
class Unit:
    """Modules that are gathered together. again: given up after the forward pass, and gathered for the backward one."""

    modules: tuple[nn.Module, ...]
    again: bool


def units_of(task: nn.Module, teacher: nn.Module | None, reshard: bool) -> list[list[Unit]]:
    """The units, in the order in which each pass meets them.

    A block whose parameters something else uses too is none: they belong to the rest. The teacher's image tower is
    passed once and has no backward pass, so its units are given up at once; those of the student's with ``reshard``.
    """
    names: dict[nn.Parameter, set[str]] = {}
    for name, parameter in task.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, set()).add(name)
    places = {module: name for name, module in task.named_modules()}
    of_teacher = set() if teacher is None else set(teacher.modules())
    passes = []
    for tower in (module for module in task.modules() if isinstance(module, TOWERS)):
        blocks = [block for block in tower.blocks if isinstance(block, PreNormBlock | PostNormBlock)]
        once = isinstance(tower, ViT) and not isinstance(tower, JointViT)  # ViLT's read words too, several times
        again = once and (reshard or tower in of_teacher)
        crossing = [block.cross for block in blocks if isinstance(block, PostNormBlock) and block.cross is not None]
        passes.append([Unit((cross.kv,), again) for cross in crossing])
        passes.append([Unit(_within(block), again) for block in blocks])
    kept = [[unit for unit in units if _apart(unit, places, names)] for units in passes]
    return [units for units in kept if units]


def _within(block: Any) -> tuple[nn.Module, ...]:
    return tuple(part for part in (block.attn, getattr(block, "cross", None), block.mlp) if part is not None)


def _apart(unit: Unit, places: Mapping[nn.Module, str], names: Mapping[nn.Parameter, set[str]]) -> bool:
    """Whether the unit's parameters have no name outside of it."""
    own = [
        (parameter, f"{places[module]}.{name}")
        for module in unit.modules
        for name, parameter in module.named_parameters(remove_duplicate=False)
    ]
    inside = {name for _, name in own}
    return all(names[parameter] <= inside for parameter, _ in own)


def shard(root: nn.Module, passes: Sequence[Sequence[Unit]], mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
    """Shard ``root`` over the mesh, unit by unit, the rest last; each unit gathers the next one of its pass ahead.

    dtype: in which linear layers compute, where it is not float32.
    """
    half = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    for units in passes:  # what lies within another unit comes first
        for unit in units:
            policy = half if dtype is not None and linear(unit) else exact
            target = list(unit.modules) if len(unit.modules) > 1 else unit.modules[0]
            fully_shard(target, mesh=mesh, mp_policy=policy, reshard_after_forward=unit.again)
    fully_shard(root, mesh=mesh, mp_policy=exact, reshard_after_forward=False)
    for units in passes:
        for before, after in pairwise(cast(Any, unit.modules[0]) for unit in units):
            before.set_modules_to_forward_prefetch([after])
            after.set_modules_to_backward_prefetch([before])


def linear(unit: Unit) -> bool:
    """Whether all parameters are those of linear layers, which autocast casts as the policy does."""
    parts = [part for module in unit.modules for part in module.modules()]
    return all(isinstance(part, nn.Linear) for part in parts if part._parameters)
