"""NLVR2's published files (Suhr et al. 2019, https://lil.nlp.cornell.edu/nlvr/), and the second picture of a pair.

``train.json``, ``dev.json``, ``test1.json``: one JSON object per line with ``sentence``, ``label`` ("True" or "False")
and ``identifier`` (split-set-pair-sentence). The pictures are named by the first three parts of it, as in
``dev-850-0-img0.png`` (left) and ``-img1.png`` (right). Left out: fetching the pictures, for which the authors' form is
needed, and the consistency score.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch

from mmkit.data.images.opening import load_image
from mmkit.data.loader import Transform
from mmkit.data.problems import Problems
from mmkit.data.records import Record, rows_of
from mmkit.data.targets import Given
from mmkit.data.texts.cleaning import clean_caption
from mmkit.errors import UserError

log = logging.getLogger(__name__)

KEYS = ("sentence", "label", "identifier")
UNKNOWN = -1  # the label of a pair in a test split
LABELS = {"False": 0, "false": 0, False: 0, "True": 1, "true": 1, True: 1}
FOLDERS = ("{split}/{directory}", "images/{split}/{directory}", "{directory}", "{split}", "images/{split}", "")


class _Pair(NamedTuple):
    sentence: str
    label: int | None
    identifier: str
    left: Path
    line: int


class NLVR2:
    """Statements about two pictures; ``targets``: ``label`` (1 = true) and ``second``, the right picture.

    Args:
        path: a published file, UTF-8.
        images: the folder of pictures, default that of the file; below it they lie as published (``dev/``,
            ``images/train/17/``) or all together.
        labelled: False for a test split whose labels are not given; its records have none.
        words: sentences are cleaned as ALBEF does and cut to so many words; None = left as they are.

    Raises:
        UserError: for lines that cannot be used and pictures that are missing, with file and line.
    """

    def __init__(
        self, path: str | Path, *, images: str | Path | None = None, words: int | None = 30, labelled: bool = True
    ) -> None:
        self.path = Path(path)
        self.labelled = labelled
        self.images = Path(images) if images is not None else self.path.parent
        self.words = words
        self._pattern = FOLDERS[0]
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; NLVR2's are train.json, dev.json, test1.json")
        problems = Problems(self.path)
        needs = KEYS if labelled else [key for key in KEYS if key != "label"]
        pairs = [self._pair(number, row, problems) for number, row in rows_of(self.path, needs, problems)]
        problems.raise_if_any()
        self.pairs = [pair for pair in pairs if pair is not None]
        if not self.pairs:
            raise UserError(f"{self.path}: the file is empty")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Record:
        pair = self.pairs[index]
        return Record(
            image=pair.left,
            captions=(pair.sentence,),
            image_id=pair.left.name,
            key=f"{self.path}:{pair.line}",
            targets={
                **({} if pair.label is None else {"label": pair.label}),
                "identifier": pair.identifier,
                "second": right_of(pair.left),
            },
        )

    def captions(self) -> Iterator[str]:
        """Every sentence, without opening pictures."""
        return (pair.sentence for pair in self.pairs)

    def _pair(self, number: int, row: Mapping[str, Any], problems: Problems) -> _Pair | None:
        sentence, identifier = row["sentence"], row["identifier"]
        label = row["label"] if self.labelled else None
        if not isinstance(sentence, str) or not sentence.strip():
            problems.add(number, "no sentence", '"sentence" must be some words')
            return None
        if self.labelled and label not in LABELS:
            problems.add(number, "bad label", f'"label" must be "True" or "False", not {json.dumps(label)[:80]}')
            return None
        parts = identifier.split("-") if isinstance(identifier, str) else []
        if len(parts) != 4:
            problems.add(number, "bad identifier", f'"identifier" must be like "dev-850-0-1", not {identifier!r}')
            return None
        left = self._folder(parts, row) / f"{'-'.join(parts[:3])}-img0.png"
        for picture in (left, right_of(left)):
            if not picture.is_file():
                problems.add(number, "missing picture", f"no picture {picture}")
                return None
        text = clean_caption(sentence, self.words) if self.words else sentence
        return _Pair(text, LABELS[label] if self.labelled else None, identifier, left, number)

    def _folder(self, parts: Sequence[str], row: Mapping[str, Any]) -> Path:
        """Where a row's pictures are; looked for first where those of the row before were."""
        names = {"split": parts[0], "directory": str(row["directory"]) if "directory" in row else "."}
        for pattern in (self._pattern, *FOLDERS):
            folder = self.images / pattern.format(**names)
            if (folder / f"{'-'.join(parts[:3])}-img0.png").is_file():
                self._pattern = pattern
                return folder
        return self.images / self._pattern.format(**names)


def right_of(left: Path) -> Path:
    """The right picture of a pair by the left one."""
    return left.with_name(left.name.replace("-img0.", "-img1."))


class PairTargets:
    """``label`` as it is, (B,) int64, -1 for none; ``second`` through the run's transform, (B, 3, h, w) float32.

    The two pictures are cropped and distorted apart from one another. A transform that mirrors is a UserError: "left"
    and "right" in these sentences often mean the picture, not a place in it.
    """

    def __init__(self, given: Given) -> None:
        transform = given.transform
        if getattr(transform, "flip", 0.0):
            raise UserError("pairs of pictures are not mirrored, as sentences tell left from right: transform flip=0.0")
        self.transform: Transform = transform

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """One record's."""
        pixels, _ = self.transform(load_image(targets["second"]), "", rng)
        return {"label": targets.get("label", UNKNOWN), "second": pixels}

    def made_up(self, picture: bytes) -> Mapping[str, Any]:
        """One record's, for ``mmkit plan``."""
        return {"label": 1, "second": picture}

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch's."""
        return {
            "label": torch.tensor([target["label"] for target in encoded], dtype=torch.int64),
            "second": torch.stack([target["second"] for target in encoded]),
        }
