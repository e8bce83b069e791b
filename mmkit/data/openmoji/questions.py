"""Questions about the built-in scenes, with answers that the picture alone decides.

Types, and what always giving the most frequent answer scores with the default arguments (``answers.majority_share``):

- ``yes/no``: "is there a cat?" Half yes; every emoji is asked for as often where it is as where it is not. 50 %
- ``number``: "how many emoji are there?" One, two and three as often. 33 %
- ``object``: "what is this?" of one emoji, "what is there with the dog?" of two. 1 %
- ``place``: "where is the cat relative to the dog?" Left, right, above and below as often. 25 %
- ``relation``: "what is to the left of the dog?", with a third emoji on another side of the dog. 1 %
- ``color``: "what color is the background?" Ten colours. 10 %; not with ``plain``, where all are white

Words of a question tell nothing of its answer beyond its type. Where two readings are possible (emoji placed askew; a
shark, asked for a fish) the question is not asked. English only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from mmkit.data.openmoji.drawing import COLOURS
from mmkit.data.openmoji.kinds import emoji_name, emoji_names, first_kinds, is_absent, is_vague, people
from mmkit.data.openmoji.telling import PLACES, WHERE, Told, ToldScenes, an, find, is_are, relations, the

TYPES = ("yes/no", "number", "object", "place", "relation", "color")
NEED_TWO = ("number", "place", "relation")


@dataclass(frozen=True)
class _Asked(Told):
    """A question about one composed picture."""

    answer: str


@dataclass(frozen=True, kw_only=True)
class Questions(ToldScenes[_Asked]):
    """``n`` questions, each about a scene of its own; the question is the record's one caption.

    The arguments are those of ``Scenes``, and scenes of one split never occur in another one, here or there. types:
    which of ``TYPES`` to ask, all as often; None = all that fit (``color`` only without ``plain``). ``place`` and
    ``relation`` are asked of plain kinds only: two people's names make too long a question.

    ``targets``: ``question``, ``answers`` (one), ``answer_type``, ``question_id``, and those of ``Scenes``.
    """

    what: ClassVar[str] = "questions"
    choice: ClassVar[str] = "types"
    every: ClassVar[tuple[str, ...]] = TYPES
    types: tuple[str, ...] | None = None

    def answers(self) -> list[str]:
        """Every answer there can be."""
        return answers(self.kinds, self.told_kinds, people_too=self.people > 0)

    def _unfit(self) -> Mapping[str, str]:
        white = "the type color asks for the background, and plain=True makes all of them white"
        few = {kind: f"the type {kind} needs scenes of several emoji, not max_emoji=1" for kind in NEED_TWO}
        return ({"color": white} if self.plain else {}) | (few if self.max_emoji < 2 else {})

    def _about(self, index: int, kind: str, label: int | str, told: _Asked) -> Mapping[str, Any]:
        own = {"question": told.text, "answers": [label], "answer_type": kind, "question_id": index}
        return own | self._targets(told.drawn)

    def _make(self, index: int) -> tuple[str, str, _Asked]:
        rng = Random(f"{self.seed} {self.split} question {index}")
        kind = rng.choice(self.told_kinds)
        ask: Callable[[Random], _Asked] = {
            "yes/no": self._presence, "number": self._number, "object": self._object, "place": self._where,
            "relation": self._neighbour, "color": self._colour,
        }[kind]  # fmt: skip
        asked = ask(rng)
        return kind, asked.answer, asked

    def _presence(self, rng: Random) -> _Asked:
        answer = rng.choice(("yes", "no"))

        def attempt() -> _Asked | None:
            drawn = self._invent(rng)
            # "no" asks for an emoji of another scene, so that each is asked for as often as it is shown
            asked = rng.choice((drawn if answer == "yes" else self._invent(rng)).scene.emoji)
            if is_vague(asked) if answer == "yes" else not is_absent(asked, drawn.scene.emoji):
                return None
            text = rng.choice((f"{is_are(asked)} there {an(asked)}?", f"do you see {an(asked)}?"))
            return _Asked(drawn, text, answer)

        return find(attempt, self.kinds, self.split)

    def _number(self, rng: Random) -> _Asked:
        count = rng.randint(1, self.max_emoji)
        text = rng.choice(("how many emoji are there?", "how many emoji do you see?"))
        return _Asked(self._invent(rng, count), text, str(count))

    def _object(self, rng: Random) -> _Asked:
        drawn = self._invent(rng, rng.randint(1, min(2, self.max_emoji)))
        first, *rest = rng.sample(drawn.scene.emoji, len(drawn.scene.emoji))
        if not rest:
            text = rng.choice(("what is this?", "what do you see?"))
        else:
            text = rng.choice((f"what is there with {the(rest[0])}?", f"what do you see with {the(rest[0])}?"))
        return _Asked(drawn, text, emoji_name(first))

    def _where(self, rng: Random) -> _Asked:
        place = rng.choice(PLACES)

        def attempt() -> _Asked | None:
            drawn = self._invent(rng, rng.randint(2, self.max_emoji), people=0.0)
            pairs = [pair for pair, where in relations(drawn).items() if where == place]
            if not pairs:
                return None
            one, other = (drawn.scene.emoji[i] for i in rng.choice(pairs))
            return _Asked(drawn, f"where {is_are(one)} {the(one)} relative to {the(other)}?", place)

        return find(attempt, self.kinds, self.split)

    def _neighbour(self, rng: Random) -> _Asked:
        place = rng.choice(PLACES)

        def attempt() -> _Asked | None:
            drawn = self._invent(rng, self.max_emoji, people=0.0)
            clear, everyone = relations(drawn), range(len(drawn.scene.emoji))
            for anchor in rng.sample(everyone, len(everyone)):
                # None (askew) counts as a possible answer, so that what is asked for is the only one
                there = [i for i in everyone if i != anchor and clear.get((i, anchor)) in (place, None)]
                if len(there) == 1 and (there[0], anchor) in clear:
                    asked, answer = drawn.scene.emoji[anchor], drawn.scene.emoji[there[0]]
                    return _Asked(drawn, f"what is {WHERE[place]} {the(asked)}?", emoji_name(answer))
            return None

        return find(attempt, self.kinds, self.split)

    def _colour(self, rng: Random) -> _Asked:
        drawn = self._invent(rng)
        text = rng.choice(("what color is the background?", "what is the color of the background?"))
        return _Asked(drawn, text, drawn.scene.colour)


def answers(kinds: int = 200, types: tuple[str, ...] | None = None, people_too: bool = True) -> list[str]:
    """Every answer to questions of these types (None = all) about so many kinds, and the people that training shows."""
    types = TYPES if types is None else types
    found = ["no", "yes"] if "yes/no" in types else []
    found += ["1", "2", "3"] if "number" in types else []
    found += PLACES if "place" in types else ()
    found += COLOURS if "color" in types else ()
    if {"object", "relation"} & set(types):
        found += emoji_names(first_kinds(kinds))
    if "object" in types and people_too:
        found += emoji_names(people(held_out=False))
    return found
