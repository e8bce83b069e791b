"""What a model was trained on, from what, how long, and which licences follow; it goes along from save to save.

A run's folder tells it by its checkpoints and events; a copy of the model alone has the record in its ``config.json``.
A run that starts from another inherits that one's licences, when it is saved. What nobody stated is unknown, and never
guessed. Of what a config names nothing is imported, and of a folder that is described no other is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmkit.config.allowed import ANYTHING, SOURCES
from mmkit.convert.locate import known_to_timm
from mmkit.errors import UserError
from mmkit.files import inside
from mmkit.hub.files import CONFIG, CONVERSION, is_ours, read_json
from mmkit.train.resuming import latest

UNKNOWN = "unknown: set it"
OF_DATA = {
    "mmkit.data.openmoji.": ("OpenMoji pictures", "CC BY-SA 4.0, openmoji.org", "cc-by-sa-4.0"),
    "mmkit.data.sources.easy_vqa:": ("easy-VQA", "MIT", "mit"),
}
"""Beginning of a data source's module -> (what, its licence, the hub's name of the licence)."""
IDS = {"BSD-3-Clause": "bsd-3-clause", "Apache-2.0": "apache-2.0", "MIT": "mit"}


def record(folder: Path, experiment: Mapping[str, Any], follow: bool = False) -> dict[str, Any]:
    """What a folder and its dumped experiment tell of the training; empty where there was none.

    follow: look at the models that it began with too, wherever they are; for one's own run, when it is saved.

    Keys: data, records, steps (None where unknown), heads, init (tower -> source), before (of each such source its name
    and record) and licences ([what, licence, the hub's name of it or ""]).
    """
    arguments = experiment["args"]
    if "data" not in arguments:
        return {}
    train, init = arguments["data"]["args"]["train"], arguments.get("init", {})
    before = {source: _of_source(source, folder) if follow else {} for source in init.values()}
    licences = _of_data(train)
    for source, found in before.items():
        licences += found.get("licences") or _of_weights(source)
    counts = read_json(folder / "data.json") if (folder / "data.json").is_file() else {}
    return {
        "data": _described(train), "records": counts.get("records"), "steps": _steps(folder),
        "heads": sorted(arguments["heads"]), "init": init,
        "before": {source: found for source, found in before.items() if found},
        "licences": list({tuple(licence): list(licence) for licence in licences}.values()),
    }  # fmt: skip


def of_folder(folder: Path, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a model folder, whose ``config.json`` holds ``saved``."""
    kept = saved.get("training")
    if isinstance(kept, Mapping):
        return dict(kept)
    found = record(folder, saved["experiment"])
    if found or not (folder / CONVERSION).is_file():
        return found
    made = read_json(folder / CONVERSION)
    first = re.fullmatch(r"(\S+) \(.*\)", made["licence"])
    known = IDS[first[1]] if first and first[1] in IDS else ""
    licence = UNKNOWN if made["licence"].startswith("not stated") else made["licence"]
    return {"licences": [[made["what"], licence, known]]}


def facts(training: Mapping[str, Any]) -> dict[str, Any]:
    """The record as facts by dotted name, licence included."""
    licences = training.get("licences", [])
    licence = "; ".join(f"{what}: {says}" for what, says, _ in licences) or f"{UNKNOWN} (its training is not known)"
    if "data" not in training:
        return {"training.data": "not stated", "training.steps": "not stated", "licence": licence}
    shown: dict[str, Any] = {"training.data": training["data"]}
    shown |= {f"training.{name}": training[name] for name in ("records", "steps") if training[name] is not None}
    if training["steps"] is None:
        shown["training.steps"] = "unknown"
    starts = [
        f"{tower} = {source}{_told(training['before'], source)}" for tower, source in sorted(training["init"].items())
    ]
    shown["training.init"] = "; ".join(starts) or "at random"
    return shown | {"training.heads": ", ".join(training["heads"]), "licence": licence}


def licence_id(training: Mapping[str, Any]) -> str:
    """The hub's name of the licence; "unknown" where none is known, "other" where several are or some is not."""
    found = {name for _, _, name in training.get("licences", [])}
    return "other" if len(found) > 1 else next(iter(found), "") or "unknown"


def _told(before: Mapping[str, Any], source: str) -> str:
    found = before.get(source)
    if not found or "data" not in found:
        return ""
    steps = "" if found["steps"] is None else f"{found['steps']} steps on "
    return f" ({steps}{found['data']})"


def _steps(folder: Path) -> int | None:
    """Of the newest checkpoint, with which the model is saved; else of the last event, or of a run's best model."""
    if (newest := latest(inside(folder, "checkpoints"))) is not None:
        return int(newest.name.removeprefix("step-"))
    events = inside(folder, "metrics.jsonl")
    lines = events.read_text(encoding="utf-8").splitlines() if events.is_file() else []
    best = read_json(folder / "best.json").get("step") if (folder / "best.json").is_file() else None
    try:
        return max((int(json.loads(line)["step"]) for line in lines), default=best)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{events}: damaged ({error})") from error


def _of_source(source: str, folder: Path) -> dict[str, Any]:
    """The record of a model of ours that a run began with; empty for others' weights and where it is not here.

    The path is as it was given: from a folder above the run, or from here.
    """
    for start in (*folder.absolute().parents, Path.cwd()):
        place = start / source
        for near in (place, *list(place.parents)[:3]):  # a folder, a file in it, or one of its checkpoints
            if place.exists() and is_ours(near):
                try:
                    return of_folder(near, read_json(near / CONFIG))
                except (UserError, KeyError, TypeError, AttributeError):
                    return {}
    return {}


def _of_weights(source: str) -> list[list[str]]:
    """Of weights that others made; timm knows those of its own."""
    if (known := known_to_timm(source)) is not None and known.license:
        return [[source, known.license, known.license]]
    return [[source, UNKNOWN, ""]]


def _of_data(train: Mapping[str, Any]) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for part in _sources(train):
        name = _described(part)
        known = next((licence for module, licence in OF_DATA.items() if part["target"].startswith(module)), None)
        found[name] = [name, UNKNOWN, ""] if known is None or part["target"] not in SOURCES else list(known)
    return list(found.values())


def _sources(part: Any) -> Iterator[Mapping[str, Any]]:
    """The data sources in a dumped one: those that it is made of, or itself. What mmkit does not know counts as one."""
    inner = [found for value in _values(part["args"]) for found in _sources(value) if _reads(found["target"])]
    yield from inner or [part]


def _values(value: Any) -> Iterator[Mapping[str, Any]]:
    """The parts (partials) within a dumped value."""
    if isinstance(value, Mapping):
        if "target" in value and "args" in value:
            yield value
        else:
            for inner in value.values():
                yield from _values(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner)


def _reads(name: str) -> bool:
    return name in SOURCES or name not in ANYTHING


def _described(part: Mapping[str, Any]) -> str:
    """What is read, a path or a name, and the source that reads it; of what opens any form, what is read alone."""
    arguments = part["args"]
    places = [arguments[name] for name in ("path", "name", "spec", "questions", "expressions") if name in arguments]
    shown = [str(place["path"] if isinstance(place, Mapping) and "path" in place else place) for place in places]
    opened = shown and part["target"].startswith("mmkit.data.sources.open:")
    return " ".join(shown if opened else [part["target"], *shown])
