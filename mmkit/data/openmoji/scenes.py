"""The built-in data: scenes of drawn emoji with captions, single emoji with labels, and emoji never trained on.

Every picture follows from (seed, split, index) and is drawn when asked for, in a fraction of a millisecond. Two splits
never share a scene: which split a combination of emoji belongs to is a property of the combination. Emoji of people
are split a second time, by emoji: ``Unseen`` holds those whose parts all occur in training, but never together.

Questions, pairs with statements, and hypotheses about such scenes have modules beside this one. Drawings: OpenMoji, see
``ATTRIBUTION``. Left out for now: video.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from random import Random
from typing import Any, Literal

from PIL import Image

from mmkit.data.openmoji.captions import Said, Scene, named, phrases_of, say, text_of
from mmkit.data.openmoji.drawing import GROUNDS, TEXTURES, Box, draw, place, relation
from mmkit.data.openmoji.kinds import Pool, check_language, emoji_name, emoji_names, first_kinds, people, pool_of
from mmkit.data.records import ByNumber, Choose, Record
from mmkit.errors import UserError

ATTRIBUTION = (
    "Emoji designed by OpenMoji, the open-source emoji and icon project (https://openmoji.org). "
    "License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). Names: Unicode CLDR."
)

Split = Literal["train", "val", "test"]
SHARES = {"train": 90, "val": 5, "test": 5}  # of the combinations, percent


@dataclass(frozen=True)
class Drawn:
    """One composed picture, before it is painted."""

    scene: Scene
    boxes: tuple[Box, ...]
    texture: str


@dataclass(frozen=True, kw_only=True)
class _Openmoji(ByNumber):
    """What the sources share: painting, and captions in one or several languages.

    plain: emoji of similar size on white, and captions that list what is there; a small model learns these in minutes.
    Otherwise grounds differ in colour and texture, and captions tell of places, sizes and colours too.
    """

    seed: int = 0
    language: str | tuple[str, ...] = "en"
    size: int = 96
    plain: bool = False

    def __post_init__(self) -> None:
        for language in self._languages:
            check_language(language)
        if self.size < 32:
            raise UserError(f"openmoji: size={self.size}; scenes need at least 32 pixels")

    def with_one_caption(self, index: int, choose: Choose) -> Record:
        """See ``Source``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._at(index, choose)

    def captions(self) -> Iterator[str]:
        """Every caption, without painting."""
        for index in range(len(self)):
            yield from self._captions(index, self._compose(index).scene)

    @cached_property
    def _languages(self) -> tuple[str, ...]:
        return (self.language,) if isinstance(self.language, str) else tuple(self.language)

    def _at(self, index: int, choose: Choose | None = None) -> Record:
        """choose: as of ``with_one_caption``; None = the whole record."""
        raise NotImplementedError

    def _compose(self, index: int) -> Drawn:
        raise NotImplementedError

    def _record(
        self, name: str, index: int, picture: Image.Image, captions: tuple[str, ...], targets: Mapping[str, Any],
        choose: Choose | None = None,
    ) -> Record:  # fmt: skip
        """choose: which caption alone it has; None = all."""
        captions = captions if choose is None else (captions[choose(len(captions))],)
        key = f"openmoji:{name}/{self.seed}/{index}"
        return Record(image=picture, captions=captions, image_id=key, key=key, targets=targets)

    def _captions(self, index: int, scene: Scene, paraphrases: int = 1) -> tuple[str, ...]:
        return tuple(map(text_of, self._said(index, scene, paraphrases)))

    def _said(self, index: int, scene: Scene, paraphrases: int = 1, most: int | None = None) -> list[Said]:
        """All captions, or so many of the first."""
        languages = [language for language in self._languages for _ in range(paraphrases)][:most]
        if self.plain and len(scene.emoji) == 1:  # there is one way to say it
            [emoji], [size] = scene.emoji, scene.sizes
            return [((named(emoji, size, language), 0),) for language in languages]
        rng = Random(f"{self.seed} {type(self).__name__} words {index}")
        return [say(scene, language, rng) for language in languages]

    def _paint(self, drawn: Drawn) -> Image.Image:
        placed = list(zip(drawn.scene.emoji, drawn.boxes, strict=True))
        return draw(placed, drawn.scene.colour or "white", drawn.texture, self.size)

    def _place(self, emoji: tuple[str, ...], colour: str, rng: Random) -> Drawn:
        if not self.plain:
            return compose(emoji, colour, self.size, rng, VARIED)
        boxes = placed(emoji, self.size, rng, SIMILAR)
        rng.choice(TEXTURES)  # of what is drawn next nothing depends on ``plain``
        return Drawn(plainly(emoji), tuple(boxes), "plain")

    def _targets(self, drawn: Drawn) -> dict[str, Any]:
        boxes = [
            {"name": emoji_name(e, self._languages[0]), "emoji": e, "box": tuple(box)}
            for e, box in zip(drawn.scene.emoji, drawn.boxes, strict=True)
        ]
        return {"boxes": boxes, "background": drawn.scene.colour or "white"}

    def _told(
        self, name: str, index: int, drawn: Drawn, paraphrases: int = 1, choose: Choose | None = None, **more: Any
    ) -> Record:  # fmt: skip
        """The record, with what each part of its captions names; or as ``with_one_caption`` gives it."""
        if choose is None:
            said = self._said(index, drawn.scene, paraphrases)
            targets = {**more, **self._targets(drawn), "phrases": phrases(said)}
        else:
            number = choose(paraphrases * len(self._languages))
            said = self._said(index, drawn.scene, paraphrases, number + 1)[number:]
            targets = {**more, "background": drawn.scene.colour or "white"}
        return self._record(name, index, self._paint(drawn), tuple(map(text_of, said)), targets)


