"""``mmkit convert --reverse``: a model folder, or a run, as a file of others.

A folder that was itself converted comes back as the file that it was: ``conversion.json`` tells the wrapper, the
precision and the names that are a matter of the file's age.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.convert.paths import check_out
from mmkit.errors import UserError, shortened
from mmkit.files import read_json
from mmkit.hub.files import CONVERSION, PREPROCESSING, TRAINING_STATE, WEIGHTS

if TYPE_CHECKING:
    from mmkit.convert.layouts.layout import Layout
    from mmkit.convert.tables.table import Row, State

log = logging.getLogger("mmkit.convert")


def export(layout_name: str, folder: Path, out: Path, allow: Sequence[str] = ()) -> dict[str, Any]:
    """A model folder as a foreign file; what it was converted from decides what stands around the weights.

    allow: modules of the user's own, as in ``mmkit.load``; for what stands beside the weights alone.

    How pictures are read comes beside it, where its program asks a file for it (``mmkit/convert/pictures/write.py``).

    UserError where the model has not the parts of the layout: it names them, and the layouts that would do.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}; with --reverse IN is a model folder or a run of mmkit")
    check_out(out, str(folder), "file")
    import torch

    from mmkit.convert.layouts.known import named
    from mmkit.convert.pictures.write import free, write_beside
    from mmkit.convert.read_file import PARALLEL, write_checkpoint
    from mmkit.convert.tables.table import ours_of, write

    if (layout := named(layout_name)).back is None:
        raise UserError(f"mmkit does not write the layout {layout.name} ({layout.what})")
    state = _whole_state(folder)
    record = _record_of(folder)
    same = record["layout"] == layout.name
    rows = _as_recorded(_rows(layout, state, folder), record, same)
    pictures = any(name.startswith("model.image.") for row in rows for name in ours_of(row))
    transform = _frame_of(_transform_of(folder, allow), folder, layout, allow) if pictures else None
    model = _of_open_clip(folder, allow) if layout.pictures == "open_clip" else {}
    free(out, transform, layout.pictures, model)
    _say_left(rows, state)
    theirs = write(rows, state)
    if same:
        theirs |= {
            name: theirs[name].to(getattr(torch, dtype)) for name, dtype in record["dtypes"].items() if name in theirs
        }
    if prefix := record["prefix"] or (PARALLEL if record["parallel"] else ""):
        theirs = {f"{prefix}{name}": value for name, value in theirs.items()}
    write_checkpoint(out, theirs, tuple(record["wrapper"]))
    beside = write_beside(out, transform, layout.pictures, model) if pictures else None
    return {
        "layout": layout.name, "file": str(out), "tensors": len(theirs),
        "values": sum(v.numel() for v in theirs.values()), **({"pictures": str(beside)} if beside else {}),
    }  # fmt: skip


def _of_open_clip(folder: Path, allow: Sequence[str]) -> dict[str, Any]:
    """What open_clip needs to build a model folder's model; empty, and said, where it cannot be told."""
    from mmkit.convert.clip_config import written
    from mmkit.data.images.size import height_width
    from mmkit.hub.folder import load

    try:
        predictor = load(folder, allow=allow)
        transform: Any = predictor.transform
        size = height_width(getattr(transform, "window", None) or transform.size)
        return {"model_cfg": written(predictor.model, predictor.tokenizer, size)}
    except UserError as error:
        log.warning("open_clip_config.json: without model_cfg (%s)", error)
        return {}


def _transform_of(folder: Path, allow: Sequence[str]) -> Any:
    """The picture transform of a model folder; None, and said, where it has none that may be built."""
    from mmkit.config.allowed import TRANSFORM
    from mmkit.config.as_json import rebuild

    file = folder / PREPROCESSING
    if not file.is_file():
        return None
    try:
        return rebuild(read_json(file, strict=True)["image"], TRANSFORM, allow)
    except (UserError, KeyError, TypeError, ValueError) as error:
        log.warning("%s: its picture transform cannot be told (%s)", file, error)
        return None


def _frame_of(transform: Any, folder: Path, layout: Layout, allow: Sequence[str]) -> Any:
    """The picture transform; of a model that reads a clip frame by frame that of its frames: its weights are those of a
    model of pictures. UserError for a tower over tubelets, whose kernel may have the shape of a larger patch.
    """
    from mmkit.data.video.opening import reads_clips
    from mmkit.hub.folder import load
    from mmkit.models.frames import FrameDual

    if not reads_clips(transform):
        return transform
    if not isinstance(load(folder, allow=allow).model, FrameDual):
        raise UserError(
            f"{folder}: cannot be written as {layout.name} ({layout.what}): it reads clips, by tubelets of frames"
        )
    return transform.frame


