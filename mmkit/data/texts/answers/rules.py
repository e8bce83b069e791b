"""Answers to questions: when two are the same, how right one is, and which are worth knowing.

The accuracy of the VQA challenge (Antol et al. 2015, section 5; Goyal et al. 2017): an answer that three of the other
nine annotators gave is right. Before comparing, case, articles, most punctuation and the spelling of numbers and of
contractions are set aside. Written after the published evaluation program, and equal to it where that is well-defined.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mmkit.data.records import Record, Source
from mmkit.errors import UserError

log = logging.getLogger(__name__)

MARKS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've "
    "you'll you're you've"
)


def _without_one(word: str) -> Iterator[str]:
    for i, letter in enumerate(word):
        if letter == "'":
            yield word[:i] + word[i + 1 :]


CONTRACTIONS = {wrong: word for word in _CONTRACTED.split() for wrong in _without_one(word)} | {
    "somebody'd": "somebodyd"  # as published
}
"""Contractions in which one apostrophe is missing, and how they are written."""

FEW = 4
"""Of fewer annotators no three others can agree, so the published rule gives nobody full marks."""


@lru_cache(maxsize=1 << 12)
def normalize(answer: str) -> str:
    """The form in which answers are compared: "The T-shirt." and "t shirt" are the same, and so are "two" and "2".

    An answer of which nothing would be left keeps its word: "A" is "a", "the" is "the", "!" is "!". (The published
    program compares such answers as nothing, all alike: ``published``.)
    """
    return published(answer) or " ".join(_without_marks(_one_line(answer)).lower().split()) or answer.strip().lower()


def published(answer: str) -> str:
    """What the program of the challenge compares an answer by; nothing for one of marks or articles alone."""
    words = (NUMBERS.get(word, word) for word in _without_marks(_one_line(answer)).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_marks(text: str) -> str:
    """A mark between two words becomes a space; one beside a space goes, and in "1,000" all marks do."""
    number, out = re.search(r"\d,\d", text), text
    for mark in MARKS:
        beside = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside or number else " ")
    return re.sub(r"\.(?!\d)", "", out)


def accuracy_of(answer: str, answers: Sequence[str], *, as_published: bool = False) -> float:
    """How right an answer is, 0 to 1, given all annotators' answers to the question (repeats kept).

    Each annotator in turn is left out; the answer scores a third for each of the others who gave it, at most 1; the
    mean counts. Fewer than four annotators cannot fill three thirds: there the share of the others counts, and with a
    single one whether it is the same.

    as_published: exactly as the program of the challenge compares, for numbers to be set beside published ones: only
    marks, not articles or number words, are taken from the annotators' answers, and nothing at all where all agree (so
    an answer "t-shirt" that all ten gave is never met). With fewer than four annotators that program gives nobody full
    marks, and the rule above counts.

    Raises:
        UserError: no annotator.
    """
    if not answers:
        raise UserError("a question without annotators' answers has no accuracy")
    given = published(answer) if as_published and len(answers) >= FEW else normalize(answer)
    if not as_published or len(answers) < FEW:
        truths = [normalize(truth) for truth in answers]
    else:
        truths = [_one_line(truth) for truth in answers]
        if len(set(truths)) > 1:
            truths = [_without_marks(truth) for truth in truths]
    if len(truths) == 1:
        return float(truths[0] == given)
    matches, enough = truths.count(given), min(3, len(truths) - 1)
    scores = (min(1.0, (matches - (truth == given)) / enough) for truth in truths)
    return sum(scores) / len(truths)


def summary(scores: Sequence[float], types: Sequence[str]) -> dict[str, float]:
    """``accuracy``, ``n``, and ``by_type.TYPE`` for each answer type, sorted; types may be empty strings."""
    if not scores:
        raise UserError("no questions, so no accuracy")
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for score, kind in zip(scores, types, strict=True):
        groups[kind].append(score)
    out: dict[str, float] = {"accuracy": sum(scores) / len(scores), "n": len(scores)}
    return out | {f"by_type.{kind}": sum(group) / len(group) for kind, group in sorted(groups.items()) if kind}


def given_answers(record: Record) -> list[str]:
    """The annotators' answers of a record; UserError names the record that has none, or something else there."""
    try:
        return answers_in(record.targets)
    except UserError as error:
        raise UserError(f"{record.key}: {error}") from error


def answers_in(targets: Mapping[str, Any]) -> list[str]:
    """The same from a record's targets: a list of strings, or of objects with ``answer``, or one string.

    UserError for anything else.
    """
    found = targets.get("answers")
    if not isinstance(found, list):
        if isinstance(found, Mapping):  # a table's column of objects, as ``datasets`` gives it
            found = found.get("answer")
        found = [found] if isinstance(found, str) else list(found) if isinstance(found, Sequence) else found
    if isinstance(found, list):
        found = [one.get("answer") if not isinstance(one, str) and isinstance(one, Mapping) else one for one in found]
    if not isinstance(found, list) or not found or not all(isinstance(a, str) and a.strip() for a in found):
        raise UserError(f'"answers" must be a list of strings, one for each annotator, not {found!r:.80}')
    return found


