"""easy-VQA: 5,000 pictures of one coloured shape each, 48,248 questions, 13 answers (PyPI ``easy-vqa``, by V. Zhou).

A real benchmark of the size that two CPU cores can do, with its official training and test split: ``EasyVQA`` for
questions, ``EasyVQAPairs`` for captions. Captions are made from what the questions tell of each picture, and leave
chosen pairs of colour and shape out, so that one can ask for a "teal triangle" that was never shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from PIL import Image

from mmkit.data.images.opening import load_image
from mmkit.data.records import ByNumber, Record
from mmkit.errors import UserError

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
NEGATIONS = frozenset(("no", "not"))
HOLD_OUT = (
    *(("red", "circle"), ("yellow", "circle"), ("green", "rectangle")),
    *(("gray", "rectangle"), ("blue", "triangle"), ("teal", "triangle")),
)
"""A choice of pairs for ``EasyVQAPairs``: a quarter of all, and every colour and shape still occurs without them."""

TEMPLATES = (
    "a {colour} {shape}",
    "there is a {colour} {shape}",
    "the picture shows a {colour} {shape}",
    "a {shape} that is {colour}",
    "the shape is a {shape} and its color is {colour}",
)

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Question:
    """One row of the data set, and the picture it is about."""

    text: str
    answer: str
    picture: int
    path: Path


@cache
def read(split: Split) -> tuple[Question, ...]:
    """All questions of a split, in the order of the package; UserError where the package is missing."""
    if split not in ("train", "test"):
        raise UserError(f"easy-vqa: split={split!r}; there are train and test")
    try:
        import easy_vqa
    except ImportError as error:
        raise UserError('these data are the package easy-vqa; install it: pip install "mmkit[demo]"') from error
    questions, paths = (getattr(easy_vqa, f"get_{split}_{what}")() for what in ("questions", "image_paths"))
    rows = zip(*questions, strict=True)
    return tuple(Question(text, answer, number, Path(paths[number])) for text, answer, number in rows)


@cache
def picture(path: Path) -> Image.Image:
    """Decoded once and kept, all 5,000 in 60 MB: ten questions ask about each picture, in every epoch."""
    return load_image(path)


def answers() -> list[str]:
    """The 13 answers: colours, shapes, yes and no."""
    return [*COLOURS, *SHAPES, "no", "yes"]


def answer_type(answer: str) -> str:
    """Of an answer: "color", "shape" or "yes/no"."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "color" if answer in COLOURS else "shape"


