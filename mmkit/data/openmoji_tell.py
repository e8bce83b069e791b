"""What can be told of a built-in scene in English, for questions, statements and hypotheses about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mmkit.data.openmoji import Drawn
from mmkit.data.openmoji_draw import relation
from mmkit.data.openmoji_kinds import emoji_name
from mmkit.data.openmoji_text import is_plural, named, with_the
from mmkit.errors import UserError

Found = TypeVar("Found")

PLACES = ("left", "right", "above", "below")
WHERE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


def relations(drawn: Drawn) -> dict[tuple[int, int], str]:
    """{(i, j): where emoji i is, seen from j}, of those pairs that are clearly beside or above one another."""
    found = {}
    for i, a in enumerate(drawn.boxes):
        for j, b in enumerate(drawn.boxes):
            where = relation(a, b) if i != j else None
            if where is not None:
                found[i, j] = where
    return found


def find(attempt: Callable[[], Found | None], kinds: int, split: str) -> Found:
    """What the first attempt gives that does not give None; UserError after a thousand."""
    for _ in range(1000):
        found = attempt()
        if found is not None:
            return found
    raise UserError(f"openmoji: kinds={kinds} are too few for such scenes in the split {split!r}; give more kinds")


def an(emoji: str) -> str:
    """As in "a dog" or "grapes"."""
    return named(emoji, "", "en")


def the(emoji: str) -> str:
    """As in "the dog"."""
    return with_the(emoji_name(emoji))


def is_are(emoji: str) -> str:
    """The verb for it."""
    return "are" if is_plural(emoji_name(emoji)) else "is"


def check_english(language: str | tuple[str, ...], what: str) -> None:
    """UserError for other languages."""
    if language not in ("en", ("en",)):
        raise UserError(f"openmoji: language={language!r}; {what} are in English (en) only")
