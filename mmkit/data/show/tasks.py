"""A sheet of questions, statements or hypotheses as they are in the data, each under its picture, with the answer.

For ``mmkit data show``, where records have answers or labels: here one looks whether the answers are right, so the
pictures are shown as they are in the data, not as a training step changes them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from random import Random

from PIL import Image, ImageDraw

from mmkit.data.clip import Clip
from mmkit.data.images.opening import load_image
from mmkit.data.labels import Label, own_names
from mmkit.data.records import Record, Source
from mmkit.data.show.words import FAINT, INK, LINE, RED, WHITE, font, in_rows
from mmkit.data.video.strip import FRAMES, shown

SIDE = 220


def has_task(record: Record) -> bool:
    """Whether the record's text is asked or judged, not a caption; or there is neither a text nor a box."""
    kinds = record.targets.keys()
    return (
        not (record.captions or "boxes" in kinds) or bool({"question", "second"} & kinds) or {"label", "kind"} <= kinds
    )


def task_grid(source: Source, *, n: int = 16, seed: int = 0, columns: int | None = None) -> Image.Image:
    """``n`` records, drawn by ``seed``, in rows: pictures, text, and what is right."""
    records = [source[i] for i in Random(seed).sample(range(len(source)), min(n, len(source)))]
    return sheet(records, own_names(source), columns)


def sheet(records: Sequence[Record], names: list[Label] | None = None, columns: int | None = None) -> Image.Image:
    """Records in rows: pictures or some frames of each clip, text, and what is right. BadImage names what is broken."""
    cells = [_cell(record, names) for record in records]
    places, whole = in_rows([cell.size for cell in cells], columns)
    canvas = Image.new("RGB", whole, WHITE)
    for cell, place in zip(cells, places, strict=True):
        canvas.paste(cell, place)
    return canvas


def right_answer(record: Record, names: list[Label] | None = None) -> str:
    """The answers with their number of annotators, or the label's name; empty where the record does not tell."""
    if "label" in record.targets:
        label = record.targets["label"]
        return str(names[label]) if names is not None and isinstance(label, int) else str(label)
    answers = record.targets.get("answers", ())
    distinct = list(dict.fromkeys(answers))
    if len(distinct) == 1:
        return str(distinct[0])
    return ", ".join(f"{answer} x{answers.count(answer)}" for answer in distinct)


def _cell(record: Record, names: list[Label] | None) -> Image.Image:
    pictures, wide = [shown(record)], FRAMES - 1 if isinstance(record.image, Clip) else 1
    if "second" in record.targets:
        pictures.append(load_image(record.targets["second"]))
    side = SIDE * wide
    pictures = [picture.resize((side, round(picture.height * side / picture.width))) for picture in pictures]
    width = side * len(pictures) + (len(pictures) - 1) * 4
    text = [(line, INK) for line in _lines(" / ".join(record.captions), width)]
    text += [(line, RED) for line in _lines(right_answer(record, names), width)]
    height = max(picture.height for picture in pictures)
    cell = Image.new("RGB", (width, height + 6 + LINE * len(text)), WHITE)
    pen = ImageDraw.Draw(cell)
    for i, picture in enumerate(pictures):
        cell.paste(picture, (i * (side + 4), 0))
        pen.rectangle((i * (side + 4), 0, i * (side + 4) + side - 1, picture.height - 1), outline=FAINT)
    for i, (line, colour) in enumerate(text):
        pen.text((0, height + 6 + i * LINE), line, colour, font=font(line))
    return cell


def _lines(text: str, width: int) -> list[str]:
    """Wrapped by the average width of its letters; texts without spaces are cut."""
    if not text:
        return []
    letter = float(font(text).getlength(text)) / len(text)
    return textwrap.wrap(text, max(8, int(width / letter * 0.95)))
