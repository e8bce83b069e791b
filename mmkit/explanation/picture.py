"""Heat maps over pictures, as pictures: Pillow alone.

The picture is greyed and brightened where it is seen through a map, so that colours mean heat and nothing else: clear
where there is no evidence, from yellow to dark red where there is the most. A map by itself is drawn relative to its
own strongest place; the words of a figure share one scale, so that a word that hardly matters stays pale.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmkit.explanation.maps import Evidence, HeatMap, Word
from mmkit.fonts import cut
from mmkit.fonts import font as font_for

STOPS = ((255, 247, 160), (254, 204, 92), (253, 141, 60), (227, 26, 28), (128, 0, 38))
"""Colours of the heat from 0 to 1, evenly spaced."""
INK, PALE, GROUND = (28, 32, 38), (105, 112, 122), (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a figure looks. large: the longer side of the two pictures, in pixels; columns: words in a row, at most;
    max_words: further ones are left out, and counted; font: a TrueType file for texts that Pillow's own cannot draw.
    """

    large: int = 400
    columns: int = 4
    max_words: int = 24
    font: str | Path | None = None


def overlay(picture: Image.Image, heat: HeatMap, size: int | None = None, strength: float = 1.0) -> Image.Image:
    """A heat map over its picture: RGB.

    size: of the longer side in pixels; None = as the picture is. strength: of the strongest place, 0 to 1.
    """
    small = picture if size is None else scaled(picture, size)
    values = heat.resized((small.height, small.width)) * strength
    grey = small.convert("L").convert("RGB")
    ground = Image.blend(Image.blend(small, grey, 0.75), Image.new("RGB", small.size, (255, 255, 255)), 0.25)
    opacity = (values.pow(0.7) * 0.85 * 255).round().to(torch.uint8)
    mask = Image.fromarray(opacity.numpy())
    return Image.composite(Image.fromarray(coloured(values).numpy()), ground, mask)


def coloured(values: Tensor) -> Tensor:
    """(h, w) float, 0 to 1 -> (h, w, 3) uint8, along ``STOPS``."""
    stops = torch.tensor(STOPS, dtype=torch.float32)
    place = values.clamp(0, 1) * (len(stops) - 1)
    low = place.floor().clamp(max=len(stops) - 2).long()
    share = (place - low).unsqueeze(-1)
    return (stops[low] * (1 - share) + stops[low + 1] * share).round().to(torch.uint8)


def scaled(picture: Image.Image, size: int) -> Image.Image:
    """The picture with a longer side of ``size`` pixels."""
    share = size / max(picture.size)
    sides = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    return picture.resize(sides, Image.Resampling.LANCZOS)


