"""Small line charts as SVG text. Colours come from the page's style sheet, so that they follow its light or dark mode.

Left out: everything that needs a script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mmkit.report.run_folder import Panel

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34  # room around the plot, for the labels


def line_chart(panel: Panel) -> str:
    """The panel as one SVG element with axes, units, a legend at the lines' ends, and a text for screen readers."""
    points = [p for curve in panel.curves for p in curve.points]
    if not points:
        return ""
    x_ticks = ticks(0, max(max(x for x, _ in points), 1), 4)
    low, high = min(y for _, y in points), max(y for _, y in points)
    y_ticks = ticks(min(0, low), 1 if panel.percent else max(high, low + 1e-6), 4)
    x_end, y_low, y_high = max(x for x, _ in points) or 1, y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / x_end
        return across, TOP + (HEIGHT - TOP - BOTTOM) * (y_high - y) / (y_high - y_low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(describe(panel))}">']
    for y in y_ticks:
        _, at = place(0, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{label(y, panel.percent)}</text>')
    for x in x_ticks:
        if x <= x_end:
            at, _ = place(x, y_low)
            anchor = "end" if at > WIDTH - RIGHT - 10 else "middle"
            parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="{anchor}">{label(x)}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">optimizer steps</text>')
    up = TOP + (HEIGHT - TOP - BOTTOM) / 2
    parts.append(f'<text transform="translate(10 {up}) rotate(-90)" text-anchor="middle">{escape(panel.unit)}</text>')
    solid = [c for c in panel.curves if not c.dashed]
    for curve in sorted(panel.curves, key=lambda c: not c.dashed):
        style = "chance" if curve.dashed else f"line{solid.index(curve)}"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in thinned(curve.points)))
        parts.append(f'<polyline class="{style}" points="{path}"/>')
        if len(curve.points) == 1:
            x, y = place(*curve.points[0])
            parts.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return "".join([*parts, "</svg>"])


def legend(panel: Panel) -> list[tuple[str, str]]:
    """(style class, text with the last value) of each curve."""
    out, solid = [], 0
    for curve in panel.curves:
        last = label(curve.points[-1][1], panel.percent, precise=True)
        out.append(("chance" if curve.dashed else f"line{solid}", f"{curve.name} {last}"))
        solid += not curve.dashed
    return out


def describe(panel: Panel) -> str:
    """The chart in words."""
    ends = ", ".join(
        f"{c.name} from {label(c.points[0][1], panel.percent, precise=True)} to "
        f"{label(c.points[-1][1], panel.percent, precise=True)}"
        for c in panel.curves
    )
    return f"{panel.title}, {panel.unit}: {ends}"


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``, about ``count`` steps."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def label(value: float, percent: bool = False, precise: bool = False) -> str:
    """A number as the axis or the legend shows it."""
    if percent:
        return f"{value:.1%}" if precise else f"{value:.0%}"
    if precise:
        return f"{value:.3f}"
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}" if value != round(value) else f"{value:.0f}"


def thinned(points: Sequence[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    """At most so many points: the means of equal runs of them; the last stays as it is."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most - 1))
    runs = [points[i : i + size] for i in range(0, len(points) - 1, size)]
    return [(sum(x for x, _ in r) / len(r), sum(y for _, y in r) / len(r)) for r in runs] + [points[-1]]
