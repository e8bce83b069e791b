"""Whether what a config describes has the shapes of the weights beside it, found out before memory is taken for it.

The parts are built on PyTorch's "meta" device, where tensors have shapes and no numbers, and no more of them than the
file has: a config that asks for a model a million times as large as its weights is a message, at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from mmkit.errors import UserError
from mmkit.hub.files import CONFIG, shapes_in
from mmkit.nn.queue import FeatureQueue

Shapes = Mapping[str, tuple[int, ...]]
SPARE_TENSORS = 1000  # a part may register some twice, or hold constants that are not saved
SPARE_VALUES = 2**28


def names_of_all(model: nn.Module, heads: Mapping[str, nn.Module], names: Iterable[str]) -> list[str]:
    """Of the names of a task's state those that ``state_of_all`` gives.

    No module is asked for its state: under FSDP that takes its weights apart, while another thread computes with them.
    """
    parts = {"model.": model, **{f"heads.{name}.": head for name, head in heads.items()}}
    queues = tuple(
        f"{prefix}{name}." if name else prefix
        for prefix, module in parts.items() for name, part in module.named_modules() if isinstance(part, FeatureQueue)
    )  # fmt: skip
    own = (name for name in names if name.startswith(tuple(parts)) and not name.endswith("_extra_state"))
    return [name for name in own if not name.startswith(queues)]


def state_of(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """The weights and persistent buffers of a module, without those of queues."""
    queues = tuple(
        f"{name}." if name else "" for name, part in module.named_modules() if isinstance(part, FeatureQueue)
    )
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and not name.endswith("_extra_state") and not name.startswith(queues):
            yield name, value


def state_of_all(model: nn.Module, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The same of a model and its heads, by the names in the file."""
    found = {f"model.{name}": value for name, value in state_of(model)}
    for head_name, head in heads.items():
        found |= {f"heads.{head_name}.{name}": value for name, value in state_of(head)}
    return found


def check_shapes(wanted: Mapping[str, Tensor], found: Shapes, path: Path) -> None:
    """UserError that lists the weights of a file which lack, are too many, or are of another shape than wanted."""
    odd = (name for name in wanted.keys() & found.keys() if tuple(wanted[name].shape) != found[name])
    shapes = (f"{name} {list(found[name])}, wanted {list(wanted[name].shape)}" for name in odd)
    problems = [
        *_listed("weights that the model needs and the file lacks", wanted.keys() - found.keys()),
        *_listed("weights in the file that the model has no place for", found.keys() - wanted.keys()),
        *_listed("weights of another shape", shapes),
    ]
    if problems:
        raise UserError(f"{path}: does not fit {path.parent / CONFIG}:\n" + "\n".join(problems))


def check_plan(make: Callable[[], nn.Module], heads: Mapping[str, partial[Any]], path: Path) -> None:
    """UserError where a described model and its heads have not the weights of a file; no memory is taken for them."""
    found = shapes_in(path)
    said = f"{path.parent / CONFIG}: describes a far larger model than the weights beside it are"
    with torch.device("meta"), no_more_than(2 * len(found) + SPARE_TENSORS, said):
        model = make()
        built = {name: head(model.spec) for name, head in heads.items()}
    check_shapes(state_of_all(model, built), found, path)


@contextmanager
def no_more_than(tensors: int, said: str) -> Iterator[None]:
    """UserError(said) as soon as what is built within has more tensors, or larger constants than models have."""
    left, values, thread = tensors, SPARE_VALUES, threading.get_ident()

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal left
        if threading.get_ident() == thread and value is not None:
            left -= 1
            if left < 0:
                raise UserError(said)

    def weigh(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal values
        count(module, name, value)
        if threading.get_ident() == thread and value is not None:
            values -= value.numel()
            if values < 0:
                raise UserError(f"{said} ({name} of {list(value.shape)})")

    hooks = register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(weigh)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _listed(title: str, names: Iterable[str]) -> list[str]:
    found = sorted(names)
    if not found:
        return []
    more = f", ... ({len(found)} in all)" if len(found) > 8 else ""
    return [f"  {title}: {', '.join(found[:8])}{more}"]
