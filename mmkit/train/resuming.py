"""The checkpoints in a run's folder: which are whole, what each says of itself, and whether a run may go on from it.

What is in them, ``mmkit/train/checkpoint.py`` reads and writes; nothing here needs their tensors.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmkit.config.experiment import BatchPlan
from mmkit.config.moved import with_present_names
from mmkit.config.own import leaves
from mmkit.data.order import RULE
from mmkit.errors import UserError
from mmkit.files import is_part, read_json, remove_folder

TASK, STATE, META, SHARDS = "task.safetensors", "state.pt", "meta.json", ".metadata"
FREE_TO_CHANGE = (
    "name", "evals", "report", "data.workers", "data.max_bad_fraction", "run.eval_every_steps", "run.save_every_steps",
    "run.save_every_minutes", "run.save_in_background", "run.log_every_steps", "run.keep_checkpoints", "run.best",
    "run.best_is", "run.trackers", "run.gc_every_steps", "run.timeout_minutes", "run.step_timeout_minutes",
    "run.eval_precision", "run.stop_after_steps", "run.engine", "run.shard_ranks", "run.reshard",
    "run.chunks", "data.rank_batch", "data.global_batch", "data.accumulation_steps",
)  # fmt: skip
"""Settings that do not enter the numbers of a run, and may differ when it resumes; of the batch see ``check_batch``."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a checkpoint says about itself.

    product: the float32 backend. records: how many the source had. batch: see ``BatchPlan``; None = not known, as
    version 0.1.0 wrote it. seen, bad: samples so far, and those of them that could not be read. seconds: of training
    so far. files: name -> size of the files beside this one. tokenizer: see ``digest_of``; None = not known.
    order: by which rule an epoch visits the records; "" = by one that is not used any more. data: a digest of the
    records, "" where their source has none. engine, mesh: as who held which weights; axis -> processes. versions: of
    Python and the packages.
    """

    step: int
    world: int
    product: str
    precision: str
    threads: int
    records: int
    experiment: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    batch: dict[str, int] | None = None
    seen: int = 0
    bad: int = 0
    seconds: float = 0.0
    files: dict[str, int] = field(default_factory=dict)
    tokenizer: str | None = None
    order: str = ""
    data: str = ""
    engine: str = "ddp"
    mesh: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def load_meta(folder: Path) -> Meta:
    """The checkpoint's ``meta.json``."""
    try:
        meta = Meta(**read_json(folder / META))
    except TypeError as error:
        raise UserError(f"{folder / META}: not a checkpoint of this version of mmkit ({error})") from error
    return replace(meta, experiment=with_present_names(meta.experiment))