def figure(explanation: Evidence, style: Style | None = None) -> Image.Image:
    """The text and what was asked; the picture and the sentence's map; a tile for each word.

    The number of a word is its share of the evidence, or the probability with which it was guessed when hidden.
    """
    style = style or Style()
    shown = list(explanation.words[: style.max_words])
    pair = [scaled(explanation.picture, style.large), overlay(explanation.picture, explanation.sentence, style.large)]
    gap, margin = 16, 24
    inner = max(2 * pair[0].width + gap, 420)
    columns = min(style.columns, max(3, -(-len(shown) // -(-len(shown) // style.columns)))) if shown else 1
    tiles = _tiles(explanation, shown, (inner - (columns - 1) * gap) // columns)
    tile_wide, tile_high = tiles[0].size if tiles else (0, 0)
    title, small = font_for(explanation.text, 22, style.font), font_for("", 14, None)
    lines = wrapped(explanation.text, title, inner)
    notes = [(asked_line(explanation), PALE)] + ([(unread_line(explanation), STOPS[3])] if explanation.unseen else [])
    top = margin + 30 * len(lines) + 8 + 20 * len(notes)
    rows = -(-len(tiles) // columns)
    high = top + pair[0].height + 30 + rows * (tile_high + 46) + margin
    canvas = Image.new("RGB", (inner + 2 * margin, high), GROUND)
    pen = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        pen.text((margin, margin + 30 * i - 4), line, INK, title)
    for i, (note, colour) in enumerate(notes):
        pen.text((margin, top - 10 - 20 * (len(notes) - i)), note, colour, font_for(note, 14, style.font))
    for i, (part, label) in enumerate(zip(pair, ("picture", "sentence"), strict=True)):
        left = margin + i * (part.width + gap)
        _framed(canvas, pen, part, (left, top))
        pen.text((left, top + part.height + 5), label, PALE, small)
    scale_of(canvas, pen, (margin + inner, top + pair[0].height + 9), small)
    left_out = len(explanation.words) - len(shown)
    for i, (tile, word) in enumerate(zip(tiles, shown, strict=True)):
        left = margin + (i % columns) * (tile_wide + gap)
        y = top + pair[0].height + 34 + (i // columns) * (tile_high + 46)
        _framed(canvas, pen, tile, (left, y))
        _label(pen, word, (left, y + tile_high + 4), tile_wide, style)
    if left_out:
        pen.text((margin, high - margin), f"and {left_out} more words", PALE, small)
    return canvas


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, wide: int, most: int = 3) -> list[str]:
    """The text in lines that fit ``wide`` pixels, ``most`` at most; a cut text ends in three dots."""
    lines: list[str] = []
    # scripts without spaces are cut anywhere
    for unit in text.split() if " " in text.strip() else list(text.strip()):
        glue = " " if " " in text.strip() else ""
        longer = f"{lines[-1]}{glue}{unit}" if lines else unit
        if lines and font.getlength(longer) <= wide:
            lines[-1] = longer
        elif not lines or font.getlength(unit) <= wide:
            lines.append(unit)
        else:
            lines += textwrap.wrap(unit, max(4, int(len(unit) * wide / font.getlength(unit))))
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " ..."]
    return lines


def asked_line(explanation: Evidence) -> str:
    """What was asked, and where."""
    heads = "mean of the heads" if explanation.head is None else f"head {explanation.head}"
    return f"{explanation.asked}   layer {explanation.layer}, {heads}"


def unread_line(explanation: Evidence) -> str:
    """Where the model stopped reading."""
    start, count = " ".join(explanation.unseen[:4]), len(explanation.unseen)
    if count == 1:
        return f'not read, as it does not fit into the model: the last word, "{start}"'
    dots = " ..." if count > 4 else ""
    return f'not read, as they do not fit into the model: the last {count} words, "{start}{dots}"'


def _framed(canvas: Image.Image, pen: ImageDraw.ImageDraw, part: Image.Image, at: tuple[int, int]) -> None:
    canvas.paste(part, at)
    pen.rectangle((at[0] - 1, at[1] - 1, at[0] + part.width, at[1] + part.height), outline=(214, 218, 224))


def _label(pen: ImageDraw.ImageDraw, word: Word, at: tuple[int, int], wide: int, style: Style) -> None:
    number = word.share if word.probability is None else word.probability
    share = "<1%" if 0 < number < 0.005 else f"{number:.0%}"
    small = font_for(share, 13, None)
    room = wide - small.getlength(share) - 8
    font = font_for(word.text, 17, style.font)
    pen.text(at, cut(word.text, font, room), INK, font)
    pen.text((at[0] + wide - small.getlength(share), at[1] + 4), share, PALE, small)
    y = at[1] + 26
    pen.rectangle((at[0], y, at[0] + wide - 1, y + 3), fill=(232, 235, 239))
    if number > 0:
        pen.rectangle((at[0], y, at[0] + max(0, round(wide * number) - 1), y + 3), fill=STOPS[3])


def scale_of(canvas: Image.Image, pen: ImageDraw.ImageDraw, end: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    """What the colours mean, to the left of ``end``."""
    bar = Image.fromarray(coloured(torch.linspace(0, 1, 72).expand(8, -1)).contiguous().numpy())
    left = end[0] - round(font.getlength("more")) - 6 - bar.width
    canvas.paste(bar, (left, end[1]))
    pen.text((left + bar.width + 6, end[1] - 5), "more", PALE, font)
    pen.text((left - 6 - round(font.getlength("less")), end[1] - 5), "less", PALE, font)


def _tiles(explanation: Evidence, shown: Sequence[Word], wide: int) -> list[Image.Image]:
    """The words' maps over the picture, ``wide`` pixels each."""
    picture = explanation.picture
    size = max(1, round(wide * max(picture.size) / picture.width))
    return [overlay(picture, word.map, size, strength_of(explanation, word)) for word in shown]


def strength_of(explanation: Evidence, word: Word) -> float:
    """How strongly a word's map is drawn, 0 to 1: all on one scale, a root, so that the weak can be seen.

    Words that were guessed one by one differ more, by how sure the model was; so they get the fourth root.
    """
    most = max([float(other.map.raw.max()) for other in explanation.words] + [1e-30])
    power = 0.5 if all(other.probability is None for other in explanation.words) else 0.25
    share: float = (float(word.map.raw.max()) / most) ** power
    return share
