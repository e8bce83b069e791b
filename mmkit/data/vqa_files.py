"""Questions and answers in files, read as they are published: VQA, VG-QA, ALBEF's lists, and JSON lines.

- ``VQALines``: JSON lines with ``image``, ``question`` and ``answers`` (a string, a list, or VQA's objects).
- ``VQAFiles``: ``v2_OpenEnded_mscoco_*_questions.json`` with ``v2_mscoco_*_annotations.json`` (Goyal et al. 2017).
- ``VisualGenomeQA``: ``question_answers.json`` (Krishna et al. 2017); an answer weighs half (ALBEF).
- ``AnswerLists``: ALBEF's ``vqa_train.json``, ``vqa_val.json``, ``vg_qa.json``, ``vqa_test.json``.

The question is the record's caption. ``targets``: ``question``, ``answers`` (the annotators', repeats kept; absent in a
test split), ``answer_type``, ``question_id``, and where the file tells them ``answer`` (the one that most gave) and
``weight``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from mmkit.data.records import CHECK_LIMIT, JsonLines, Problems, Record, Source, captions_of
from mmkit.errors import UserError

__all__ = ["AnswerLists", "Joined", "VQAFiles", "VQALines", "VisualGenomeQA"]

VG_WEIGHT = 0.5


def guess_type(answer: str) -> str:
    """One of "yes/no", "number" and "other", as VQA sorts answers; for files that do not say."""
    if answer.strip().lower() in ("yes", "no"):
        return "yes/no"
    return "number" if answer.strip().replace(".", "", 1).isdigit() else "other"


def tidy_answers(value: object, *, leave_out_empty: bool = False) -> list[str]:
    """The answers in an ``answers`` value: a string, a list of strings, or a list of objects with ``answer``;
    ValueError says what is wrong with it.
    """
    items: Any = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence):
        raise ValueError(f'"answers" must be a string or a list, not {json.dumps(value, default=str)[:80]}')
    found = []
    for item in items:
        answer = item.get("answer") if isinstance(item, Mapping) else item
        if not isinstance(answer, str) or not (answer.strip() or leave_out_empty):
            raise ValueError(f'"answers" has {json.dumps(item, default=str)[:80]}; give strings that are not empty')
        if answer.strip():
            found.append(answer.strip())
    if not found:
        raise ValueError('"answers" is empty; give at least one, or remove the line')
    return found


class VQALines:
    """JSON lines: ``{"image": "1.jpg", "question": "what is this?", "answers": ["dog", "dog", "puppy"]}``.

    Further keys become targets: ``question_id``, ``answer_type`` (else by the form of the first answer), ``weight``.
    ``answer`` may stand for ``answers``. answers_needed: False for a test split.

    Raises:
        UserError: with file and line, for what ``JsonLines`` refuses, empty questions, and answers of another form.
    """

    def __init__(self, path: str | Path, *, root: str | Path | None = None, answers_needed: bool = True) -> None:
        self.lines = JsonLines(path, root=root, needs=("question",))
        problems = Problems(self.lines.path)
        for index in range(len(self.lines)):
            row = self.lines[index]
            number = self.lines.lines[index]
            question = row.targets["question"]
            if not isinstance(question, str) or not question.strip():
                problems.add(number, "empty question", f'"question" must be some words, not {question!r:.80}')
                continue
            if not answers_needed and not {"answers", "answer"} & row.targets.keys():
                continue
            if not {"answers", "answer"} & row.targets.keys():
                has = ", ".join(f'"{key}"' for key in ("image", *row.targets))
                problems.add(number, "missing key", f'no key "answers"; the line has {has}')
                continue
            try:
                tidy_answers(row.targets.get("answers", row.targets.get("answer")))
            except ValueError as error:
                problems.add(number, "bad answers", str(error))
        problems.raise_if_any(len(self.lines))

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Record:
        row = self.lines[index]
        question = row.targets["question"].strip()
        own: dict[str, Any] = {"question": question, "question_id": index}
        given = row.targets.get("answers", row.targets.get("answer"))
        if given is not None:
            own["answers"] = tidy_answers(given)
            own["answer_type"] = guess_type(own["answers"][0])
        used = {"question", "answers"} if "answers" in row.targets else {"question", "answer"}
        further = {key: value for key, value in row.targets.items() if key not in used}
        return replace(row, captions=(question,), targets={**own, **further})

    def captions(self) -> Iterator[str]:
        """Every question."""
        for index in range(len(self)):
            yield self.lines[index].targets["question"].strip()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question of a published file. at: its place there, for messages."""

    image: str
    question: str
    question_id: int | str
    at: int
    answers: tuple[str, ...] = ()
    answer: str | None = None
    answer_type: str | None = None
    weight: float | None = None


