"""Boxes over their picture: a frame in the colour of the class, with its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from mmkit.data.objects import Objects
from mmkit.data.texts.mirror import swap_left_right
from mmkit.fonts import font

COLOURS = (
    (214, 39, 40), (31, 119, 180), (44, 160, 44), (255, 127, 14), (148, 103, 189), (23, 150, 160), (227, 60, 180),
    (120, 86, 75),
)  # fmt: skip


class Framed(NamedTuple):
    """A box, left, top, right, bottom in pixels; what is said of it; the number that gives its colour."""

    box: Sequence[float]
    said: str
    colour: int
    crowd: bool = False


def framed(picture: Image.Image, boxes: Sequence[Framed], times: float = 1.0) -> Image.Image:
    """An RGB picture with its boxes, the first of them on top. times: it is so many times as large as they say.

    Of a crowd the frame is double.
    """
    canvas = picture.convert("RGB").copy()
    pen = ImageDraw.Draw(canvas)
    height = max(11, round(max(canvas.size) / 40))
    for one in reversed(boxes):
        colour = COLOURS[one.colour % len(COLOURS)]
        left, top, right, bottom = (side * times for side in one.box)
        right, bottom = max(left, right - 1), max(top, bottom - 1)
        wide = max(1, height // 6)
        pen.rectangle((left, top, right, bottom), outline=colour, width=wide)
        inner = 2 * wide + 1
        if one.crowd and min(right - left, bottom - top) > 2 * inner:
            pen.rectangle((left + inner, top + inner, right - inner, bottom - inner), outline=colour, width=wide)
        if one.said:
            letters = font(one.said, height)
            length = letters.getlength(one.said) + 4
            at = min(left, max(0, canvas.width - length)), top - height - 3 if top > height + 3 else top
            pen.rectangle((*at, at[0] + length, at[1] + height + 3), fill=colour)
            pen.text((at[0] + 2, at[1]), one.said, fill=(255, 255, 255), font=letters)
    return canvas


class Named(Objects):
    """Boxes of the view with what the records call them, whatever the classes; the batch gets ``box_names``, a list."""

    def encode(self, targets: Any, rng: Any) -> Any:
        """As ``Objects``, with the names."""
        found = super().encode(targets, rng)
        names = [targets["view"].words(name) for name in _names(targets)]
        return {**found, "names": [name for name, stays in zip(names, found["stays"], strict=True) if stays]}

    def upright(self, targets: Any) -> bool:
        """Whether a name could not be true of a mirrored picture."""
        return any(swap_left_right(name) is None for name in _names(targets))

    def collate(self, encoded: Any) -> dict[str, Any]:
        """As ``Objects``, with the names."""
        return super().collate(encoded) | {"box_names": [name for one in encoded for name in one["names"]]}


def _names(targets: Any) -> list[str]:
    """What the record calls its boxes; "" where it does not."""
    given, labels = list(targets["boxes"]), targets.get("labels")
    if given and not isinstance(given[0], dict):
        return ["" if labels is None else str(label) for label in (labels if labels is not None else given)]
    found = (one["name"] if one.get("name") is not None else one.get("label") for one in given)
    return ["" if name is None else str(name) for name in found]


def frames_of(targets: Any, row: int, classes: Sequence[str] = ()) -> list[Framed]:
    """Those of one picture of a batch that has ``boxes`` as ``Objects`` makes them."""
    if "box_of" not in targets:
        return []
    own = (targets["box_of"] == row).nonzero().flatten().tolist()
    names, labels = targets.get("box_names"), targets["labels"].tolist()
    called = list(dict.fromkeys(names)) if names is not None else []
    return [
        Framed(
            targets["boxes"][i].tolist(),
            names[i] if names is not None else classes[labels[i]] if classes else "",
            called.index(names[i]) if names is not None else labels[i], bool(targets["crowd"][i]),
        )
        for i in own
    ]  # fmt: skip
