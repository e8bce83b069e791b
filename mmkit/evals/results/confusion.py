"""The confusion of a classification as a small picture: a heat map with names, and the pairs most often confused.

Of many classes it shows those that are confused most, up to ``MOST``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mmkit.data.show.words import font
from mmkit.files import save_picture
from mmkit.fonts import cut

MOST = 20
PAIRS = 10
CELL, LINE, GAP, NAME = 30, 22, 18, 150
INK, FAINT, GRID, WHITE = (24, 24, 27), (120, 120, 128), (225, 225, 230), (255, 255, 255)
RIGHT, WRONG = (38, 110, 80), (190, 50, 40)


def confused_pairs(matrix: Tensor) -> list[tuple[int, int, int]]:
    """(class, taken for, how often) of every mistake in (C, C) int64, the most frequent first; of equals by class."""
    wrong = matrix - matrix.diag().diag()
    found = [(i, j, int(wrong[i, j])) for i, j in wrong.nonzero().tolist()]
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def shown_classes(matrix: Tensor, most: int = MOST) -> list[int]:
    """Which classes the picture shows, ascending: all, or those of the most confused pairs, then the first ones."""
    if len(matrix) <= most:
        return list(range(len(matrix)))
    chosen: dict[int, None] = {}
    for i, j, _ in confused_pairs(matrix):
        if len(chosen.keys() | {i, j}) <= most:
            chosen |= {i: None, j: None}
    filled = matrix.sum(1).nonzero()[:, 0].tolist()
    return sorted([*chosen, *(i for i in filled if i not in chosen)][:most])


def draw_confusion(names: Sequence[str], matrix: Tensor, by: str = "", what: str = "pictures") -> Image.Image:
    """The picture. matrix: (C, C) int64, how many pictures of the row's class were taken for the column's.

    by: what took them for that; what: what they are; for the title.
    """
    shown = shown_classes(matrix)
    pairs = confused_pairs(matrix)[:PAIRS]
    side = CELL * len(shown)
    left, top = NAME + GAP, 2 * LINE + NAME
    width = left + side + 2 * GAP + 380
    image = Image.new("RGB", (width, max(top + side, top + LINE * (PAIRS + 2)) + GAP), WHITE)
    pen = ImageDraw.Draw(image)
    total, right = int(matrix.sum()), int(matrix.diag().sum())
    title = f"{by}{': ' if by else ''}{right} of {total} {what} right"
    if len(shown) < len(names):
        title += f"; {len(shown)} of {len(names)} classes, those confused most"
    pen.text((GAP, 8), title, fill=INK, font=font(title))
    pen.text((GAP, top - LINE), "row: what it is", fill=FAINT, font=font(""))
    pen.text((GAP, 8 + LINE), "column: what it was taken for", fill=FAINT, font=font(""))
    _names(image, pen, [names[i] for i in shown], left, top)
    _cells(pen, matrix, shown, left, top)
    _pairs(pen, names, matrix, pairs, shown, (left, top), left + side + 2 * GAP)
    return image


def save_confusion(
    path: Path, names: Sequence[str], matrix: Tensor, by: str = "", what: str = "pictures"
) -> None:  # fmt: skip
    """Draw it into a file; UserError where it cannot be written."""
    save_picture(draw_confusion(names, matrix, by, what), path)


def _names(image: Image.Image, pen: ImageDraw.ImageDraw, names: Sequence[str], left: int, top: int) -> None:
    for number, name in enumerate(names):
        text = cut(name, font(name), NAME - 8)
        at = CELL * number + CELL // 2
        pen.text((left - 8, top + at), text, fill=INK, font=font(text), anchor="rm")
        label = Image.new("RGB", (NAME, LINE), WHITE)
        ImageDraw.Draw(label).text((4, LINE // 2), text, fill=INK, font=font(text), anchor="lm")
        image.paste(label.rotate(90, expand=True), (left + at - LINE // 2, top - NAME))


def _cells(pen: ImageDraw.ImageDraw, matrix: Tensor, shown: Sequence[int], left: int, top: int) -> None:
    part = matrix[torch.tensor(shown)][:, torch.tensor(shown)]
    share = part / matrix.sum(1)[torch.tensor(shown)].clamp(min=1)[:, None]
    for row in range(len(shown)):
        for column in range(len(shown)):
            x, y, value = left + CELL * column, top + CELL * row, float(share[row, column])
            fill = _mixed(RIGHT if row == column else WRONG, value)
            pen.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=fill, outline=GRID)
            if part[row, column]:
                text = str(int(part[row, column]))
                ink = WHITE if value > 0.5 else INK
                pen.text((x + CELL / 2, y + CELL / 2), text, fill=ink, font=font(text), anchor="mm")


def _pairs(
    pen: ImageDraw.ImageDraw, names: Sequence[str], matrix: Tensor, pairs: Sequence[tuple[int, int, int]],
    shown: Sequence[int], corner: tuple[int, int], x: int,
) -> None:  # fmt: skip
    """The list, and a frame around each pair's cell."""
    left, y = corner
    place = {number: i for i, number in enumerate(shown)}
    head = "confused most" if pairs else "nothing was confused"
    pen.text((x, y), head, fill=FAINT, font=font(head))
    for i, j, times in pairs:
        y += LINE
        share = f"{times} of {int(matrix[i].sum())}"
        pen.text((x, y), share, fill=WRONG, font=font(share))
        text = f"{names[i]} taken for {names[j]}"
        text = cut(text, font(text), 290)
        pen.text((x + 84, y), text, fill=INK, font=font(text))
        if i in place and j in place:
            cell = left + CELL * place[j], corner[1] + CELL * place[i]
            pen.rectangle((*cell, cell[0] + CELL - 1, cell[1] + CELL - 1), outline=INK, width=2)


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    strength = 0 if share == 0 else 0.12 + 0.88 * min(1.0, share)
    red, green, blue = (round(255 + (c - 255) * strength) for c in colour)
    return red, green, blue
