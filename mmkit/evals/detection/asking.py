"""What each picture is asked for by its own record: expressions, or the phrases of its captions; as rows of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkit.data.boxes import boxes_in
from mmkit.data.phrases import checked_phrase
from mmkit.data.records import Record
from mmkit.data.texts.offsets import Span, encode_with_offsets, tokens_in
from mmkit.data.texts.prompts import Prompter, Word
from mmkit.errors import UserError
from mmkit.evals.boxes import detected, named_boxes

Sides = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A phrase: its words, their characters in the text, the boxes (T, 4) of which any is right.

    among: (C, 4), boxes of which a guess takes one. groups: in which numbers it counts, "" for all.
    """

    text: str
    spans: Sequence[Span]
    boxes: Sides
    among: Sides
    groups: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Question:
    """A text with the phrases in it that are asked for."""

    text: str
    phrases: tuple[Wanted, ...]


def questions_of(record: Record, rule: str) -> tuple[Question, ...]:
    """UserError for a record that has not what the rule needs."""
    return _expressions(record) if rule == "referring" else _captions(record, merged=rule == "merged-box")


def _expressions(record: Record) -> tuple[Question, ...]:
    """Each box by its name, and once more by what ``bare`` calls it."""
    found, targets = named_boxes(record), record.targets
    split = (f"split.{targets['split']}",) if "split" in targets else ()
    candidates = detected(record)
    among = _sides(candidates if candidates is not None else [box for _, box in found])
    questions = [_whole(text, box, among, ("", *split)) for text, box in found]
    if (bare := targets.get("bare")) is not None:
        rows = list(targets.get("alike", range(len(among))))
        if wrong := [row for row in rows if type(row) is not int or not 0 <= row < len(among)]:
            raise UserError(f'"alike": {wrong[0]!r} is none of the {len(among)} boxes, which are counted from 0')
        alike = among[rows]
        questions += [_whole(str(bare), box, alike, ("bare",)) for _, box in found]
    return tuple(questions)


def _whole(text: str, box: Any, among: Sides, groups: tuple[str, ...]) -> Question:
    wanted = Wanted(text=text, spans=((0, len(text)),), boxes=_sides([box]), among=among, groups=groups)
    return Question(text, (wanted,))


def _captions(record: Record, merged: bool) -> tuple[Question, ...]:
    """Each caption with the phrases that have boxes."""
    if "phrases" not in record.targets:
        raise UserError('no "phrases", which say what parts of the captions name which boxes')
    sides = boxes_in(record.targets).sides
    questions: list[Question] = []
    said = record.targets["phrases"]
    for one in said:
        of = one.get("caption")
        if type(of) is not int or not 0 <= of < len(record.captions):
            raise UserError(f'"phrases": {one!r}: there are captions 0 to {len(record.captions) - 1}')
    for number, caption in enumerate(record.captions):
        phrases: list[Wanted] = []
        for one in said:
            if one["caption"] != number:
                continue
            spans, own = checked_phrase(one, caption, len(sides))
            if not own:
                continue
            boxes = sides[own]
            if merged:
                boxes = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])[None]
            groups = ("", *(f"type.{name}" for name in dict.fromkeys(one.get("types", ()))))
            text = " ".join(caption[first:last] for first, last in spans)
            phrases.append(Wanted(text=text, spans=spans, boxes=boxes, among=sides, groups=groups))
        if phrases:
            questions.append(Question(caption, tuple(phrases)))
    return tuple(questions)


def _sides(boxes: Sequence[Any]) -> Sides:
    return np.array(boxes, np.float64).reshape(-1, 4)


def rows_for(
    question: Question, prompter: Prompter, sentences: bool, most: int
) -> list[tuple[list[Word], list[int]]]:  # fmt: skip
    """Rows of prompts, with the numbers of the phrases that each asks for, in the order of the row's own numbers.

    sentences: the whole text, with what spells each phrase; else the phrases alone, at most ``most`` a row. Phrases
    that share words, or do not fit, get rows of their own; one of which the model reads no word has none.
    """
    if sentences:
        return _sentences(question, prompter)
    rows: list[tuple[list[Word], list[int]]] = []
    left = [(number, prompter.cut(one.text)) for number, one in enumerate(question.phrases)]
    while left:
        count = min(most, prompter.fitting([ids for _, ids in left]))
        rows.append((prompter.row([ids for _, ids in left[:count]]), [number for number, _ in left[:count]]))
        left = left[count:]
    return rows


def _sentences(question: Question, prompter: Prompter) -> list[tuple[list[Word], list[int]]]:
    longest = min(prompter.longest, prompter.max_tokens)
    ids, offsets = encode_with_offsets(prompter.tokenizer, question.text, longest)
    spelled: list[tuple[dict[int, int], list[int]]] = []
    for number, one in enumerate(question.phrases):
        places = tokens_in(offsets, one.spans)
        if not places:
            continue
        row = next((row for row in spelled if not row[0].keys() & set(places)), None)
        if row is None:
            spelled.append(row := ({}, []))
        row[0].update(dict.fromkeys(places, len(row[1])))
        row[1].append(number)
    return [(prompter.sentence(ids, places), numbers) for places, numbers in spelled]
