"""Tables between the names of a published checkpoint and mmkit's, read in both directions, with an audit.

A table lists, for each of our tensors, the tensors of theirs that it is made of. Importing and exporting use the same
list, so that a state goes through both ways bit for bit. A key of theirs that no row reads, or one that is missing,
is an error that names it; what is dropped on purpose stands in a row that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmkit.errors import UserError, shortened

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


@dataclass(frozen=True)
class Split:
    """One tensor of theirs that is several of ours, cut along the first axis; ``shares`` are their relative lengths."""

    ours: tuple[str, ...]
    theirs: str
    shares: tuple[int, ...]

    def cut(self, value: Tensor) -> State:
        """Ours from theirs."""
        unit = len(value) // sum(self.shares)
        return dict(zip(self.ours, value.split([unit * share for share in self.shares]), strict=True))


@dataclass(frozen=True)
class Constant:
    """A key of theirs that holds nothing learned, always this value: it is checked when read, and written again.

    old: only older files have it; it is written where the file that the weights came from had it.
    """

    theirs: str
    value: Tensor
    old: bool = False


@dataclass(frozen=True)
class Fresh:
    """A tensor of ours that theirs knows nothing of; it gets this value when read, and is not written."""

    ours: str
    value: Tensor


@dataclass(frozen=True)
class Dropped:
    """A key of theirs that is left behind on purpose, and why; a file that has one does not come back whole."""

    theirs: str
    why: str


@dataclass(frozen=True)
class Left:
    """A tensor of ours that theirs has no place for, left behind on purpose when written, and why."""

    ours: str
    why: str


Row = Entry | Split | Constant | Fresh | Dropped | Left


def same(ours: str, theirs: str, *, also: Iterable[str] = ()) -> Entry:
    """The same tensor under another name."""
    return Entry(ours, (theirs,), also=tuple(also))


def layer(ours: str, *theirs: str) -> list[Entry]:
    """Weight and bias of a linear layer or a norm; of one of our linear layers that is several in theirs."""
    return [Entry(f"{ours}.{part}", tuple(f"{name}.{part}" for name in theirs)) for part in ("weight", "bias")]


def layers(ours: str, theirs: str, names: Mapping[str, str]) -> list[Entry]:
    """Several below two prefixes. names: ours -> theirs; several in theirs stand apart by a space."""
    return [
        entry
        for own, others in names.items()
        for entry in layer(f"{ours}.{own}", *(f"{theirs}.{other}" for other in others.split()))
    ]


def stack(ours: str, theirs: str, depth: int, names: Mapping[str, str], start: int = 0) -> list[Entry]:
    """The ``layers`` of numbered blocks: ours from 0 up to ``depth``, theirs from ``start``."""
    return [entry for i in range(depth) for entry in layers(f"{ours}.{i}", f"{theirs}.{start + i}", names)]


def read(table: Iterable[Row], theirs: Mapping[str, Tensor], ignored: Iterable[str] = ()) -> State:
    """Their state as ours. UserError names the keys that are missing, unused, or do not hold what they should."""
    table = list(table)
    used = {name for row in table for name in names_of(row)}
    missing = sorted(used - theirs.keys())
    unused = sorted(theirs.keys() - used - set(ignored))
    if missing or unused:
        raise UserError(f"the checkpoint does not have this layout: {listed(missing=missing, unknown=unused)}")
    ours: State = {}
    for row in table:
        for name in names_of(row) if any("queue" not in ours for ours in ours_of(row)) else ():
            if not theirs[name].is_floating_point():  # a queue counts, and knows ids
                raise UserError(
                    f"{name} holds {theirs[name].dtype}, no plain weights; give them as float32, not quantised"
                )
        if isinstance(row, Entry):
            ours[row.ours] = _read_entry(row, theirs)
        elif isinstance(row, Split):
            ours |= row.cut(theirs[row.theirs])
        elif isinstance(row, Fresh):
            ours[row.ours] = row.value
        elif isinstance(row, Constant) and not torch.equal(theirs[row.theirs], row.value):
            raise UserError(f"{row.theirs} should hold the numbers of its layout, and holds others")
    return ours


def _read_entry(entry: Entry, theirs: Mapping[str, Tensor]) -> Tensor:
    parts = [theirs[name] for name in entry.theirs]
    for name in entry.also:
        if not torch.equal(theirs[name], parts[0]):
            raise UserError(f"{name} should hold the same values as {entry.theirs[0]}, and does not")
    value = parts[0] if len(parts) == 1 else torch.cat(parts)
    return entry.read(value) if entry.read else value


def write(table: Iterable[Row], ours: Mapping[str, Tensor]) -> State:
    """Our state as theirs, the inverse of ``read``. Raises UserError naming what is missing."""
    table = list(table)
    entries = [row for row in table if isinstance(row, Entry)]
    splits = [row for row in table if isinstance(row, Split)]
    if missing := lacking(table, ours):
        raise UserError(f"the model lacks parts of this layout: {listed(missing=missing)}")
    theirs: State = {row.theirs: row.value for row in table if isinstance(row, Constant)}
    for entry in entries:
        value = entry.write(ours[entry.ours]) if entry.write else ours[entry.ours]
        parts = value.chunk(len(entry.theirs)) if len(entry.theirs) > 1 else (value,)
        theirs |= {name: part.contiguous() for name, part in zip(entry.theirs, parts, strict=True)}
        theirs |= dict.fromkeys(entry.also, theirs[entry.theirs[0]])
    theirs |= {row.theirs: torch.cat([ours[name] for name in row.ours]) for row in splits}
    return theirs


def names_of(row: Row) -> tuple[str, ...]:
    """The keys of theirs that a row takes care of."""
    if isinstance(row, Entry):
        return (*row.theirs, *row.also)
    return () if isinstance(row, Fresh | Left) else (row.theirs,)


def ours_of(row: Row) -> tuple[str, ...]:
    """The tensors of ours that a row takes care of."""
    if isinstance(row, Split):
        return row.ours
    return (row.ours,) if isinstance(row, Entry | Fresh | Left) else ()


def lacking(table: Iterable[Row], ours: Mapping[str, Tensor]) -> list[str]:
    """What ``write`` needs and our state has not, sorted."""
    return sorted({name for row in table if isinstance(row, Entry | Split) for name in ours_of(row)} - ours.keys())


def theirs_of(table: Iterable[Row], ours: str) -> str:
    """The key of theirs that one of our tensors is read from."""
    return next(row.theirs[0] for row in table if isinstance(row, Entry) and row.ours == ours)


def depth_of(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered layers there are under a prefix; 0 for none."""
    return 1 + max((int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)), default=-1)


def listed(most: int = 8, *, missing: Sequence[str] = (), unknown: Sequence[str] = ()) -> str:
    """Names for a message: "missing a, b and 3 more; unknown c"."""
    return "; ".join(f"{what} {shortened(names, most)}" for what, names in
                     (("missing", missing), ("unknown", unknown)) if names)  # fmt: skip


def said_of_dropped(rows: Iterable[Row]) -> list[str]:
    """One line for each rule by which keys of theirs are left behind: why, how many, which."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if isinstance(row, Dropped):
            reasons.setdefault(row.why, []).append(row.theirs)
    return [f"dropped: {why} ({len(names)} tensors: {shortened(names, 4)})" for why, names in reasons.items()]


@contextmanager
def about(path: Path, role: str = "") -> Iterator[None]:
    """A UserError from within begins with the file that it is about, and its role, unless it names the file already."""
    try:
        yield
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith(str(path)) else f"{path}{role}: {said}") from error
