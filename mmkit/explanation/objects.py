"""Found objects over their picture: a frame in the class's colour, its name and its score."""

from __future__ import annotations

from PIL import Image

from mmkit.data.show.boxes import Framed, framed
from mmkit.inference.detecting import Found

LEAST = 320
"""Smaller pictures are enlarged until their longer side has so many pixels, for the names to be read."""


def drawn(picture: Image.Image, found: Found) -> Image.Image:
    """RGB, of the picture's own size, or a whole multiple of it where that is small. The best object is drawn last."""
    times = max(1, -(-LEAST // max(picture.size)))
    canvas = picture.convert("RGB").resize((picture.width * times, picture.height * times))
    rows = zip(found.boxes.tolist(), found.labels.tolist(), found.names, found.scores.tolist(), strict=True)
    return framed(canvas, [Framed(box, f"{name} {score:.2f}", label) for box, label, name, score in rows], times)