def _record_of(folder: Path) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "layout": "", "constants": [], "names": {}, "dtypes": {}, "parallel": False, "prefix": "", "wrapper": ["model"],
    }  # fmt: skip
    file = folder / CONVERSION
    return plain | (read_json(file, "convert the foreign file again, or take it away") if file.is_file() else {})


def _rows(layout: Layout, state: State, folder: Path) -> list[Row]:
    """The rows of a layout for our state; UserError with what lacks and what would fit."""
    from mmkit.convert.layouts.known import LAYOUTS

    rows, why = _attempt(layout, state)
    if not why:
        return rows
    fitting = [other.name for other in LAYOUTS if other.back and not _attempt(other, state)[1]]
    would = f"it can be written as {', '.join(fitting)}" if fitting else "no layout that mmkit writes fits it"
    raise UserError(f"{folder}: cannot be written as {layout.name} ({layout.what}): {why}; {would}")


def _attempt(layout: Layout, state: State) -> tuple[list[Row], str]:
    """The rows, or why this state has none in this layout."""
    from mmkit.convert.tables.table import lacking, ours_of

    assert layout.back is not None
    try:
        rows = list(layout.back(state))
    except KeyError as error:
        return [], f"it has no {error}"
    except UserError as error:
        return [], str(error).rstrip(".")
    if missing := lacking(rows, state):
        told = ", ".join(_described(part, state) for part in sorted({_part(name) for name in missing}))
        return [], f"it has not {told} (missing {shortened(missing, 4)})"
    known = {name for row in rows for name in ours_of(row)}
    written = {_part(name) for name in known}
    beyond = sorted(name for name in state if name not in known and _part(name) in written)
    return rows, f"its {shortened(beyond, 4)} has no place there" if beyond else ""


def _part(name: str) -> str:
    """The tower or head that a tensor belongs to, of the student or the teacher: "model.image", "heads.mlm"."""
    teacher, own = ("ema.copies.", name.removeprefix("ema.copies.")) if name.startswith("ema.copies.") else ("", name)
    return teacher + ".".join(own.split(".")[: 1 if own.startswith("heads_") else 2])


def _described(part: str, state: Mapping[str, Any]) -> str:
    some = " as it is there" if any(_part(name) == part for name in state) else ""
    kind, _, name = part.rpartition(".")
    return f"the {'head' if kind == 'heads' else 'part'} {name}{some}"


def _as_recorded(rows: Iterable[Row], record: Mapping[str, Any], same: bool) -> list[Row]:
    """Without the constants, and with the names, that the file had which the model came from."""
    from mmkit.convert.tables.table import Constant, Entry

    found: list[Row] = []
    for row in rows:
        if isinstance(row, Constant) and not (row.theirs in record["constants"] if same else not row.old):
            continue
        if same and isinstance(row, Entry) and row.ours in record["names"]:
            theirs, also = record["names"][row.ours]
            row = replace(row, theirs=tuple(theirs), also=tuple(also))
        found.append(row)
    return found


def _say_left(rows: Sequence[Row], state: State) -> None:
    """Log what of ours is not written: by a rule, or as the layout has no such part."""
    from mmkit.convert.tables.table import Left, ours_of

    ruled = Counter(row.why for row in rows if isinstance(row, Left))
    known = {name for row in rows for name in ours_of(row)}
    others = Counter(_part(name) for name in state if name not in known)
    for why, count in ruled.items():
        log.info("left out: %s (%d tensors)", why, count)
    if others:
        listed = ", ".join(f"{part} ({count} tensors)" for part, count in sorted(others.items()))
        log.info("left out, as this layout has no such parts: %s", listed)


def _whole_state(folder: Path) -> State:
    """The weights of a model folder or of a run, with the teacher and the queues."""
    from mmkit.convert.read_file import read_checkpoint
    from mmkit.train.checkpoint import load_state
    from mmkit.train.distributed import read_task
    from mmkit.train.resuming import latest

    if (newest := latest(folder / "checkpoints")) is not None:
        log.info("written from the checkpoint %s", newest)
        return read_task(newest, load_state(newest)["rest"])
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise UserError(f"{folder}: holds no {weights.name}; with --reverse IN is a model folder or a run of mmkit")
    state = dict(read_checkpoint(weights).state)
    if not all(name.startswith(("model.", "heads.")) for name in state):
        raise UserError(f"{weights}: not of a model of mmkit; with --reverse IN is a model folder or a run of mmkit")
    if (folder / TRAINING_STATE).is_file():
        return state | read_checkpoint(folder / TRAINING_STATE).state
    log.info("%s holds no %s and no checkpoints: the teacher and the queues are left out", folder, TRAINING_STATE)
    return state