@dataclass(frozen=True, kw_only=True)
class EasyVQA(ByNumber):
    """The questions of a split, one record each; the question is the record's one caption.

    n: so many of them, evenly spread; None = all (38,575 for training, 9,673 for testing). ``targets``: ``question``,
    ``answers`` (one), ``answer_type`` ("color", "shape", "yes/no") and ``question_id`` (its number in the split).
    """

    split: Split = "train"
    n: int | None = None

    def __post_init__(self) -> None:
        whole = len(read(self.split))
        if self.n is not None and not 1 <= self.n <= whole:
            raise UserError(f"easy-vqa: n={self.n}; the split {self.split} has 1 to {whole} questions")

    def __len__(self) -> int:
        return len(read(self.split)) if self.n is None else self.n

    def _at(self, index: int) -> Record:
        number = index * len(read(self.split)) // len(self)
        row = read(self.split)[number]
        kind = answer_type(row.answer)
        targets = {"question": row.text, "answers": [row.answer], "answer_type": kind, "question_id": number}
        return Record(
            image=picture(row.path), captions=(row.text,), image_id=f"easy-vqa:{self.split}/{row.picture}",
            key=f"easy-vqa:{self.split}[{number}]", targets=targets,
        )  # fmt: skip

    def captions(self) -> Iterator[str]:
        """Every question."""
        for index in range(len(self)):
            yield read(self.split)[index * len(read(self.split)) // len(self)].text


@dataclass(frozen=True, kw_only=True)
class EasyVQAPairs(ByNumber):
    """The pictures of a split with captions that tell colour and shape; also the classes for zero-shot.

    Colour and shape come from the questions and their answers; the tenth of the pictures whose questions do not tell
    both is left out. All pictures of one colour and shape have one ``image_id``, since no caption tells them apart.

    hold_out: (colour, shape) pairs that ``part="seen"`` does not show. part: "seen" (for pre-training), "held_out" or
    "all". ``targets``: ``label``, which indexes ``class_names`` (all 24 pairs, whatever the part), ``colour``,
    ``shape``.
    """

    split: Split = "train"
    hold_out: tuple[tuple[str, str], ...] = ()
    part: Literal["seen", "held_out", "all"] = "seen"

    def __post_init__(self) -> None:
        unknown = [pair for pair in self.hold_out if tuple(pair) not in pairs()]
        if unknown:
            raise UserError(
                f"easy-vqa: hold_out has {unknown[0]}; pairs are one of {', '.join(COLOURS)} "
                f"with one of {', '.join(SHAPES)}"
            )
        if self.part not in ("seen", "held_out", "all"):
            raise UserError(f"easy-vqa: part={self.part!r}; there are seen, held_out and all")
        if not self._rows:
            raise UserError(f"easy-vqa: part={self.part!r} is empty with {len(self.hold_out)} pairs in hold_out")

    @property
    def class_names(self) -> list[str]:
        """The names that the labels index: "black circle", "black rectangle", ..."""
        return [f"{colour} {shape}" for colour, shape in pairs()]

    def __len__(self) -> int:
        return len(self._rows)

    def _at(self, index: int) -> Record:
        path, colour, shape = self._rows[index]
        return Record(
            image=picture(path), captions=describe(colour, shape), image_id=f"easy-vqa:{colour} {shape}",
            key=f"easy-vqa:{self.split}/{path.name}",
            targets={"label": pairs().index((colour, shape)), "colour": colour, "shape": shape},
        )  # fmt: skip

    def captions(self) -> Iterator[str]:
        """Every caption."""
        for _, colour, shape in self._rows:
            yield from describe(colour, shape)

    @cached_property
    def _rows(self) -> tuple[tuple[Path, str, str], ...]:
        held = {(colour, shape) for colour, shape in self.hold_out}
        return tuple(
            (path, colour, shape)
            for path, colour, shape in facts(self.split)
            if self.part == "all" or ((colour, shape) in held) == (self.part == "held_out")
        )


def pairs() -> list[tuple[str, str]]:
    """All 24 pairs of a colour and a shape."""
    return [(colour, shape) for colour in COLOURS for shape in SHAPES]


def describe(colour: str, shape: str) -> tuple[str, ...]:
    """The captions of a picture."""
    return tuple(template.format(colour=colour, shape=shape) for template in TEMPLATES)


@cache
def facts(split: Split) -> tuple[tuple[Path, str, str], ...]:
    """(picture, colour, shape) of every picture whose questions tell both, by number."""
    told: dict[int, set[str]] = {}
    paths: dict[int, Path] = {}
    for row in read(split):
        words = row.text.removesuffix("?").split()
        paths[row.picture] = row.path
        known = told.setdefault(row.picture, set())
        # "is there a red shape?" with "yes" tells the colour, and so does "is there no red shape?" with "no".
        if row.answer not in ("yes", "no"):
            known.update((*words, row.answer))
        elif (row.answer == "yes") != bool(NEGATIONS & set(words)):
            known.update(words)
    found = []
    for number in sorted(paths):
        colours, shapes = told[number] & set(COLOURS), told[number] & set(SHAPES)
        if len(colours) == len(shapes) == 1:
            found.append((paths[number], colours.pop(), shapes.pop()))
    return tuple(found)
