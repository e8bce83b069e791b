"""SNLI-VE's published files (Xie et al. 2019, https://arxiv.org/abs/1901.06706): does the picture entail the sentence?

``snli_ve_train.jsonl``, ``snli_ve_dev.jsonl``, ``snli_ve_test.jsonl``: one JSON object per line, of which are read
``Flickr30K_ID`` (the picture is ID.jpg of Flickr30k), ``sentence2`` (the hypothesis) and ``gold_label``. Left out: the
text premise ``sentence1``, as the picture stands in its place.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmkit.data.problems import Problems
from mmkit.data.records import Record, rows_of
from mmkit.data.texts.cleaning import clean_caption
from mmkit.errors import UserError

log = logging.getLogger(__name__)

CLASSES = ("contradiction", "neutral", "entailment")
KEYS = ("Flickr30K_ID", "sentence2", "gold_label")
UNDECIDED = "-"  # where the annotators of SNLI did not agree


class SNLIVE:
    """Hypotheses about pictures; ``targets``: ``label``, which indexes ``CLASSES``.

    Args:
        path: a published file, UTF-8.
        images: the folder with the pictures of Flickr30k, ID.jpg.
        labelled: False for a test split whose labels are not given; its records have none.
        words: hypotheses are cleaned as ALBEF does and cut to so many words; None = left as they are.

    Raises:
        UserError: for lines that cannot be used and pictures that are missing, with file and line.
    """

    def __init__(self, path: str | Path, *, images: str | Path, words: int | None = 30, labelled: bool = True) -> None:
        self.path, self.images, self.labelled = Path(path), Path(images), labelled
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; SNLI-VE's are snli_ve_train.jsonl, _dev.jsonl and _test.jsonl")
        self.pictures: list[str] = []
        self.hypotheses: list[str] = []
        self.labels, self.lines = array("b"), array("q")
        self._exists: dict[str, bool] = {}
        problems = Problems(self.path)
        undecided = 0
        for number, row in rows_of(self.path, KEYS if labelled else KEYS[:2], problems):
            if labelled and row["gold_label"] == UNDECIDED:
                undecided += 1
            elif self._is_usable(number, row, problems):
                self.pictures.append(str(row["Flickr30K_ID"]))
                self.hypotheses.append(clean_caption(row["sentence2"], words) if words else row["sentence2"].strip())
                self.labels.append(CLASSES.index(row["gold_label"]) if labelled else -1)
                self.lines.append(number)
        problems.raise_if_any()
        if undecided:
            log.info("%s: %d of %d rows left out, whose annotators did not agree", self.path, undecided, problems.rows)
        if not self.lines:
            raise UserError(f"{self.path}: the file holds no hypotheses")

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Record:
        return Record(
            image=self._picture(self.pictures[index]),
            captions=(self.hypotheses[index],),
            image_id=self.pictures[index],
            key=f"{self.path}:{self.lines[index]}",
            targets={"label": self.labels[index]} if self.labelled else {},
        )

    def captions(self) -> Iterator[str]:
        """Every hypothesis, without opening pictures."""
        return iter(self.hypotheses)

    def _picture(self, name: str) -> Path:
        return self.images / (name if name.endswith(".jpg") else f"{name}.jpg")

    def _is_usable(self, number: int, row: Mapping[str, Any], problems: Problems) -> bool:
        name, hypothesis, label = str(row["Flickr30K_ID"]), row["sentence2"], row.get("gold_label")
        if self.labelled and label not in CLASSES:
            problems.add(number, "bad label", f'"gold_label" must be one of {", ".join(CLASSES)}, not {label!r}')
            return False
        if not isinstance(hypothesis, str) or not hypothesis.strip():
            problems.add(number, "no hypothesis", '"sentence2" must be some words')
            return False
        if name not in self._exists:
            self._exists[name] = self._picture(name).is_file()
        if not self._exists[name]:
            problems.add(number, "missing picture", f"no picture {self._picture(name)}")
        return self._exists[name]
