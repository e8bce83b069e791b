"""Questions and answers in files, read as they are published: VQA, VG-QA, ALBEF's lists, and JSON lines.

- ``VQALines``: JSON lines with ``image``, ``question`` and ``answers`` (a string, a list, or VQA's objects).
- ``VQAFiles``: ``v2_OpenEnded_mscoco_*_questions.json`` with ``v2_mscoco_*_annotations.json`` (Goyal et al. 2017).
- ``VisualGenomeQA``: ``question_answers.json`` (Krishna et al. 2017); an answer weighs half (ALBEF).
- ``GQAQuestions``: ``val_balanced_questions.json`` and the like (Hudson and Manning 2019).
- ``AnswerLists``: ALBEF's ``vqa_train.json``, ``vqa_val.json``, ``vg_qa.json``, ``vqa_test.json``.

The question is the record's caption. ``targets``: ``question``, ``answers`` (the annotators', repeats kept; absent in a
test split), ``answer_type``, ``question_id``, and where the file tells them ``answer`` (the one that most gave) and
``weight``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from mmkit.data.problems import Problems
from mmkit.data.records import JsonLines
from mmkit.data.sources.published.rows import Row, Rows
from mmkit.data.sources.questions import Asked, given_in, guess_type, tidy_answers
from mmkit.data.text_files import id_of, is_absent, read_json
from mmkit.errors import UserError

log = logging.getLogger(__name__)

VG_WEIGHT = 0.5


class VQALines(Asked):
    """JSON lines: ``{"image": "1.jpg", "question": "what is this?", "answers": ["dog", "dog", "puppy"]}``.

    Further keys become targets: ``question_id``, ``answer_type`` (else by the form of the first answer), ``weight``.
    ``answer`` may stand for ``answers``. answers_needed: False for a test split. columns: as ``JsonLines`` takes them.

    Raises:
        UserError: with file and line, for what ``JsonLines`` refuses, empty questions, and answers of another form.
    """

    def __init__(
        self, path: str | Path, *, root: str | Path | None = None, answers_needed: bool = True,
        columns: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.lines = JsonLines(path, root=root, needs=("question",), columns=columns)
        super().__init__(
            self.lines, answers_needed=answers_needed, where=self.lines.path, unit="line",
            number=lambda index: self.lines.lines[index],
        )  # fmt: skip


class _Questions(Rows):
    def __init__(self, path: Path, images: str | Path, rows: list[Row], problems: Problems) -> None:
        total = len(rows) + problems.counts.total()
        if not total:
            raise UserError(f"{path}: no questions in it")
        super().__init__(path, images, rows, problems, total)


def _asked(
    image: str, question: object, question_id: object, at: int | str, answers: Sequence[str] = (),
    answer: str | None = None, answer_type: str | None = None, weight: float | None = None,
) -> Row:  # fmt: skip
    """One question. answers: the annotators', none in a test split."""
    text = str(question).strip()
    targets: dict[str, Any] = {"question": text, "question_id": question_id}
    if answers:
        targets |= {"answers": list(answers), "answer_type": answer_type or guess_type(answer or answers[0])}
    targets |= {name: value for name, value in (("answer", answer), ("weight", weight)) if value is not None}
    return Row(image=image, captions=(text,), at=at, targets=targets)


class VQAFiles(_Questions):
    """One split of VQA (v1 or v2), or of a data set in its form.

    questions: ``v2_OpenEnded_mscoco_train2014_questions.json``. annotations: ``v2_mscoco_train2014_annotations.json``,
    or None for a test split. images: the folder of ``COCO_train2014_000000000009.jpg``, or the one that holds
    ``train2014``. pictures: how a picture is called, ``{image_id}.jpg`` or ``{image_id:012d}.jpg``; None = as COCO
    calls it, by the file's ``data_subtype``.
    """

    def __init__(
        self, questions: str | Path, annotations: str | Path | None = None, *, images: str | Path,
        pictures: str | None = None,
    ) -> None:  # fmt: skip
        path = Path(questions)
        whole = read_json(path, "VQA's questions")
        problems = Problems(path, unit="row")
        entries = _list_in(whole, "questions", path)
        pattern = _pattern(pictures, whole.get("data_subtype") if isinstance(whole, Mapping) else None, images, path)
        given = {} if annotations is None else _annotations(Path(annotations))
        rows, first = [], dict[str | None, int]()
        for at, entry in enumerate(entries):
            if not _has(entry, ("question", "question_id", "image_id"), at, problems):
                continue
            try:
                name, number = _picture_name(pattern, entry["image_id"]), id_of(entry["question_id"])
            except ValueError as error:
                problems.add(at, "bad id", f"image_id {entry['image_id']!r}, {error}")
                continue
            if first.setdefault(number, at) != at:
                problems.add(at, "question twice", f"question_id {number} is that of row {first[number]} too")
                continue
            told = given.get(number)
            if annotations is not None and told is None:
                problems.add(at, "no annotation", f"question_id {entry['question_id']}: not in {annotations}")
                continue
            image_id, own = told or (None, {})
            if image_id not in (None, id_of(entry["image_id"])):
                what = f"image_id {entry['image_id']} here, {image_id} in {annotations}; do these go together?"
                problems.add(at, "another picture", f"question_id {entry['question_id']}: {what}")
                continue
            rows.append(_asked(name, entry["question"], entry["question_id"], at, **own))
        super().__init__(path, images, rows, problems)


