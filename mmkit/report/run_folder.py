"""What a run's folder says: its events, its curves with their chance levels, its last results, its facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkit.errors import UserError
from mmkit.files import read_json


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values at optimizer steps. dashed: a level to compare with, not a measurement."""

    name: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small chart. unit: of the values, for the axis. percent: values are shares of 1."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    percent: bool = False


def read_events(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; UserError names the line that is damaged."""
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: missing; a report is made of a run's folder")
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            events.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: damaged line ({error}); remove it") from error
    return events


def panels(events: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> list[Panel]:
    """A panel for each loss and each accuracy, with its chance level, and one for the retrieval rates over the run."""
    train = [e for e in events if e["event"] == "train"]
    names = dict.fromkeys(key for event in train for key in event)

    def panel(title: str, unit: str, key: str, chance: str, percent: bool = False) -> Panel:
        curves = (curve(train, key, "measured"), curve(train, chance, "chance", dashed=True))
        return Panel(title=title, unit=unit, curves=_some(curves), percent=percent)

    losses = [key.removeprefix("losses.") for key in names if key.startswith("losses.")]
    rates = [key.removesuffix(".accuracy") for key in names if key.endswith(".accuracy")]
    out = [panel(titles.get(head, head), "loss (nats)", f"losses.{head}", f"{head}.chance") for head in losses]
    for head in rates:
        title = f"{titles.get(head, head)}: accuracy"
        out.append(panel(title, "share right", f"{head}.accuracy", f"{head}.chance_accuracy", percent=True))
    return out + _evaluations([e for e in events if e["event"] == "eval"], titles)


def curve(events: Sequence[Mapping[str, Any]], key: str, name: str, dashed: bool = False) -> Curve:
    """The values of a key where there are any."""
    points = [(float(e["step"]), float(e[key])) for e in events if isinstance(e.get(key), int | float)]
    return Curve(name=name, points=tuple(points), dashed=dashed)


def _evaluations(events: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> list[Panel]:
    if len({e["step"] for e in events}) < 2:
        return []
    out = []
    for name in groups(events[-1]):
        pairs = (
            ("t2i_r1", "text to image"), ("rerank.t2i_r1", "re-ranked"), ("chance_r1", "chance"),
            ("top1", "top-1"), ("rerank.top1", "re-ranked"), ("chance", "chance"), ("ap", "AP"), ("ap50", "AP50"),
            ("chance_ap", "chance"),
        )  # fmt: skip
        curves = [curve(events, f"{name}.{key}", label, dashed=label == "chance") for key, label in pairs]
        kinds = {"t2i_r1": "R@1", "ap": "average precision"}
        kind = next((said for key, said in kinds.items() if f"{name}.{key}" in events[-1]), "top-1")
        out.append(
            Panel(title=f"{titles.get(name, name)}: {kind}", unit="share right", curves=_some(curves), percent=True)
        )
    return out


def groups(
    metrics: Mapping[str, Any], rates: Sequence[str] = ("t2i_r1", "top1", "chance_ap")
) -> dict[str, dict[str, float]]:
    """``{"retrieval.t2i_r1": x, ...}`` as ``{"retrieval": {"t2i_r1": x}}``, those with one of the ``rates``."""
    out: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        name, _, metric = key.partition(".")
        if metric and isinstance(value, int | float):
            out.setdefault(name, {})[metric] = value
    return {name: found for name, found in out.items() if any(rate in found for rate in rates)}


def last_metrics(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The newest evaluation."""
    found = [e for e in events if e["event"] == "eval"]
    return {k: v for k, v in found[-1].items() if isinstance(v, int | float)} if found else {}


def facts(folder: str | Path, events: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What was run, on what data, how large, how long, with which versions: (name, text)."""
    folder = Path(folder)
    out: list[tuple[str, str]] = []
    plan: Mapping[str, Any] = next((e for e in reversed(events) if e["event"] == "plan"), {})
    if plan:
        batch, steps = plan["batch"], plan["steps"] or events[-1]["step"]  # by the clock nobody knew before
        parts = {name: own for name, (own, _) in plan["parameters"].items() if own}
        out += [
            ("steps", f"{steps:,} of {batch['global_batch']} samples, {batch['world']} process(es)"),
            ("records", f"{plan['records']:,}"),
            ("trainable parameters", f"{sum(parts.values()):,} ({', '.join(f'{n} {v:,}' for n, v in parts.items())})"),
            ("device", f"{plan['device']}, precision {plan['precision']}, {plan['threads']} thread(s)"),
        ]
    last = [e for e in events if e["event"] == "train"][-1:]
    if len(events) > 1:
        out.append(("time", _clock(events[-1]["time"] - events[0]["time"])))
    for key, name, unit in (("samples_per_second", "speed", "samples a second"), ("peak_rss_gib", "memory", "GiB")):
        if last and key in last[0]:
            out.append((name, f"{last[0][key]:.3g} {unit}"))
    for key, value in _json(folder / "data.json").items():
        if key != "records":
            out.append((key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)))
    if (command := folder / "command.txt").is_file():
        out.append(("command", command.read_text(encoding="utf-8").splitlines()[-1]))
    if versions := _json(folder / "versions.json"):
        out.append(("versions", ", ".join(f"{name} {value}" for name, value in versions.items())))
    return out


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, "remove it") if path.is_file() else {}


def _some(curves: Sequence[Curve]) -> tuple[Curve, ...]:
    return tuple(c for c in curves if c.points)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
