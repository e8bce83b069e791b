"""Found objects over their picture: a frame in the class's colour, its name and its score."""

from __future__ import annotations

from PIL import Image, ImageDraw

from mmkit.fonts import font
from mmkit.inference.detecting import Found

COLOURS = (
    (214, 39, 40), (31, 119, 180), (44, 160, 44), (255, 127, 14), (148, 103, 189), (23, 150, 160), (227, 60, 180),
    (120, 86, 75),
)  # fmt: skip
LEAST = 320
"""Smaller pictures are enlarged until their longer side has so many pixels, for the names to be read."""


def drawn(picture: Image.Image, found: Found) -> Image.Image:
    """RGB, of the picture's own size, or a whole multiple of it where that is small. The best object is drawn last."""
    times = max(1, -(-LEAST // max(picture.size)))
    canvas = picture.convert("RGB").resize((picture.width * times, picture.height * times))
    pen = ImageDraw.Draw(canvas)
    height = max(11, round(max(canvas.size) / 40))
    rows = list(zip(found.boxes.tolist(), found.labels.tolist(), found.names, found.scores.tolist(), strict=True))
    for box, label, name, score in reversed(rows):
        colour = COLOURS[label % len(COLOURS)]
        left, top, right, bottom = (side * times for side in box)
        right, bottom = max(left, right - 1), max(top, bottom - 1)
        pen.rectangle((left, top, right, bottom), outline=colour, width=max(1, height // 6))
        said = f"{name} {score:.2f}"
        letters = font(said, height)
        wide = letters.getlength(said) + 4
        at = min(left, max(0, canvas.width - wide)), top - height - 3 if top > height + 3 else top
        pen.rectangle((*at, at[0] + wide, at[1] + height + 3), fill=colour)
        pen.text((at[0] + 2, at[1]), said, fill=(255, 255, 255), font=letters)
    return canvas
