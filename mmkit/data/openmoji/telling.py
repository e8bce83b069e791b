"""Built-in scenes with an English sentence made for each: the base of questions, statements and hypotheses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image

from mmkit.data.openmoji.captions import is_plural, named, with_the
from mmkit.data.openmoji.drawing import relation
from mmkit.data.openmoji.kinds import emoji_name
from mmkit.data.openmoji.scenes import Drawn, Scenes
from mmkit.data.records import Record
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language not in ("en", ("en",)):
            raise UserError(f"openmoji: language={self.language!r}; {self.what} are in English (en) only")

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self.n:
            raise IndexError(index)
        kind, label, told = self._make(index)
        key = f"openmoji:{self.what}/{self.split}/{self.seed}/{index}"
        return Record(
            image=self._show(told),
            captions=(told.text,),
            image_id=key,
            key=key,
            targets=self._about(index, kind, label, told),
        )

    def captions(self) -> Iterator[str]:
        """Every sentence, without painting."""
        for index in range(self.n):
            yield self._make(index)[2].text

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


def check_kinds(argument: str, kinds: tuple[str, ...], known: tuple[str, ...]) -> None:
    """UserError where none is given, or one that is not known."""
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        raise UserError(f"openmoji: {argument}={kinds}; there are {', '.join(known)}")


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