def most_given(targets: Mapping[str, Any], answers: Sequence[str]) -> str:
    """The one answer that stands for the question, normalised: ``targets["answer"]`` where the data set says it, else
    the most frequent, else of equals the first.
    """
    if isinstance(targets.get("answer"), str):
        return normalize(targets["answer"])
    return Counter(normalize(answer) for answer in answers).most_common(1)[0][0]


def build_answers(
    source: Source | Iterable[Record], *, min_count: int | None = None, top: int | None = None
) -> list[str]:
    """The answers that questions are answered with, most frequent first (then by alphabet), normalised.

    Each question counts once, for the answer that most of its annotators gave. min_count: only answers of so many
    questions (ViLT and Pythia: 9, which leaves 3,129 of VQAv2's). top: at most so many (ALBEF: 3,128). With neither,
    all.

    Raises:
        UserError: no answer is frequent enough, a record without answers, bad arguments.
    """
    if (min_count is not None and min_count < 1) or (top is not None and top < 1):
        raise UserError(f"min_count={min_count}, top={top}: must be at least 1, or None")
    counts = Counter(most_given(record.targets, given_answers(record)) for record in _records(source))
    ordered = sorted(counts, key=lambda answer: (-counts[answer], answer))
    chosen = [answer for answer in ordered if counts[answer] >= (min_count or 1)][:top]
    if not chosen:
        often = f"the most frequent is {ordered[0]!r}, {counts[ordered[0]]} times" if ordered else "there are none"
        raise UserError(f"no answer occurs {min_count or 1} times; {often}. Lower --min-count")
    return chosen


@dataclass(frozen=True)
class Coverage:
    """How far a list of answers goes. share: of questions for which at least one annotator's answer is in the list.

    best: the accuracy of always choosing the best answer of the list. missing: the most frequent answers not in it,
    with their numbers of questions.
    """

    questions: int
    share: float
    best: float
    missing: tuple[tuple[str, int], ...]


def coverage(source: Source, answers: Sequence[str], *, limit: int = 2000) -> Coverage:
    """Of at most ``limit`` questions, evenly spread; UserError for a record without answers."""
    known = {normalize(answer) for answer in answers}
    n = min(limit, len(source))
    best, missing, covered = 0.0, Counter[str](), 0
    for i in range(n):
        record = source[i * len(source) // n]
        given = given_answers(record)
        possible = {normalize(answer) for answer in given} & known
        covered += bool(possible)
        best += max((accuracy_of(answer, given) for answer in possible), default=0.0)
        if not possible:
            missing[most_given(record.targets, given)] += 1
    return Coverage(n, covered / max(1, n), best / max(1, n), tuple(missing.most_common(5)))


def check_coverage(
    source: Source, answers: Sequence[str], *, where: str = "the answer list", limit: int = 2000
) -> Coverage:
    """UserError where a list has the right answer to fewer than half of the questions; a warning below nine tenths.

    limit: of how many questions at most, evenly spread.
    """
    found = coverage(source, answers, limit=limit)
    if found.share >= 0.9:
        return found
    examples = ", ".join(f"{answer!r} ({n})" for answer, n in found.missing)
    message = (
        f"{where}: {len(answers)} answers, which hold a right one for {found.share:.1%} of {found.questions} "
        f"questions; missing, for example: {examples}. Make a list of these data: mmkit data build-answers"
    )
    if found.share < 0.5:
        raise UserError(message)
    log.warning(message)
    return found


def choices(answers: Sequence[str]) -> tuple[str, ...]:
    """Answers to choose from; UserError where there is none, one without words, or one twice."""
    if not answers:
        raise UserError("the list of answers is empty; give some, or None for those that the model was trained with")
    for answer, n in Counter(answers).items():
        if not answer.strip() or n > 1:
            raise UserError(f"answers: {answer!r} {'stands there twice' if n > 1 else 'is empty'}; give each once")
    return tuple(answers)


def class_numbers(answers: Sequence[str]) -> dict[str, int]:
    """The class of each answer by its normalised form: what heads and targets that count answers as classes agree on.

    UserError for what ``choices`` refuses, and for two answers that are one when normalised ("two" and "2"), which
    would be two outputs of a head, but one class of the targets.
    """
    numbers: dict[str, int] = {}
    for number, answer in enumerate(choices(answers)):
        first = numbers.setdefault(normalize(answer), number)
        if first != number:
            raise UserError(
                f"answers: {answers[first]!r} and {answer!r} are the same answer ({normalize(answer)!r} when they are "
                "compared), so they cannot be two classes; leave one of them out"
            )
    return numbers


def majority_share(source: Source | Iterable[Record]) -> dict[str, float]:
    """What always giving one answer scores at best, by answer type: what a blank picture and no words would."""
    by_type: defaultdict[str, list[list[str]]] = defaultdict(list)
    for record in _records(source):
        by_type[str(record.targets.get("answer_type", ""))].append(given_answers(record))
    shares = {}
    for kind, questions in sorted(by_type.items()):
        counts = Counter(normalize(answer) for answers in questions for answer in answers)
        likely = [answer for answer, _ in counts.most_common(3)]
        shares[kind] = max(sum(accuracy_of(a, answers) for answers in questions) / len(questions) for a in likely)
    return shares


def _records(source: Source | Iterable[Record]) -> Iterator[Record]:
    if isinstance(source, Source):
        return (source[i] for i in range(len(source)))
    return iter(source)