def _pattern(pictures: str | None, split: object, images: str | Path, path: Path) -> str:
    """How pictures are called, with ``{image_id}`` for the number; UserError where that is not known."""
    if pictures is not None:
        try:
            if pictures.format(image_id=7) != pictures.format(image_id=8):
                return pictures
        except (ValueError, KeyError, IndexError, AttributeError):
            pass
        raise UserError(f'--pictures {pictures}: write {{image_id}} for the id, "{{image_id}}.jpg" for example')
    if not isinstance(split, str) or not split.strip():
        raise UserError(
            f'{path}: no "data_subtype" (such as train2014), by which COCO\'s pictures are called; say how these are: '
            '--pictures "{image_id}.jpg", or "{image_id:012d}.jpg"'
        )
    split = "test2015" if split == "test-dev2015" else split.strip()
    folder = f"{split}/" if (Path(images) / split).is_dir() else ""
    return f"{folder}COCO_{split}_{{image_id:012d}}.jpg"


def _picture_name(pattern: str, image_id: object) -> str:
    name = id_of(image_id)
    if name is None:
        raise ValueError("it is empty")
    try:
        return pattern.format(image_id=int(name) if name.isdecimal() and str(int(name)) == name else name)
    except (ValueError, TypeError):
        pass
    try:
        return pattern.format(image_id=int(name))
    except ValueError as error:
        raise ValueError(f"it must be a number for {pattern}") from error


class VisualGenomeQA(_Questions):
    """Visual Genome's ``question_answers.json``, one answer to each question.

    images: the folder with ``VG_100K`` and ``VG_100K_2``, or with the pictures themselves (``2.jpg``).
    """

    def __init__(self, path: str | Path, *, images: str | Path, weight: float = VG_WEIGHT) -> None:
        path = Path(path)
        problems, rows, at, unanswered = Problems(path, unit="row"), [], 0, 0
        name_of = cache(partial(_vg_name, Path(images)))
        for entry in _list_in(read_json(path, "Visual Genome's question_answers"), None, path):
            asked = entry.get("qas") if isinstance(entry, Mapping) else None
            if not isinstance(asked, list):
                problems.add(at, "missing key", 'expected an object with "id" and "qas", one for each picture')
                continue
            for one in asked:
                if _has(one, ("question", "answer", "qa_id"), at, problems) and (
                    number := _id(entry.get("id") if is_absent(own := one.get("image_id")) else own, at, problems)
                ):
                    answer = str(one["answer"]).strip().rstrip(".").lower()
                    name = name_of(number)
                    unanswered += not answer
                    rows += [_asked(name, one["question"], one["qa_id"], at, [answer], weight=weight)] if answer else []
                at += 1
        if unanswered:
            log.warning("%s: left out %d questions without an answer", path, unanswered)
        super().__init__(path, images, rows, problems)


class GQAQuestions(_Questions):
    """GQA's questions; images: the folder of ``2375429.jpg``. In a test split they have no answer."""

    def __init__(self, path: str | Path, *, images: str | Path) -> None:
        path = Path(path)
        problems, rows, whole = Problems(path, unit="row"), [], read_json(path, "GQA's questions")
        for number, entry in (whole if isinstance(whole, Mapping) else {}).items():
            if not _has(entry, ("imageId", "question"), number, problems):
                continue
            answer, image = _text(entry.get("answer")), _id(entry["imageId"], number, problems)
            if image is not None:
                answers = [] if answer is None else [answer]
                rows.append(_asked(f"{image}.jpg", entry["question"], number, number, answers))
        super().__init__(path, images, rows, problems)


