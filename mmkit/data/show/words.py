"""The words below a picture: tokens joined to words, hidden ones as coloured chips, wrapped to a width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from PIL import ImageDraw, ImageFont

from mmkit import fonts
from mmkit.data.texts.protocol import Tokenizer, is_cjk
from mmkit.types import Batch

INK, FAINT, WHITE, RED, ORANGE = (24, 24, 27), (120, 120, 128), (255, 255, 255), (208, 58, 44), (196, 120, 20)
TEXT_SIZE = 13
LINE = TEXT_SIZE + 7
PAD = 3  # inside a chip
GAP = 14
"""Between two cells of a sheet, and around all."""
LEGEND = (
    ("plain", "what the model reads"), ("mask", "word behind [MASK]"), ("random", "other word (and what stood there)"),
    ("kept", "unchanged, to be told"),
)  # fmt: skip


class Chip(NamedTuple):
    """A run of characters of one kind ("plain", "mask", "random", "kept"); ``space``: whether one comes before it."""

    text: str
    kind: str
    space: bool

    @property
    def width(self) -> float:
        """In pixels, without the space."""
        return float(font(self.text).getlength(self.text)) + (0 if self.kind == "plain" else 2 * PAD + 1)


Line = list[tuple[float, Chip]]


def in_rows(sizes: Sequence[tuple[int, int]], columns: int | None) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(left, top) of cells of these sizes, (width, height), in rows, and the size of the whole sheet."""
    columns = columns or min(len(sizes), max(1, round((1.6 * len(sizes)) ** 0.5)))
    width = max(width for width, _ in sizes) + GAP
    heights = [max(high for _, high in sizes[at : at + columns]) for at in range(0, len(sizes), columns)]
    tops = list(accumulate((height + GAP for height in heights), initial=GAP))
    places = [(GAP + i % columns * width, tops[i // columns]) for i in range(len(sizes))]
    return places, (columns * width + GAP, tops[-1])


def chips(batch: Batch, row: int, tokenizer: Tokenizer | None) -> list[Chip]:
    """The caption of one sample, if it has one, neighbouring pieces of one kind in one word joined."""
    if tokenizer is None or batch.ids is None or batch.mask is None:
        return []
    ids = batch.ids[row][batch.mask[row]].tolist()
    found: list[Chip] = []
    space = False
    starts = tokenizer.starts_word(ids)
    for token, start, piece, (kind, other) in zip(
        ids, starts, tokenizer.pieces(ids), _kinds(batch, row, ids, tokenizer), strict=True
    ):
        if token in (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id):
            continue
        text = piece.removeprefix("##").replace("▁", "").replace("Ġ", "").replace("</w>", "")
        space = space or start
        if not text and kind in ("plain", "kept"):
            continue
        spaced = space and bool(found) and not (is_cjk(text[:1] or "a") or text in "，。、；,.;:!?")
        shown = (f"{other} ({text})" if text else other) if kind == "random" else text
        if found and not space and kind == found[-1].kind and kind != "random":
            found[-1] = found[-1]._replace(text=found[-1].text + shown)
        else:
            found.append(Chip(shown, kind, spaced))
        space = not text  # a piece that is a space alone
    return found


def wrap(words: list[Chip], width: int) -> list[Line]:
    """Lines of (x, chip)."""
    lines: list[Line] = [[]]
    x = 0.0
    for word in _groups(words):
        length = sum(chip.width for chip in word)
        gap = 4 if word[0].space else 0
        if x + gap + length > width and lines[-1]:
            lines.append([])
            x, gap = 0.0, 0
        x += gap
        for chip in word:
            lines[-1].append((x, chip))
            x += chip.width
    return lines


def write(pen: ImageDraw.ImageDraw, lines: list[Line], left: float, top: float) -> None:
    """Draw wrapped lines."""
    for number, line in enumerate(lines):
        for x, chip in line:
            at, y = left + x, top + number * LINE
            if chip.kind == "plain":
                pen.text((at, y), chip.text, fill=INK, font=font(chip.text))
                continue
            colour = ORANGE if chip.kind == "random" else RED
            fill = None if chip.kind == "kept" else colour
            box = (at, y - 1, at + chip.width - 1, y + TEXT_SIZE + 3)
            pen.rounded_rectangle(box, radius=3, fill=fill, outline=colour)
            pen.text((at + PAD, y), chip.text, fill=WHITE if fill else colour, font=font(chip.text))


def legend() -> list[Chip]:
    """What the chips mean."""
    return [Chip(text, kind, True) for kind, text in LEGEND]


def _groups(words: list[Chip]) -> Iterator[list[Chip]]:
    # Chips without a space between them stay on one line, but Chinese may break anywhere.
    group: list[Chip] = []
    for chip in words:
        for part in [chip] if chip.kind != "plain" or not is_cjk(chip.text[:1]) else _characters(chip):
            if group and (part.space or is_cjk(part.text[:1]) or is_cjk(group[-1].text[-1:])):
                yield group
                group = []
            group.append(part)
    if group:
        yield group


def _characters(chip: Chip) -> list[Chip]:
    return [Chip(char, chip.kind, chip.space and i == 0) for i, char in enumerate(chip.text)]


def _kinds(batch: Batch, row: int, ids: list[int], tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """For each token (kind, the piece that stands there instead)."""
    masked = batch.masked
    if masked is None:
        return [("plain", "")] * len(ids)
    most = masked.positions.shape[1]
    hidden = {int(masked.positions[row, i % most]) for i in masked.index.tolist() if i // most == row}
    shown = masked.ids[row].tolist()
    kinds = []
    for position, token in enumerate(ids):
        now = shown[position]
        kind = "mask" if now == tokenizer.mask_id else "kept" if now == token else "random"
        other = tokenizer.pieces([now])[0].replace("▁", "") or "space"
        kinds.append((kind, other) if position in hidden else ("plain", ""))
    return kinds


def font(text: str) -> ImageFont.FreeTypeFont:
    """A font of the sheets' size that has the characters."""
    return fonts.font(text, TEXT_SIZE)
