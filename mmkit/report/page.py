"""The page itself: everything that was collected, through one template, into one file without scripts or network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from mmkit.evals.zeroshot import ZeroShotResult
from mmkit.files import write_text
from mmkit.report import chart, run_folder
from mmkit.report.collect import Boxed, Classified, Examples

THUMBNAIL = 192
"""The longer side of a picture on the page, at most, in pixels."""

MEANING = {
    "R@k": "the share of queries for which one of the first k answers is right",
    "joint space": "pictures and texts are encoded apart and compared by the cosine of their embeddings",
    "re-ranked": "the best candidates of the joint space, put in order by the head that reads both together",
    "chance": "what a random order would reach on the same pictures",
}


@dataclass(frozen=True, kw_only=True)
class ZeroShotSection:
    """One zero-shot classification on the page."""

    title: str
    result: ZeroShotResult
    shown: Sequence[Classified]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table of results; values are shares of 1. bar: the value that is drawn, against chance."""

    title: str
    measure: str
    value: float
    chance: float
    rerank: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a report shows; every part may be empty. titles: what to call evaluations and heads, by their names.

    shown: "pictures" or "clips".
    """

    name: str
    titles: Mapping[str, str] = field(default_factory=dict)
    examples: Examples | None = None
    zeroshot: Sequence[ZeroShotSection] = ()
    objects: Sequence[Boxed] = ()
    attribution: str = ""
    shown: str = "pictures"


def write_report(folder: str | Path, page: Page, metrics: Mapping[str, float] | None = None) -> Path:
    """``folder/report.html`` from the run's folder and what was collected. Returns its path.

    metrics: results by dotted name ("retrieval.t2i_r1"); default the run's last evaluation. UserError where the
    folder is no run's, or cannot be written.
    """
    folder = Path(folder)
    events = run_folder.read_events(folder)
    last = run_folder.last_metrics(events) | dict(metrics or {})
    curves = run_folder.panels(events, page.titles)
    text = environment().get_template("report.html.j2").render(
        page=page, rows=result_rows(last, page.titles, page.shown), facts=run_folder.facts(folder, events),
        meaning=MEANING, charts=[(panel, Markup(chart.line_chart(panel)), chart.legend(panel)) for panel in curves],
    )  # fmt: skip
    path = folder / "report.html"
    write_text(path, text)
    return path


def environment() -> Environment:
    """Templates of this package; everything is escaped, and a missing value is an error."""
    made = Environment(
        loader=PackageLoader("mmkit.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"data_uri": data_uri, "percent": percent}
    return made


def result_rows(metrics: Mapping[str, float], titles: Mapping[str, str], shown: str = "pictures") -> list[Row]:
    """The headline of each evaluation: R@1 both ways, top-1, or the average precision of boxes. shown: or "clips"."""
    rows = []
    for name, found in run_folder.groups(metrics).items():
        if "chance_ap" in found:
            note = (
                f"{found['n']:.0f} pictures, {found['boxes']:.0f} boxes; at an overlap of 0.5 {percent(found['ap50'])}"
            )
            rates = {"average precision": ("ap", found["chance_ap"])}
        elif "t2i_r1" in found:
            note = f"{found['texts']:.0f} texts, {found['images']:.0f} {shown}"
            chance = found["chance_r1"]
            rates = {
                "R@1, text to image": ("t2i_r1", chance),
                "R@1, image to text": ("i2t_r1", found.get("chance_i2t_r1", chance)),
            }
        else:
            note = f"{found['n']:.0f} {shown}, {found['classes']:.0f} classes"
            if "interval_low" in found:
                note += f"; 95 % interval {percent(found['interval_low'])} to {percent(found['interval_high'])}"
            rates = {"top\u20111": ("top1", found["chance"])}
        for measure, (key, chance) in rates.items():
            value, again = found[key], found.get(f"rerank.{key}")
            harm = "; re-ranking lowers it" if again is not None and again < value else ""
            title = titles.get(name, name)
            rows.append(Row(title=title, measure=measure, value=value, chance=chance, rerank=again, note=note + harm))
    return rows


def percent(value: float) -> str:
    """A share of 1 as people read it."""
    return f"{value:.1%}".replace("%", "\u202f%")


def data_uri(image: Image.Image) -> str:
    """The picture inside the page, at most ``THUMBNAIL`` wide and high."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