class AnswerLists(_Questions):
    """ALBEF's lists: rows of ``image``, ``question``, ``question_id`` and ``answer`` (a list, or one string).

    Also VizWiz's and others of that form, whose ``answers`` is a list of texts or of objects with ``answer``. images:
    where the names in the file begin. An answer of the data set ``vg`` weighs half.
    """

    def __init__(self, path: str | Path, *, images: str | Path, vg_weight: float = VG_WEIGHT) -> None:
        path = Path(path)
        problems, rows = Problems(path, unit="row"), []
        for at, entry in enumerate(_list_in(read_json(path, "ALBEF's list of questions"), None, path)):
            if not _has(entry, ("image", "question"), at, problems):
                continue
            answers = given_in(entry)
            try:
                given = [] if answers is None else tidy_answers(answers, leave_out_empty="answers" in entry)
            except ValueError as error:
                key = "answers" if entry.get("answers") is not None else "answer"
                problems.add(at, "bad answers", str(error).replace('"answers"', f'"{key}"'))
                continue
            weight = vg_weight if entry.get("dataset") == "vg" else None
            number, kind = at if is_absent(entry.get("question_id")) else entry["question_id"], entry.get("answer_type")
            rows.append(_asked(
                str(entry["image"]), entry["question"], number, at, given, answer_type=_text(kind), weight=weight,
            ))  # fmt: skip
        super().__init__(path, images, rows, problems)


def _list_in(data: Any, key: str | None, path: Path) -> list[Any]:
    found = data.get(key) if key is not None and isinstance(data, Mapping) else data
    if not isinstance(found, list):
        form = "a list" if key is None else f'an object with the list "{key}"'
        has = ", ".join(f'"{name}"' for name in data) if isinstance(data, Mapping) else type(found).__name__
        raise UserError(f"{path}: expected {form}; it has {has}")
    return found


def _has(entry: Any, keys: Sequence[str], at: int | str, problems: Problems) -> bool:
    missing = [key for key in keys if not isinstance(entry, Mapping) or entry.get(key) in (None, "")]
    if missing:
        names = ", ".join(f'"{key}"' for key in missing)
        has = ", ".join(f'"{key}"' for key in entry) if isinstance(entry, Mapping) else type(entry).__name__
        problems.add(at, "missing key", f"no {names}; the row has {has}")
    return not missing


def _annotations(path: Path) -> dict[str | None, tuple[str | None, dict[str, Any]]]:
    """question_id -> image_id, and what ``Row`` takes of an annotation."""
    found: dict[str | None, tuple[str | None, dict[str, Any]]] = {}
    problems = Problems(path, unit="row")
    entries = _list_in(read_json(path, "VQA's annotations"), "annotations", path)
    for at, entry in enumerate(entries):
        if not _has(entry, ("question_id", "answers"), at, problems):
            continue
        try:
            answers = tuple(tidy_answers(entry["answers"], leave_out_empty=True))
            number, image_id = id_of(entry["question_id"]), id_of(entry.get("image_id"))
        except ValueError as error:
            problems.add(at, "bad answers", f"question_id {entry['question_id']}: {error}")
            continue
        if number in found:
            problems.add(at, "question twice", f"question_id {number} has an annotation before")
        found[number] = image_id, {
            "answers": answers, "answer": _text(entry.get("multiple_choice_answer")),
            "answer_type": _text(entry.get("answer_type")),
        }  # fmt: skip
    problems.raise_if_any(len(entries))
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _id(value: Any, at: int | str, problems: Problems) -> str | None:
    """The id of a picture; None, and noted, where it is none."""
    try:
        if (found := id_of(value)) is not None:
            return found
        problems.add(at, "bad id", "has no id of a picture")
    except ValueError as error:
        problems.add(at, "bad id", f"the id of its picture {error}")
    return None


def _vg_name(images: Path, number: str) -> str:
    places = [f"{folder}{number}.jpg" for folder in ("VG_100K/", "VG_100K_2/", "")]
    return next((place for place in places if os.path.isfile(images / place)), places[-1])