class _Rows:
    """Questions in memory, with pictures in one folder."""

    def __init__(self, path: Path, images: str | Path, rows: list[Row], problems: Problems) -> None:
        self.path, self.images, self.rows = path, Path(images), rows
        if not self.images.is_dir():
            raise UserError(f"{self.images}: no such folder; give the one with the pictures of {path}")
        total = len(rows) + problems.counts.total()
        if not total:
            raise UserError(f"{path}: no questions in it")
        for row in rows[:: -(-len(rows) // CHECK_LIMIT)] if rows else ():
            if not os.path.isfile(self.images / row.image):
                problems.add(row.at, "missing picture", f"no picture {self.images / row.image}")
        problems.raise_if_any(total)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self.rows[index]
        targets: dict[str, Any] = {"question": row.question, "question_id": row.question_id}
        if row.answers:
            targets["answers"] = list(row.answers)
            targets["answer_type"] = row.answer_type or guess_type(row.answer or row.answers[0])
        if row.answer is not None:
            targets["answer"] = row.answer
        if row.weight is not None:
            targets["weight"] = row.weight
        return Record(
            image=self.images / row.image,
            captions=(row.question,),
            image_id=row.image,
            key=f"{self.path}[{row.at}]",
            targets=targets,
        )

    def captions(self) -> Iterator[str]:
        """Every question."""
        for row in self.rows:
            yield row.question


class VQAFiles(_Rows):
    """One split of VQA (v1 or v2).

    questions: ``v2_OpenEnded_mscoco_train2014_questions.json``. annotations: ``v2_mscoco_train2014_annotations.json``,
    or None for a test split. images: the folder of ``COCO_train2014_000000000009.jpg``, or the one that holds
    ``train2014``.
    """

    def __init__(self, questions: str | Path, annotations: str | Path | None = None, *, images: str | Path) -> None:
        path = Path(questions)
        whole = read_json(path, "VQA's questions")
        problems = Problems(path, unit="row")
        entries = _list_in(whole, "questions", path)
        split = str(whole.get("data_subtype", "")) if isinstance(whole, Mapping) else ""
        split = "test2015" if split == "test-dev2015" else split
        folder = f"{split}/" if (Path(images) / split).is_dir() else ""
        given = {} if annotations is None else _annotations(Path(annotations), len(entries))
        rows = []
        for at, entry in enumerate(entries):
            if not _has(entry, ("question", "question_id", "image_id"), at, problems):
                continue
            try:
                name = f"{folder}COCO_{split}_{int(entry['image_id']):012d}.jpg"
            except (TypeError, ValueError):
                problems.add(at, "bad image_id", f'"image_id" must be a number, not {entry["image_id"]!r}')
                continue
            told = given.get(entry["question_id"])
            if annotations is not None and told is None:
                problems.add(at, "no annotation", f"question_id {entry['question_id']}: not in {annotations}")
                continue
            rows.append(
                Row(
                    image=name, question=str(entry["question"]).strip(), question_id=entry["question_id"], at=at,
                    **(told or {}),
                )
            )  # fmt: skip
        super().__init__(path, images, rows, problems)


class VisualGenomeQA(_Rows):
    """Visual Genome's ``question_answers.json``, one answer to each question.

    images: the folder with ``VG_100K`` and ``VG_100K_2``, or with the pictures themselves (``2.jpg``).
    """

    def __init__(self, path: str | Path, *, images: str | Path, weight: float = VG_WEIGHT) -> None:
        path = Path(path)
        problems, rows, at = Problems(path, unit="row"), [], 0
        name_of = cache(partial(_vg_name, Path(images)))
        for entry in _list_in(read_json(path, "Visual Genome's question_answers"), None, path):
            asked = entry.get("qas") if isinstance(entry, Mapping) else None
            if not isinstance(asked, list):
                problems.add(at, "missing key", 'expected an object with "id" and "qas", one for each picture')
                continue
            for one in asked:
                if _has(one, ("question", "answer", "qa_id"), at, problems):
                    answer = str(one["answer"]).strip().rstrip(".").lower()
                    rows.append(
                        Row(
                            image=name_of(str(one.get("image_id", entry.get("id")))), at=at, answers=(answer,),
                            question=str(one["question"]).strip(), question_id=one["qa_id"], weight=weight,
                        )
                    )  # fmt: skip
                at += 1
        super().__init__(path, images, [row for row in rows if row.answers[0]], problems)


class AnswerLists(_Rows):
    """ALBEF's lists: rows of ``image``, ``question``, ``question_id`` and ``answer`` (a list, or one string).

    images: where the names in the file begin. An answer of the data set ``vg`` weighs half.
    """

    def __init__(self, path: str | Path, *, images: str | Path, vg_weight: float = VG_WEIGHT) -> None:
        path = Path(path)
        problems, rows = Problems(path, unit="row"), []
        for at, entry in enumerate(_list_in(read_json(path, "ALBEF's list of questions"), None, path)):
            if not _has(entry, ("image", "question"), at, problems):
                continue
            given: list[str] = []
            if "answer" in entry:
                try:
                    given = tidy_answers(entry["answer"])
                except ValueError as error:
                    problems.add(at, "bad answers", str(error).replace('"answers"', '"answer"'))
                    continue
            weight = vg_weight if entry.get("dataset") == "vg" else None
            rows.append(
                Row(
                    image=str(entry["image"]), question=str(entry["question"]).strip(),
                    question_id=entry.get("question_id", at), at=at, answers=tuple(given), weight=weight,
                )
            )  # fmt: skip
        super().__init__(path, images, rows, problems)


class Joined:
    """Several sources as one, one after the other. parts: sources, or partials that make them."""

    def __init__(self, parts: Sequence[Source | partial[Any]]) -> None:
        if not parts:
            raise UserError("Joined: no parts; give at least one source")
        self.parts: list[Source] = [part() if isinstance(part, partial) else part for part in parts]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> Record:
        if index < 0:
            raise IndexError(index)
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    def captions(self) -> Iterator[str]:
        """Every part's."""
        for part in self.parts:
            yield from captions_of(part)


def read_json(path: Path, what: str) -> Any:
    """The file's content; UserError where it is missing or no JSON."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected {what}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); expected {what}") from error


def _list_in(data: Any, key: str | None, path: Path) -> list[Any]:
    found = data.get(key) if key is not None and isinstance(data, Mapping) else data
    if not isinstance(found, list):
        form = "a list" if key is None else f'an object with the list "{key}"'
        has = ", ".join(f'"{name}"' for name in data) if isinstance(data, Mapping) else type(found).__name__
        raise UserError(f"{path}: expected {form}; it has {has}")
    return found


def _has(entry: Any, keys: Sequence[str], at: int, problems: Problems) -> bool:
    missing = [key for key in keys if not isinstance(entry, Mapping) or entry.get(key) in (None, "")]
    if missing:
        names = ", ".join(f'"{key}"' for key in missing)
        has = ", ".join(f'"{key}"' for key in entry) if isinstance(entry, Mapping) else type(entry).__name__
        problems.add(at, "missing key", f"no {names}; the row has {has}")
    return not missing


def _annotations(path: Path, questions: int) -> dict[Any, dict[str, Any]]:
    """question_id -> what ``Row`` takes of an annotation."""
    found: dict[Any, dict[str, Any]] = {}
    problems = Problems(path, unit="row")
    entries = _list_in(read_json(path, "VQA's annotations"), "annotations", path)
    for at, entry in enumerate(entries):
        if not _has(entry, ("question_id", "answers"), at, problems):
            continue
        try:
            answers = tuple(tidy_answers(entry["answers"], leave_out_empty=True))
        except ValueError as error:
            problems.add(at, "bad answers", f"question_id {entry['question_id']}: {error}")
            continue
        found[entry["question_id"]] = {
            "answers": answers,
            "answer": entry.get("multiple_choice_answer"),
            "answer_type": entry.get("answer_type"),
        }
    problems.raise_if_any(len(entries))
    return found


def _vg_name(images: Path, number: str) -> str:
    for folder in ("VG_100K/", "VG_100K_2/", ""):
        if os.path.isfile(images / f"{folder}{number}.jpg"):
            return f"{folder}{number}.jpg"
    return f"{number}.jpg"
