"""Built-in scenes with an English sentence made for each: the base of questions, statements and hypotheses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image

from mmkit.data.openmoji.captions import is_plural, named, with_the
from mmkit.data.openmoji.drawing import relation
from mmkit.data.openmoji.kinds import emoji_name
from mmkit.data.openmoji.scenes import Drawn, Scenes
from mmkit.data.records import Choose, Record
from mmkit.errors import UserError

Found = TypeVar("Found")

PLACES = ("left", "right", "above", "below")
WHERE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Told:
    """A composed picture and the sentence that was made for it."""

    drawn: Drawn
    text: str


ToldT = TypeVar("ToldT", bound=Told)


@dataclass(frozen=True, kw_only=True)
class ToldScenes(Scenes, Generic[ToldT]):
    """``n`` scenes, each with one sentence, which is the record's caption."""

    what: ClassVar[str]
    """The sentences, in the plural."""
    choice: ClassVar[str]
    """The argument that chooses among the kinds of sentences."""
    every: ClassVar[tuple[str, ...]]
    """All kinds of sentences."""
    seldom: ClassVar[tuple[str, ...]] = ()
    """Those that are made where they are chosen alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language not in ("en", ("en",)):
            raise UserError(f"openmoji: language={self.language!r}; {self.what} are in English (en) only")
        chosen, unfit = getattr(self, self.choice), self._unfit()
        if chosen is not None and (not chosen or not set(chosen) <= set(self.every)):
            raise UserError(f"openmoji: {self.choice}={tuple(chosen)}; there are {', '.join(self.every)}")
        if why := [unfit[kind] for kind in self.told_kinds or unfit if kind in unfit]:
            raise UserError(f"openmoji: {why[0]}")

    @cached_property
    def told_kinds(self) -> tuple[str, ...]:
        """The kinds of sentences that are made: those chosen, or all that fit."""
        chosen, left_out = getattr(self, self.choice), {*self.seldom, *self._unfit()}
        return tuple(kind for kind in self.every if kind not in left_out) if chosen is None else tuple(chosen)

    def _at(self, index: int, choose: Choose | None = None) -> Record:
        kind, label, told = self._make(index)
        name, targets = f"{self.what}/{self.split}", self._about(index, kind, label, told)
        return self._record(name, index, self._show(told), (told.text,), targets, choose)

    def captions(self) -> Iterator[str]:
        """Every sentence, without painting."""
        for index in range(self.n):
            yield self._make(index)[2].text

    def _unfit(self) -> Mapping[str, str]:
        """Kinds of sentences that cannot be made of these scenes, and why."""
        return {}

    def _make(self, index: int) -> tuple[str, int | str, ToldT]:
        """The kind of sentence, its label or answer, and both parts."""
        raise NotImplementedError

    def _about(self, index: int, kind: str, label: int | str, told: ToldT) -> Mapping[str, Any]:
        """The record's targets."""
        raise NotImplementedError

    def _show(self, told: ToldT) -> Image.Image:
        return self._paint(told.drawn)

    def _compose(self, index: int) -> Drawn:
        return self._make(index)[2].drawn


def relations(drawn: Drawn) -> dict[tuple[int, int], str]:
    """{(i, j): where emoji i is, seen from j}, of those pairs that are clearly beside or above one another."""
    pairs = permutations(range(len(drawn.boxes)), 2)
    places = {(i, j): relation(drawn.boxes[i], drawn.boxes[j]) for i, j in pairs}
    return {pair: where for pair, where in places.items() if where is not None}


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
