"""Sorts every parameter under exactly one rule, and makes AdamW of the result (Loshchilov & Hutter 2019), or Muon.

Left out: layer-wise decay as a special case (it is a list of rules), and other optimizers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkit.config import Optim, Rule
from mmkit.errors import UserError, shortened
from mmkit.nn.adamw import AdamW
from mmkit.nn.muon import Muon
from mmkit.train.schedule import learning_rate

FUSED_ON = ("cuda", "cpu", "xpu")


@dataclass(frozen=True, kw_only=True)
class Group:
    """The parameters of one rule, by name, in the module's order."""

    rule: Rule
    names: tuple[str, ...]


def sort_parameters(module: nn.Module, rules: Sequence[Rule]) -> list[Group]:
    """One group a rule, for the parameters that require a gradient.

    UserError names the parameters that no rule takes, and a rule (not ``optional``) that takes none.
    """
    taken: list[list[str]] = [[] for _ in rules]
    left: list[str] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        index = next((i for i, rule in enumerate(rules) if matches(rule, name, parameter)), None)
        (left if index is None else taken[index]).append(name)
    if left:
        raise UserError(
            f"optim.rules: no rule takes {shortened(left)}; end the rules with one that takes all, Rule(pattern='')"
        )
    for index, (rule, names) in enumerate(zip(rules, taken, strict=True)):
        if not names and not rule.optional:
            raise UserError(
                f"optim.rules.{index}: pattern {rule.pattern!r} takes no parameter; remove it, correct it, or mark it "
                f"optional=True (parameters are named like {shortened([n for n, _ in module.named_parameters()])})"
            )
    return [Group(rule=rule, names=tuple(names)) for rule, names in zip(rules, taken, strict=True) if names]


def matches(rule: Rule, name: str, parameter: Tensor) -> bool:
    """Whether a rule takes a parameter, if none before it does."""
    try:
        found = re.search(rule.pattern, name)
    except re.error as error:
        raise UserError(f"optim.rules: {rule.pattern!r} is not a regular expression ({error})") from error
    return found is not None and (rule.max_rank is None or parameter.ndim <= rule.max_rank)


def settle(module: nn.Module, rules: Sequence[Rule]) -> list[Group]:
    """The groups that are trained; the parameters of those that are frozen lose ``requires_grad``."""
    parameters = dict(module.named_parameters())
    groups = sort_parameters(module, rules)
    for group in groups:
        if group.rule.freeze:
            for name in group.names:
                parameters[name].requires_grad_(False)
    return [group for group in groups if not group.rule.freeze]


def of_muon(module: nn.Module, rules: Sequence[Rule]) -> list[nn.Parameter]:
    """The trained parameters of which the optimizer keeps one average in place of two."""
    return [
        parameter for name, parameter in module.named_parameters()
        if parameter.requires_grad and next(rule for rule in rules if matches(rule, name, parameter)).muon
    ]  # fmt: skip


def make_optimizer(
    module: nn.Module, optim: Optim, settled: Sequence[Group] | None = None, half: bool = False
) -> AdamW:  # fmt: skip
    """AdamW over the rules' groups, and Muon where they say so.

    settled: what ``settle`` gave before the parameters were laid out otherwise. half: Muon computes in bfloat16.
    """
    parameters = dict(module.named_parameters())
    groups = []
    for group in settle(module, optim.rules) if settled is None else settled:
        decay = optim.weight_decay if group.rule.weight_decay is None else group.rule.weight_decay
        own = [(name, parameters[name]) for name in group.names]
        groups.append({"params": own, "weight_decay": decay, "lr_scale": group.rule.lr_scale})
        if group.rule.muon:
            _check_matrices(group, parameters)
            groups[-1]["muon"] = True
    if not groups:
        raise UserError("optim.rules: every parameter is frozen, nothing is left to train")
    device = next(iter(parameters.values())).device
    options: dict[str, Any] = dict(lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=device.type in FUSED_ON)
    return Muon(groups, half=half, **options) if any("muon" in group for group in groups) else AdamW(groups, **options)


def _check_matrices(group: Group, parameters: Mapping[str, Tensor]) -> None:
    if wrong := [f"{name} {tuple(parameters[name].shape)}" for name in group.names if parameters[name].ndim != 2]:
        raise UserError(
            f"optim.rules: {group.rule.pattern!r} is muon, which takes matrices alone; it also takes {shortened(wrong)}"
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, optim: Optim, step: int, steps: int, warmup: int) -> float:
    """Set every group's rate for optimizer step ``step`` (from 0); returns the unscaled one."""
    rate = learning_rate(
        step, lr=optim.lr, min_lr=optim.min_lr, warmup_lr=optim.warmup_lr, warmup_steps=warmup, steps=steps
    )
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    return rate
