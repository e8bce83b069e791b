"""Crowded built-in scenes: four to ten small emoji, kinds that occur several times, piles that are marked as crowds.

For what scenes of three large emoji never show: small objects, many of one kind, boxes around many. A pile is of one
kind, its parts over each other, and has one box, with ``crowd``; there may be others of its kind beside it. Captions
list the kinds, each once: its phrase has the boxes of all of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, NamedTuple

from mmkit.data.openmoji.captions import PHRASES, Said, listed, named, text_of
from mmkit.data.openmoji.drawing import COLOURS, TEXTURES, Box, clear_of, draw, sides, sprite
from mmkit.data.openmoji.kinds import Pool, emoji_name, emoji_names, first_kinds, pool_of
from mmkit.data.openmoji.scenes import Split, _Openmoji, check_split, combination_split, phrases
from mmkit.data.records import Choose, Record
from mmkit.errors import UserError

SMALL = (0.1, 0.24)
"""How large emoji are drawn, as shares of the picture's side."""
PILE, IN_PILE = 0.36, (5, 9)
"""The side of a pile, as a share, and how many it is made of."""
KINDS_SHARE = 0.6
"""So many distinct kinds for each object, about: the others repeat one."""


class Thing(NamedTuple):
    """An object: what is drawn for it, one emoji or a pile, and the box around all of that."""

    emoji: str
    drawn: tuple[Box, ...]
    box: Box

    @property
    def crowd(self) -> bool:
        """Whether it is a pile."""
        return len(self.drawn) > 1


@dataclass(frozen=True)
class Crowd:
    """A composed picture, before it is painted."""

    things: tuple[Thing, ...]
    colour: str
    texture: str


@dataclass(frozen=True, kw_only=True)
class Crowded(_Openmoji):
    """``n`` scenes of ``fewest`` to ``most`` objects.

    split: "train", "val" or "test"; they have no combination of kinds in common. kinds, pool: as of ``Scenes``. piles:
    the share of scenes with one. size: of the picture in pixels; small emoji need 96 or more to be told apart.
    ``targets``: as of ``Scenes``, with ``crowd`` where a box is around a pile.
    """

    split: Split = "train"
    n: int = 20_000
    kinds: int = 200
    pool: Pool = "all"
    fewest: int = 4
    most: int = 10
    piles: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_split(self.split)
        if self.n < 1 or not 1 <= self.fewest <= self.most <= 12 or not 0 <= self.piles <= 1:
            raise UserError(
                f"openmoji: n={self.n} must be at least 1, fewest={self.fewest} and most={self.most} in 1..12, "
                f"piles={self.piles} in 0..1"
            )
        if len(self._pool) < 4:
            raise UserError(f"openmoji: kinds={self.kinds}, pool={self.pool!r} are too few for crowded scenes")

    def __len__(self) -> int:
        return self.n

    def captions(self) -> Iterator[str]:
        """Every caption, without painting."""
        for index in range(self.n):
            yield from map(text_of, self._lists(index, self._invent(index)))

    @cached_property
    def object_names(self) -> list[str]:
        """What boxes are called, in the (first) language: all kinds, whatever the pool."""
        return emoji_names(first_kinds(self.kinds), self._languages[0])

    @cached_property
    def _pool(self) -> tuple[str, ...]:
        return pool_of(self.kinds, self.pool)

    def _at(self, index: int, choose: Choose | None = None) -> Record:
        crowd = self._invent(index)
        said = self._lists(index, crowd)
        boxes: list[dict[str, Any]] = [
            {"name": emoji_name(thing.emoji, self._languages[0]), "emoji": thing.emoji, "box": tuple(thing.box)}
            | ({"crowd": True} if thing.crowd else {})
            for thing in crowd.things
        ]
        own = {emoji: [i for i, thing in enumerate(crowd.things) if thing.emoji == emoji] for emoji in _kinds(crowd)}
        told = [{**one, "boxes": own[_kinds(crowd)[one["boxes"][0]]]} for one in phrases(said)]
        placed = [(thing.emoji, box) for thing in crowd.things for box in thing.drawn]
        picture = draw(placed, crowd.colour, crowd.texture, self.size)
        targets = {"boxes": boxes, "phrases": told, "background": crowd.colour}
        return self._record(f"crowded/{self.split}", index, picture, tuple(map(text_of, said)), targets, choose)

    def _lists(self, index: int, crowd: Crowd) -> list[Said]:
        """The kinds in each language, in any order."""
        rng, out = Random(f"{self.seed} crowded words {index}"), []
        for language in self._languages:
            parts: list[Said] = [((named(emoji, "", language), i),) for i, emoji in enumerate(_kinds(crowd))]
            rng.shuffle(parts)
            out.append(listed(parts, PHRASES[language].joined))
        return out

    def _invent(self, index: int) -> Crowd:
        rng = Random(f"{self.seed} crowded {self.split} {index}")
        for _ in range(100_000):
            count, colour = rng.randint(self.fewest, self.most), rng.choice(tuple(COLOURS))
            distinct = rng.sample(self._pool, min(len(self._pool), max(2, round(KINDS_SHARE * count))))
            if combination_split(distinct, colour) != self.split:
                continue
            emoji = [*distinct, *(rng.choice(distinct) for _ in range(count - len(distinct)))][:count]
            things = _placed(emoji, rng.random() < self.piles, self.size, rng)
            if things is not None:
                ground = ("white", "plain") if self.plain else (colour, rng.choice(TEXTURES))
                return Crowd(things, *ground)
        raise UserError(f"openmoji: no crowded scene of {self.fewest} to {self.most} emoji on {self.size} pixels")


def _kinds(crowd: Crowd) -> list[str]:
    """The distinct kinds, in the order in which they occur."""
    return list(dict.fromkeys(thing.emoji for thing in crowd.things))


def _placed(emoji: Sequence[str], pile: bool, size: int, rng: Random) -> tuple[Thing, ...] | None:
    """A place for each, with little overlap, the first as a pile where there is one; None where they do not fit."""
    things: list[Thing] = []
    for i, one in enumerate(emoji):
        thing = _fitting(one, pile and i == 0, size, [other.box for other in things], rng)
        if thing is None:
            return None
        things.append(thing)
    return tuple(things)


def _fitting(emoji: str, pile: bool, size: int, taken: Sequence[Box], rng: Random) -> Thing | None:
    for _ in range(60):
        drawn = _pile(emoji, size, rng) if pile else (_somewhere(emoji, SMALL, (0, 0, size, size), size, rng),)
        box = Box(
            *map(min, zip(*(b[:2] for b in drawn), strict=True)), *map(max, zip(*(b[2:] for b in drawn), strict=True))
        )
        if all(clear_of(box, other) for other in taken):
            return Thing(emoji, drawn, box)
    return None


def _pile(emoji: str, size: int, rng: Random) -> tuple[Box, ...]:
    side = round(PILE * size)
    left, top = (int(rng.random() * (size - side + 1)) for _ in range(2))
    return tuple(
        _somewhere(emoji, SMALL, (left, top, left + side, top + side), size, rng) for _ in range(rng.randint(*IN_PILE))
    )


def _somewhere(
    emoji: str, range_of: tuple[float, float], within: tuple[int, int, int, int], size: int, rng: Random
) -> Box:  # fmt: skip
    """A tight box for one emoji inside a rectangle."""
    [side] = sides([rng.uniform(*range_of)], size)
    width, height = sprite(emoji, side).size
    left, top, right, bottom = within
    x, y = left + int(rng.random() * (right - left - width + 1)), top + int(rng.random() * (bottom - top - height + 1))
    return Box(x, y, x + width, y + height)
