"""Two built-in scenes and a sentence that is true or false of them (the task of NLVR2, Suhr et al. 2019).

Whether the sentence is true depends on both pictures: for any sentence and any one of them, it is true as often as
false. So the sentence alone, or one picture with it, gives 50 %. Kinds of sentence, each with its opposite:

- ``one``: "exactly one picture shows a cat" / "either both pictures show a cat or neither does"
- ``shared``: "one emoji is in both pictures" / "no emoji is in both pictures"
- ``count``: "both pictures show equally many emoji" / "one picture shows more emoji than the other"
- ``place``: "the pictures show the cat on the same side of the dog" / "... on different sides of the dog"
- ``color``: "both backgrounds have the same color" / "the backgrounds have different colors"; not with ``plain``

And ``both``, which is not among the default ones: "both pictures show a cat". It is far easier to learn, and one
picture tells more: 75 %. English only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from mmkit.data.openmoji.drawing import COLOURS
from mmkit.data.openmoji.kinds import is_absent, is_vague
from mmkit.data.openmoji.scenes import Drawn
from mmkit.data.openmoji.telling import PLACES, Told, ToldScenes, an, find, relations, the

CLASSES = ("False", "True")
"""What the labels 0 and 1 mean."""
SENTENCES = ("one", "shared", "count", "place", "color", "both")
NEED_TWO = ("count", "place", "color")


@dataclass(frozen=True)
class _Pair(Told):
    """A sentence about two composed pictures, ``drawn`` and the one to its right."""

    right: Drawn


@dataclass(frozen=True, kw_only=True)
class Pairs(ToldScenes[_Pair]):
    """``n`` pairs of scenes with a sentence, which is the record's one caption; half of them are true.

    The arguments are those of ``Scenes``, and both pictures are of its split. sentences: which kinds to make, all as
    often; None = all that fit, but ``both``. ``Record.image`` is the left picture; ``targets``: ``second`` (the right
    one), ``label`` (1 = true), ``kind``, and ``boxes`` and ``second_boxes`` of the pictures.
    """

    what: ClassVar[str] = "pairs"
    choice: ClassVar[str] = "sentences"
    every: ClassVar[tuple[str, ...]] = SENTENCES
    seldom: ClassVar[tuple[str, ...]] = ("both",)
    sentences: tuple[str, ...] | None = None

    @property
    def class_names(self) -> list[str]:
        """What the labels mean."""
        return list(CLASSES)

    def _unfit(self) -> Mapping[str, str]:
        white = "sentences of color tell backgrounds apart, and plain=True makes all of them white"
        few = {kind: f"sentences of {kind} need scenes of several emoji, not max_emoji=1" for kind in NEED_TWO}
        return (few if self.max_emoji < 2 else {}) | ({"color": white} if self.plain else {})

    def _about(self, index: int, kind: str, label: int | str, told: _Pair) -> Mapping[str, Any]:
        return {
            "second": self._paint(told.right), "label": label, "kind": kind,
            "boxes": self._targets(told.drawn)["boxes"], "second_boxes": self._targets(told.right)["boxes"],
        }  # fmt: skip

    def _make(self, index: int) -> tuple[str, int, _Pair]:
        rng = Random(f"{self.seed} {self.split} pair {index}")
        kind, label = rng.choice(self.told_kinds), rng.randint(0, 1)
        if kind == "both":
            return kind, label, self._both(label == 1, rng)
        make: Callable[[bool, bool, Random], _Pair] = {
            "one": self._one, "shared": self._shared, "count": self._equally_many, "place": self._same_place,
            "color": self._same_colour,
        }[kind]  # fmt: skip
        # Every sentence says "same" or "different" of the pictures, and is true or false: both are drawn alike.
        says_same = rng.random() < 0.5
        return kind, label, make(says_same, says_same == (label == 1), rng)

    def _one(self, says_same: bool, same: bool, rng: Random) -> _Pair:
        left = rng.random() < 0.5
        pictures, asked = self._with_and_without((left, left == same), rng)
        if says_same:
            return _pair(*pictures, f"either both pictures show {an(asked)} or neither does")
        return _pair(*pictures, f"exactly one picture shows {an(asked)}")

    def _both(self, true: bool, rng: Random) -> _Pair:
        has = (True, True) if true else rng.choice(((True, False), (False, True)))
        pictures, asked = self._with_and_without(has, rng)
        return _pair(*pictures, f"both pictures show {an(asked)}")

    def _shared(self, says_same: bool, same: bool, rng: Random) -> _Pair:
        text = f"{'one' if says_same else 'no'} emoji is in both pictures"
        first, second = self._count(rng), self._count(rng)  # fixed now, so that they tell nothing

        def attempt() -> _Pair | None:
            left = self._invent(rng, first)
            right = self._with(rng.choice(left.scene.emoji), second, rng) if same else self._invent(rng, second)
            fits = right is not None and len({*left.scene.emoji} & {*right.scene.emoji}) == same
            return _pair(left, right, text) if right is not None and fits else None

        return find(attempt, self.kinds, self.split)

    def _equally_many(self, says_same: bool, same: bool, rng: Random) -> _Pair:
        count = rng.randint(1, self.max_emoji)
        other = count if same else rng.choice([n for n in range(1, self.max_emoji + 1) if n != count])
        told = "both pictures show equally many emoji" if says_same else "one picture shows more emoji than the other"
        return _pair(self._invent(rng, count), self._invent(rng, other), told)

    def _same_place(self, says_same: bool, same: bool, rng: Random) -> _Pair:
        left = self._invent(rng, 2, people=0.0)
        place = rng.choice(PLACES)
        other = place if same else rng.choice([p for p in PLACES if p != place])
        one, two = (self._placed(left, where, rng) for where in (place, other))
        a, b = left.scene.emoji
        sides = "on the same side" if says_same else "on different sides"
        return _pair(one, two, f"the pictures show {the(a)} {sides} of {the(b)}")

    def _same_colour(self, says_same: bool, same: bool, rng: Random) -> _Pair:
        # one emoji alone is a combination with its colour, so these scenes have several
        left, right = (self._invent(rng, rng.randint(2, self.max_emoji)) for _ in range(2))
        colour = left.scene.colour
        other = colour if same else rng.choice([c for c in COLOURS if c != colour])
        text = "both backgrounds have the same color" if says_same else "the backgrounds have different colors"
        return _pair(left, self._place(right.scene.emoji, other, rng), text)

    def _with_and_without(self, has: tuple[bool, bool], rng: Random) -> tuple[tuple[Drawn, Drawn], str]:
        """Two pictures, and an emoji that they have or have not."""
        counts = self._count(rng), self._count(rng)  # fixed now, so that they tell nothing

        def attempt() -> tuple[tuple[Drawn, Drawn], str] | None:
            asked = rng.choice(self._people_or_plain(rng))
            one, two = (
                self._with(asked, n, rng) if h else self._invent(rng, n) for h, n in zip(has, counts, strict=True)
            )
            if is_vague(asked) or one is None or two is None:
                return None
            fits = all(h or is_absent(asked, drawn.scene.emoji) for h, drawn in zip(has, (one, two), strict=True))
            return ((one, two), asked) if fits else None

        return find(attempt, self.kinds, self.split)

    def _placed(self, like: Drawn, place: str, rng: Random) -> Drawn:
        """The same two emoji again, the first of them there, seen from the second."""

        def attempt() -> Drawn | None:
            drawn = self._place(like.scene.emoji, rng.choice(tuple(COLOURS)), rng)
            return drawn if relations(drawn)[0, 1] == place else None

        return find(attempt, self.kinds, self.split)


def _pair(left: Drawn, right: Drawn, text: str) -> _Pair:
    return _Pair(left, text, right)
