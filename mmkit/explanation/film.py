"""Heat maps over the frames of a clip, as one picture: a column for each frame, a row for the sentence and each word.

The frames of a row share one scale, so that one that hardly matters stays pale; see ``picture`` for the colours.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from mmkit.data.video.strip import strip
from mmkit.explanation.maps import Evidence, HeatMap, Word
from mmkit.explanation.picture import (
    GROUND,
    INK,
    PALE,
    STOPS,
    Style,
    asked_line,
    scale_of,
    scaled,
    strength_of,
    unread_line,
    wrapped,
)
from mmkit.explanation.picture import overlay as over_picture
from mmkit.fonts import cut
from mmkit.fonts import font as font_for

MOST = 8
"""So many frames are drawn; of more, as many spread evenly, and the columns tell which."""
GAP, MARGIN, LABEL = 6, 24, 150


def overlay(frames: Sequence[Image.Image], heat: HeatMap, size: int | None = None) -> Image.Image:
    """The heat map of each frame over it, side by side: RGB. size: of a frame's longer side; None = as it is."""
    return strip(_over(frames, heat, range(len(frames)), size, 1.0))


def figure(explanation: Evidence, style: Style | None = None) -> Image.Image:
    """The text and what was asked; the frames; the sentence's maps; a row for each word, with its number."""
    style = style or Style()
    count, words = len(explanation.frames), explanation.words[: style.max_words]
    columns = range(count) if count <= MOST else [i * (count - 1) // (MOST - 1) for i in range(MOST)]
    side = max(72, min(style.large // 2, 3 * style.large // len(columns)))
    shown = [scaled(explanation.frames[i], side) for i in columns]
    wide, high = shown[0].size
    inner = LABEL + len(columns) * (wide + GAP)
    title = font_for(explanation.text, 22, style.font)
    lines = wrapped(explanation.text, title, inner)
    notes = [(asked_line(explanation), PALE)] + ([(unread_line(explanation), STOPS[3])] if explanation.unseen else [])
    top = MARGIN + 30 * len(lines) + 20 * len(notes) + 30
    canvas = Image.new("RGB", (inner + 2 * MARGIN, top + (len(words) + 2) * (high + GAP) + 26 + MARGIN), GROUND)
    pen = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + 30 * i - 4), line, INK, title)
    for i, (note, colour) in enumerate(notes):
        pen.text((MARGIN, MARGIN + 30 * len(lines) + 20 * i + 2), note, colour, font_for(note, 14, style.font))
    small = font_for("", 13, None)
    for place, i in enumerate(columns):
        pen.text((MARGIN + LABEL + place * (wide + GAP), top - 19), f"frame {explanation.numbers[i]}", PALE, small)
    _row(canvas, shown, top)
    pen.text((MARGIN, top + 4), "clip", PALE, font_for("", 14, None))
    _row(canvas, _over(explanation.frames, explanation.sentence, columns, side, 1.0), top + high + GAP)
    pen.text((MARGIN, top + high + GAP + 4), "sentence", PALE, font_for("", 14, None))
    for i, word in enumerate(words):
        y = top + (i + 2) * (high + GAP)
        _row(canvas, _over(explanation.frames, word.map, columns, side, strength_of(explanation, word)), y)
        _label(pen, word, y, style)
    below = top + (len(words) + 2) * (high + GAP) + 6
    scale_of(canvas, pen, (MARGIN + inner, below), font_for("", 14, None))
    if left_out := len(explanation.words) - len(words):
        pen.text((MARGIN, below - 4), f"and {left_out} more words", PALE, font_for("", 14, None))
    return canvas


def _over(
    frames: Sequence[Image.Image], heat: HeatMap, chosen: Sequence[int], size: int | None, strength: float
) -> list[Image.Image]:  # fmt: skip
    return [over_picture(frames[i], heat.of(i), size, strength * heat.share(i)) for i in chosen]


def _row(canvas: Image.Image, frames: Sequence[Image.Image], y: int) -> None:
    for place, frame in enumerate(frames):
        canvas.paste(frame, (MARGIN + LABEL + place * (frame.width + GAP), y))


def _label(pen: ImageDraw.ImageDraw, word: Word, y: int, style: Style) -> None:
    number = word.share if word.probability is None else word.probability
    font = font_for(word.text, 17, style.font)
    pen.text((MARGIN, y + 2), cut(word.text, font, LABEL - 12), INK, font)
    share = "<1%" if 0 < number < 0.005 else f"{number:.0%}"
    pen.text((MARGIN, y + 26), share, PALE, font_for(share, 13, None))
