"""How far ours is from the original implementation: asserted, and noted for the table of ``docs/parity.md``.

A test whose differences belong in the table has the marker ``parity(layout, against)``. The table is made by

    pytest tests/parity tests/convert tests/models projects --parity-table docs/parity.md

Differences are relative to the tensor's largest value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PROPERTY = "parity"
ROUNDING = 1e-7
CANCELLED = "gradients that cancel"
ORDER = ("outputs", "loss", "gradients", CANCELLED, "teacher and queues", "there and back")
HEAD = """# How far mmkit is from the original implementations

Measured, not typed. This page is written by the comparisons themselves:

    pytest tests/parity tests/convert tests/models projects --parity-table docs/parity.md

The largest difference is that of all tensors that were compared, relative to the largest value of each; beside it
stands what the test allows. Models are of tiny random sizes, in float32 on one CPU core; "recorded" are the tensors of
the official code in `tests/oracles/`, and in the folder that `MMKIT_ORACLES` names. "There and back" is a file that was
converted and written again: the same keys, shapes and bits. "Gradients that cancel" are those of queries and keys that
are less than a thousandth of the model's largest gradient; their differences are relative to that one.

| layout | compared with | what | largest difference | allowed | tensors |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Note:
    """One comparison. difference: relative; None = equal bits."""

    what: str
    difference: float | None
    bound: float
    layout: str = ""
    against: str = ""


_notes: list[Note] = []


def start() -> None:
    """Forget what was noted."""
    _notes.clear()


def noted(layout: str, against: str) -> list[dict[str, Any]]:
    """What was noted since, as JSON-able values."""
    return [asdict(note) | {"layout": layout, "against": against} for note in _notes]


def assert_near(
    ours: Tensor, theirs: Tensor, bound: float, name: str = "", what: str = "outputs", largest: float = 0.0
) -> None:
    """The largest difference is at most ``bound`` of the largest value of ``theirs``.

    largest: of all gradients, for those of queries and keys that cancel to less than a thousandth of it: what is left
    of them is the rounding of the others, so a 1e-7 of ``largest`` is allowed beside.
    """
    assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)} and {tuple(theirs.shape)}"
    difference = (ours.float() - theirs.float()).abs().max().item()
    scale = theirs.float().abs().max().item()
    if scale < 1e-3 * largest:
        _notes.append(Note(CANCELLED, difference / largest, ROUNDING))
    else:
        _notes.append(Note(what, difference / scale if scale else difference, bound))
    allowed = bound * scale + ROUNDING * largest + 1e-12
    assert difference <= allowed, f"{name}: differs by {difference:.2e}, largest value {scale:.2e}"


def assert_same_state(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """The same keys, types, shapes and bits."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
        assert torch.equal(ours[name], value), name
    _notes.extend([Note("there and back", None, 0.0)] * len(theirs))


def write_table(path: Path, notes: Iterable[Mapping[str, Any]]) -> None:
    """The page, one row for each layout, original and kind of number."""
    rows: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for note in notes:
        rows.setdefault((note["layout"], note["against"], note["what"]), []).append(note)
    lines = []
    for (layout, against, what), group in sorted(
        rows.items(), key=lambda row: (row[0][0], row[0][1], ORDER.index(row[0][2]))
    ):
        found = [note["difference"] for note in group if note["difference"] is not None]
        measured, allowed = f"{max(found, default=0.0):.1e}", f"{max(note['bound'] for note in group):.0e}"
        if not found:
            measured, allowed = "equal bits", "equal bits"
        lines.append(f"| {layout} | {against} | {what} | {measured} | {allowed} | {len(group):,} |")
    path.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