@dataclass(frozen=True, kw_only=True)
class Scenes(_Openmoji):
    """``n`` scenes of one to ``max_emoji`` emoji; captions name all of them, where they are, and what stands out.

    split: "train", "val" or "test"; they have no combination of emoji in common. kinds: how many plain kinds to use.
    people: the share of emoji that are people, of those that training may show. paraphrases: captions per scene and
    language. size: of the picture in pixels. counts: how often scenes of one, two and three emoji are drawn, as
    proportions; None = alike when plain, else 1:2:2. ``targets``: ``boxes``, a list of {name, emoji, box (left, top,
    right, bottom) in pixels}; ``phrases``, what each part of a caption names: {caption: its number, spans: its
    characters, boxes: their numbers}; and ``background``. pool: "boxed" or "unboxed" draws of the kinds those alone
    that have boxes in training for detection, or have none there (``unboxed_kinds``).
    """

    split: Split = "train"
    n: int = 20_000
    max_emoji: int = 3
    kinds: int = 200
    people: float = 0.1
    paraphrases: int = 1
    counts: tuple[float, float, float] | None = None
    pool: Pool = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        pool_of(self.kinds, self.pool)
        check_split(self.split)
        if self.n < 1 or not 1 <= self.max_emoji <= 3 or self.paraphrases < 1 or not 0 <= self.people <= 1:
            raise UserError(
                f"openmoji: n={self.n} and paraphrases={self.paraphrases} must be at least 1, "
                f"max_emoji={self.max_emoji} in 1..3, people={self.people} in 0..1"
            )
        if self.counts is not None and (len(self.counts) != 3 or min(self.counts) < 0 or self.counts[0] <= 0):
            raise UserError(f"openmoji: counts={self.counts}; give three proportions, the first above 0")

    def __len__(self) -> int:
        return self.n

    def _at(self, index: int, choose: Choose | None = None) -> Record:
        return self._told(self.split, index, self._compose(index), self.paraphrases, choose)

    def captions(self) -> Iterator[str]:
        """Every caption, without painting."""
        for index in range(self.n):
            yield from self._captions(index, self._scene(index), self.paraphrases)

    @cached_property
    def object_names(self) -> list[str]:
        """What boxes are called, in the (first) language: all kinds, whatever the pool, then people where some are."""
        some = people(held_out=False) if self.people else ()
        return emoji_names((*first_kinds(self.kinds), *some), self._languages[0])

    @cached_property
    def _plain(self) -> tuple[str, ...]:
        return pool_of(self.kinds, self.pool)

    @cached_property
    def _people(self) -> tuple[str, ...]:
        return people(held_out=False)

    def _compose(self, index: int) -> Drawn:
        return self._invent(self._random(index))

    def _scene(self, index: int) -> Scene:
        """What captions tell of; places are sought where they tell of these."""
        return plainly(self._combination(self._random(index))[0]) if self.plain else self._compose(index).scene

    def _random(self, index: int) -> Random:
        return Random(f"{self.seed} {self.split} {index}")

    def _invent(self, rng: Random, count: int | None = None, people: float | None = None) -> Drawn:
        """A scene of the split, with ``count`` emoji and this share of people; None = as for captions."""
        return self._place(*self._combination(rng, count, people), rng)

    def _combination(
        self, rng: Random, count: int | None = None, people: float | None = None
    ) -> tuple[tuple[str, ...], str]:
        """Its emoji and its colour."""
        fixed = count
        for _ in range(100_000):
            count = fixed or self._count(rng)
            emoji = tuple([rng.choice(self._people_or_plain(rng, people)) for _ in range(count)])
            colour = rng.choice(GROUNDS)
            if len(set(emoji)) == count and combination_split(emoji, colour) == self.split:
                return emoji, colour
        raise UserError(f"openmoji: kinds={self.kinds} make no scene of {fixed or 'any'} emoji in split {self.split!r}")

    def _with(self, given: str, count: int, rng: Random) -> Drawn | None:
        """A scene of ``count`` emoji, ``given`` among them; None where the split (nearly) has none."""
        for _ in range(300):
            others = [rng.choice(self._people_or_plain(rng)) for _ in range(count - 1)]
            emoji, colour = tuple(rng.sample([given, *others], count)), rng.choice(GROUNDS)
            if len(set(emoji)) == count and combination_split(emoji, colour) == self.split:
                return self._place(emoji, colour, rng)
        return None

    def _count(self, rng: Random) -> int:
        return min(self.max_emoji, 1 + bisect(self._shares, rng.random() * self._shares[-1], 0, 2))

    @cached_property
    def _shares(self) -> tuple[float, ...]:
        return tuple(accumulate(self.counts or ((1, 1, 1) if self.plain else (1, 2, 2))))

    def _people_or_plain(self, rng: Random, people: float | None = None) -> tuple[str, ...]:
        return self._people if rng.random() < (self.people if people is None else people) else self._plain


