"""Tables between the names of a published checkpoint and mmkit's, read in both directions, with an audit.

A table lists, for each of our tensors, the tensors of theirs that it is made of. Importing and exporting use the same
list, so that a state goes through both ways bit for bit. A key of theirs that no entry reads, or one that is missing,
is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkit.errors import UserError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """One of our tensors and what it is called elsewhere.

    ``theirs`` are several names where theirs is split (query, key, value); they are joined along the first axis.
    ``read`` and ``write`` reshape one tensor from theirs to ours and back. ``also`` are further names of the same
    tensor in theirs (tied weights), which must hold equal values.
    """

    ours: str
    theirs: tuple[str, ...]
    read: Callable[[Tensor], Tensor] | None = None
    write: Callable[[Tensor], Tensor] | None = None
    also: tuple[str, ...] = ()


def same(ours: str, theirs: str, *, also: Iterable[str] = ()) -> Entry:
    """The same tensor under another name."""
    return Entry(ours, (theirs,), also=tuple(also))


def layer(ours: str, theirs: str) -> list[Entry]:
    """Weight and bias of a linear layer or a norm."""
    return [same(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", "bias")]


def joined(ours: str, theirs: Iterable[str]) -> list[Entry]:
    """Weight and bias of one of our linear layers that is several in theirs."""
    names = tuple(theirs)
    return [Entry(f"{ours}.{part}", tuple(f"{name}.{part}" for name in names)) for part in ("weight", "bias")]


def read(table: Iterable[Entry], theirs: Mapping[str, Tensor], ignored: Iterable[str] = ()) -> State:
    """Their state as ours. Raises UserError naming the keys that are missing, unused, or should be equal and are not."""
    table = list(table)
    used = {name for entry in table for name in (*entry.theirs, *entry.also)}
    missing = sorted(used - theirs.keys())
    unused = sorted(theirs.keys() - used - set(ignored))
    if missing or unused:
        raise UserError(f"the checkpoint does not have this layout: {_listed('missing', missing)}{_listed('unknown', unused)}")
    ours: State = {}
    for entry in table:
        parts = [theirs[name] for name in entry.theirs]
        for name in entry.also:
            if not torch.equal(theirs[name], parts[0]):
                raise UserError(f"{name} should hold the same values as {entry.theirs[0]}, and does not")
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        ours[entry.ours] = entry.read(value) if entry.read else value
    return ours


def write(table: Iterable[Entry], ours: Mapping[str, Tensor]) -> State:
    """Our state as theirs, the inverse of ``read``. Raises UserError naming what is missing."""
    table = list(table)
    if missing := sorted({entry.ours for entry in table} - ours.keys()):
        raise UserError(f"the model lacks parts of this layout: {_listed('missing', missing)}")
    theirs: State = {}
    for entry in table:
        value = entry.write(ours[entry.ours]) if entry.write else ours[entry.ours]
        parts = value.chunk(len(entry.theirs)) if len(entry.theirs) > 1 else (value,)
        theirs |= {name: part.contiguous() for name, part in zip(entry.theirs, parts, strict=True)}
        theirs |= dict.fromkeys(entry.also, theirs[entry.theirs[0]])
    return theirs


def _listed(what: str, names: list[str], most: int = 8) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what} {', '.join(names[:most])}{rest}; "
