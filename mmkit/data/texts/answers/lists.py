"""Lists of answers: read from a file in any of the forms in which they are passed around, and checked.

The forms: one answer a line; a JSON list (ALBEF's ``answer_list.json``, indented or not); JSON lines, each a text or an
object with ``answer``; and JSON objects that number the answers, {"0": "yes"} or {"yes": 0}, alone or under
``id2label``, ``label2ans``, ``label2id`` or ``ans2label``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkit.data.text_files import check_not_numbered, parse_json, read_text, split_lines
from mmkit.errors import UserError

NUMBERED = ("id2label", "label2ans", "label2id", "ans2label")
SEEMS_JSON = re.compile(r'\s*(\[\s*["{]|\{\s*")')
FORMS = 'one answer a line, or a JSON list ["yes", "no", ...]'


def read_answers(path: str | Path) -> list[str]:
    """The answers in a file, in its order; UserError where it is missing, empty, no list, or has an answer twice."""
    path = Path(path)
    text = read_text(path, f"a list of answers, {FORMS}")
    found = _placed(path, text)
    if not found:
        raise UserError(f"{path}: no answers in it; give {FORMS}")
    places: dict[str, str] = {}
    for place, answer in found:
        if places.setdefault(answer, place) != place:
            raise UserError(f"{path}:{place}: {answer!r} stands in {_called(places[answer])} already")
    return list(places)


def _placed(path: Path, text: str) -> list[tuple[str, str]]:
    """(line number or [index], answer) for each answer."""
    is_json = path.suffix.lower() in (".json", ".jsonl")
    if is_json or text.lstrip()[:1] in ("[", "{", '"'):
        try:
            whole = parse_json(text.encode())
        except ValueError as error:
            rows = _json_lines(text, path) if "Extra data" in str(error) else None
            if rows is not None:
                return [(place, _text(row, path, place)) for place, row in rows]
            if is_json or SEEMS_JSON.match(text) or not _malformed(error):
                raise UserError(f"{path}: cannot be read as JSON ({error}); give {FORMS}") from error
        else:
            return [(f"[{i}]", answer) for i, answer in enumerate(_from_json(whole, path))]
    lines = [(str(number), line.strip()) for number, line in enumerate(split_lines(text), start=1)]
    check_not_numbered([answer for _, answer in lines if answer], path)
    return [(number, answer) for number, answer in lines if answer]


def _from_json(value: Any, path: Path) -> Sequence[str]:
    if isinstance(value, Mapping):
        inner = next((value[name] for name in NUMBERED if isinstance(value.get(name), Mapping | list)), None)
        if inner is not None:
            return _from_json(inner, path)
        if "answer" in value and not all(isinstance(number, int) for number in value.values()):
            return [_text(value, path, "1")]
        if value and all(isinstance(number, int) and not isinstance(number, bool) for number in value.values()):
            turned = {str(number): answer for answer, number in value.items()}
            value = turned if len(turned) == len(value) else value
        return [_text(answer, path, f"[{i}]") for i, answer in enumerate(in_order(value, where=str(path)))]
    if not isinstance(value, list):
        raise UserError(f"{path}: holds {json.dumps(value)[:40]}, no list of answers; give {FORMS}")
    return [_text(item, path, f"[{i}]") for i, item in enumerate(value)]


def _malformed(error: ValueError) -> bool:
    """Whether it is no JSON; else it is JSON that could be read in two ways, or holds half a character."""
    return str(error).startswith("malformed JSON")


def _json_lines(text: str, path: Path) -> list[tuple[str, Any]] | None:
    """(line number, value) of JSON lines; None where a line is no JSON. UserError for JSON that says two things."""
    found = []
    for number, line in enumerate(split_lines(text), start=1):
        try:
            found += [(str(number), parse_json(line.encode()))] if line.strip() else []
        except ValueError as error:
            if _malformed(error):
                return None
            raise UserError(f"{path}:{number}: {error}") from error
    return found


def _text(item: Any, path: Path, place: str) -> str:
    answer = item.get("answer") if isinstance(item, Mapping) else item
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(f"{path}:{place}: {json.dumps(item, ensure_ascii=False)[:60]} is no answer; each is some words")
    return answer.strip()


def _called(place: str) -> str:
    return place if place.startswith("[") else f"line {place}"


def in_order(numbered: Any, *, where: str) -> tuple[str, ...]:
    """Answers that stand under their numbers, as JSON has them: {"0": "yes", "1": "no"}.

    UserError that begins with ``where`` unless the numbers are 0, 1, 2, ..., each with a text.
    """
    found = numbered if isinstance(numbered, Mapping) else {}
    numbers = [str(i) for i in range(len(found))]
    if not found or found.keys() != set(numbers) or not all(isinstance(answer, str) for answer in found.values()):
        raise UserError(f"{where}: should hold the answers under the numbers 0, 1, 2, ..., one text for each")
    return tuple(found[number] for number in numbers)