@dataclass(frozen=True, kw_only=True)
class Singles(_Openmoji):
    """Each of the first ``kinds`` kinds alone, ``variations`` times; ``targets["label"]`` indexes ``class_names``.

    Colour, texture, place and size of the drawing vary with the index and the seed.
    """

    kinds: int = 200
    variations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self._classes or self.variations < 1:
            raise UserError(f"openmoji: variations={self.variations} must be at least 1")

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return first_kinds(self.kinds)

    @property
    def class_names(self) -> list[str]:
        """The names that the labels index, in the (first) language."""
        return emoji_names(self._classes, self._languages[0])

    def __len__(self) -> int:
        return len(self._classes) * self.variations

    def _at(self, index: int, choose: Choose | None = None) -> Record:
        label = index % len(self._classes)
        return self._told(type(self).__name__.lower(), index, self._compose(index), choose=choose, label=label)

    def _compose(self, index: int) -> Drawn:
        rng = Random(f"{self.seed} single {index}")
        emoji = self._classes[index % len(self._classes)]
        return self._place((emoji,), rng.choice(GROUNDS), rng)


@dataclass(frozen=True, kw_only=True)
class Unseen(Singles):
    """The people that no training scene shows, alone: all 40, whatever ``kinds`` is. Labels index ``unseen_names``."""

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return people(held_out=True)


def phrases(said: Sequence[Said]) -> list[dict[str, Any]]:
    """What each part of each caption names, as ``targets["phrases"]``; the boxes are in the order of the emoji."""
    return [
        {"caption": number, "spans": [span], "boxes": [emoji]}
        for number, one in enumerate(said) for span, emoji in phrases_of(one)
    ]  # fmt: skip


def class_names(kinds: int = 200, language: str = "en") -> list[str]:
    """The names of the first so many kinds, in the order of the labels of ``Singles``."""
    return emoji_names(first_kinds(kinds), language)


def unseen_names(language: str = "en") -> list[str]:
    """The names of the emoji that are never in training, in the order of the labels of ``Unseen``."""
    return emoji_names(people(held_out=True), language)


def check_split(split: str) -> None:
    """UserError for what is no split."""
    if split not in SHARES:
        raise UserError(f"openmoji: split={split!r}; there are {', '.join(SHARES)}")


def combination_split(emoji: Sequence[str], colour: str) -> str:
    """The split that a combination belongs to. One emoji alone is a combination with its colour."""
    parts = sorted(emoji) if len(emoji) > 1 else [*emoji, colour]
    draw = int.from_bytes(hashlib.blake2b(" ".join(parts).encode(), digest_size=4).digest(), "big") % 100
    for split, share in SHARES.items():
        draw -= share
        if draw < 0:
            return split
    raise AssertionError("the shares sum to 100")


VARIED = {1: (0.4, 0.9), 2: (0.32, 0.6), 3: (0.3, 0.46)}
SIMILAR = {1: (0.42, 0.48), 2: (0.42, 0.48), 3: (0.4, 0.44)}
"""How large emoji are drawn, as shares of the picture's side, by how many there are."""


def placed(emoji: tuple[str, ...], size: int, rng: Random, range_of: Mapping[int, Any]) -> list[Box]:
    """A size and a place for each. range_of: ``VARIED`` or ``SIMILAR``."""
    low, high = range_of[len(emoji)]
    return place(emoji, [rng.uniform(low, high) for _ in emoji], size, rng)


def plainly(emoji: tuple[str, ...]) -> Scene:
    """The scene of these emoji where captions list them and tell nothing more."""
    nothing = ("",) * len(emoji)
    return Scene(emoji, nothing, nothing, "")


def compose(emoji: tuple[str, ...], colour: str, size: int, rng: Random, range_of: Mapping[int, Any]) -> Drawn:
    """Sizes, places and relations for these emoji. range_of: ``VARIED`` or ``SIMILAR``."""
    boxes = placed(emoji, size, rng, range_of)
    shares = [box.side / size for box in boxes]
    if len(emoji) == 1:
        words = ["large" if shares[0] > 0.72 else "small" if shares[0] < 0.5 else ""]
    else:
        rest = [(sum(shares) - share) / (len(shares) - 1) for share in shares]
        words = [
            "large" if share > 1.3 * other else "small" if 1.3 * share < other else ""
            for share, other in zip(shares, rest, strict=True)
        ]
    relations = [""] + [relation(b, a) or "" for a, b in pairwise(boxes)]
    return Drawn(Scene(emoji, tuple(words), tuple(relations), colour), tuple(boxes), rng.choice(TEXTURES))