def checkpoints(root: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return [path for path in _steps(root) if _whole(path)]


def torn(root: Path) -> list[Path]:
    """Those of which something is missing or cut off, as after a copy that did not end."""
    return [path for path in _steps(root) if not _whole(path)]


def _steps(root: Path) -> list[Path]:
    found = [path for path in root.glob("step-*") if re.fullmatch(r"step-\d+", path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _whole(path: Path) -> bool:
    try:
        sizes = read_json(path / META).get("files") or dict.fromkeys((TASK, STATE))
    except UserError:
        return False
    there = {file.name: file.stat().st_size for file in path.iterdir()}
    return all(name in there and (size is None or there[name] == size) for name, size in sizes.items())


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint."""
    found = checkpoints(root)
    return found[-1] if found else None


def rotate(root: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest, and what a killed process left half-written or half-removed."""
    for path in (*root.glob(".part-*"), *root.glob(".step-*.gone")):
        shutil.rmtree(path, ignore_errors=True)
    for path in checkpoints(root)[:-keep]:
        remove_folder(path)


def check_version(folder: Path) -> None:
    """UserError for a checkpoint of an earlier version, in whose plan, draws or order of records none goes on."""
    meta, run = load_meta(folder), folder.absolute().parents[1]
    if meta.batch is None or RULE not in meta.order:
        was = (
            " (0.1.0), which planned batches and drew random numbers" if meta.batch is None else ", which took records"
        )
        raise UserError(
            f"{folder}: cannot resume: begun by an earlier version of mmkit{was} otherwise. Start a new run from its "
            f"model: a new --out and --set init.model={run}"
        )


def check_batch(folder: Path, meta: Meta, batch: BatchPlan) -> str:
    """What is to be said where the batch is cut in another way than before, or "".

    UserError where a step has not as many samples as before, which would be another run; with the setting that helps.
    """
    assert meta.batch is not None  # see check_version
    before = BatchPlan(**meta.batch)
    forward, now = before.rank_batch * before.world, batch.rank_batch * batch.world
    if before.global_batch != batch.global_batch:
        raise UserError(
            f"{folder}: cannot resume: a step had {before.global_batch} samples on {before.world} processes, and would "
            f"have {batch.global_batch} on {batch.world}. {_same_batch(before, batch.world)}"
        )
    if forward == now:
        return ""
    return (
        f"a forward had {forward} samples on all processes together and has {now} now: heads that learn from the "
        "others of the batch see that many"
    )


def _same_batch(before: BatchPlan, world: int) -> str:
    """How to have the same samples in each step, and where possible in each forward, on ``world`` processes."""
    if before.global_batch % world:
        return f"Resume on a number of processes that divides {before.global_batch}, such as {before.world}"
    rank_batch, rest = divmod(before.rank_batch * before.world, world)
    return (
        f"Add --set data.global_batch={before.global_batch} data.rank_batch={'null' if rest else rank_batch} "
        "data.accumulation_steps=null"
    )


def digest_of(folder: Path) -> str:
    """A digest of the files in a folder and their names; of one that is not there, that of nothing.

    What a process left that was killed while it wrote one of them is none of them.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(file for file in folder.glob("*") if not is_part(file)):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def check_tokenizer(folder: Path, meta: Meta) -> None:
    """UserError where the run's tokenizer is another than before: the same words would be other numbers."""
    place = folder.absolute().parents[1] / "tokenizer"
    if meta.tokenizer not in (None, digest_of(place)):
        raise UserError(f"{place}: cannot resume: not the tokenizer that this run began with; put that one back")


def check_order(folder: Path, meta: Meta, order: str, data: str) -> None:
    """UserError where the records would be taken in another order than before, as after their files were cut anew, or
    are others.
    """
    if meta.order != order:
        raise UserError(
            f"{folder}: cannot resume: records were taken in the order {meta.order!r}, and now it would be {order!r}; "
            "give data.block and data.window as they were, or the files that the run began with"
        )
    if meta.data != data:
        raise UserError(
            f"{folder}: cannot resume: the shards are not those that the run began with, by their names, sizes or "
            "numbers of samples; put those back, or start a new run"
        )


def check_same(
    folder: Path, old: Mapping[str, Any], experiment: Mapping[str, Any], records: tuple[int, int] | None = None,
    free: Sequence[str] = (), hint: str = "Restore these, or start a new run in another folder",
) -> None:  # fmt: skip
    """UserError, with old and new values, where a resumed run would not be the run that was begun.

    old, experiment: as dumped. records: of the source, then and now. free: further settings that may differ. hint: what
    to do.
    """
    changed = [change for path, change in changes(old, experiment) if not _free(path, (*FREE_TO_CHANGE, *free))]
    if records is not None and records[0] != records[1]:
        changed.append(f"records of the source: {records[0]} -> {records[1]}")
    if changed:
        raise UserError(f"{folder}: cannot resume, the experiment changed: {'; '.join(changed[:10])}. {hint}")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of two dumped experiments what differs: (path, "path: old -> new")."""
    one, other = dict(leaves(old)), dict(leaves(new))
    return [
        (path, f"{path}: {one.get(path, 'absent')} -> {other.get(path, 'absent')}")
        for path in sorted(one.keys() | other.keys())
        if one.get(path, _ABSENT) != other.get(path, _ABSENT)
    ]


_ABSENT = object()


def _free(path: str, names: Sequence[str]) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in names)
