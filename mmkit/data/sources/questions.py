"""Questions and their answers among the records of any source: JSON lines, tables, Parquet, the hub."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmkit.data.picture_files import PictureFiles
from mmkit.data.problems import Problems
from mmkit.data.records import Record, Source
from mmkit.data.text_files import one_text
from mmkit.errors import UserError


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
            found.append(one_text(answer, "answers"))
    if not found:
        raise ValueError('"answers" is empty; give at least one, or remove the line')
    return found


class Asked:
    """Questions among the records of any source: those with ``question`` and ``answers`` in their targets.

    ``answer`` may stand for ``answers``. answers_needed: False for a test split. where: the file, for messages; number:
    of a record in it. UserError for empty questions and answers of another form.
    """

    def __init__(
        self, source: Source, *, answers_needed: bool = True, where: str | Path = "", unit: str = "row",
        number: Callable[[int], int] = lambda index: index,
    ) -> None:  # fmt: skip
        self.source, self.neighbours = source, getattr(source, "neighbours", None)
        if getattr(source, "shares", None):
            raise UserError(f"{where}: questions are sought in each source before they are joined by weights")
        problems, self._rows = Problems(where, unit=unit), array("q")
        for index, row in enumerate(targets_of(source, ("question", "answers", "answer"))):
            question, given = row.get("question"), given_in(row)
            if not isinstance(question, str) or not question.strip():
                problems.add(number(index), "empty question", f'"question" must be some words, not {question!r:.80}')
                continue
            if given is None:
                if answers_needed:
                    has = ", ".join(f'"{key}"' for key in ("image", *(key for key in row if row[key] is not None)))
                    problems.add(number(index), "missing key", f'no key "answers"; the {unit} has {has}')
                    continue
            else:
                try:
                    tidy_answers(given)
                except ValueError as error:
                    problems.add(number(index), "bad answers", str(error))
                    continue
            self._rows.append(index)
        problems.raise_if_any(len(source))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = self.source[self._rows[index]]
        question, given = row.targets["question"].strip(), given_in(row.targets)
        own: dict[str, Any] = {"question": question, "question_id": index}
        if given is not None:
            own["answers"] = tidy_answers(given)
            own["answer_type"] = guess_type(own["answers"][0])
        used = {"question", "answers"} if row.targets.get("answers") is not None else {"question", "answer"}
        further = {key: value for key, value in row.targets.items() if key not in used and value is not None}
        return replace(row, captions=(question,), targets={**own, **further})

    def captions(self) -> Iterator[str]:
        """Every question."""
        good = set(self._rows) if len(self._rows) < len(self.source) else None
        for index, row in enumerate(targets_of(self.source, ("question",))):
            if good is None or index in good:
                yield row["question"].strip()

    @property
    def files(self) -> PictureFiles | None:
        """The pictures of the source, where it has files of pictures."""
        return getattr(self.source, "files", None)


def given_in(targets: Mapping[str, Any]) -> Any:
    """The value of ``answers``, or of ``answer`` in its place; None where there is neither."""
    answers = targets.get("answers")
    return targets.get("answer") if answers is None else answers


def targets_of(source: Source, keys: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Some targets of every record, without its picture where the source knows how."""
    known = getattr(source, "targets", None)
    if isinstance(known, Mapping) and callable(getattr(source, "target", None)):
        own = [key for key in keys if key in known]
        columns = [source.target(key) for key in own]  # type: ignore[attr-defined]
        yield from (dict(zip(own, values, strict=True)) for values in zip(*columns, strict=True))
        return
    for index in range(len(source)):
        yield source[index].targets
