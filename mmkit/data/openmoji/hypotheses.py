"""A built-in scene as premise and a sentence about it: contradiction, neutral or entailment (the task of SNLI-VE).

What a picture leaves open is made visible: a grey card may lie over one of the emoji. A sentence is

- entailment (2) where what is seen makes it true,
- contradiction (0) where what is seen makes it false,
- neutral (1) where it depends on what is under the card.

Kinds: ``presence``, "there is a cat" / "there is no cat", with a card in two pictures of three; and ``relation``, "the
cat is to the left of the dog", with a card in each: neutral where one of the two is seen and the other may be under the
card, which lies on the side told. Whatever the sentence, each label is as likely: the sentence alone gives 33 %. The
picture alone gives 50 % for ``presence`` (without a card nothing is open) and 33 % for ``relation``. English only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from PIL import Image, ImageDraw

from mmkit.data.openmoji.captions import OPPOSITE
from mmkit.data.openmoji.drawing import Box, background, relation, sprite
from mmkit.data.openmoji.kinds import is_absent, is_vague
from mmkit.data.openmoji.scenes import Drawn
from mmkit.data.openmoji.telling import PLACES, WHERE, Told, ToldScenes, an, find, is_are, relations, the

CLASSES = ("contradiction", "neutral", "entailment")
"""What the labels 0, 1 and 2 mean."""
NEEDED_EMOJI = {"presence": 2, "relation": 3}
"""The kinds of hypotheses, and of how many emoji their scenes must be."""
CARD, EDGE = (92, 96, 106), (44, 46, 52)


@dataclass(frozen=True)
class _Case(Told):
    """A sentence about a composed picture, and which of its emoji a card covers (or None)."""

    covered: int | None


@dataclass(frozen=True, kw_only=True)
class Hypotheses(ToldScenes[_Case]):
    """``n`` scenes with a hypothesis each, which is the record's one caption; each label as often.

    The arguments are those of ``Scenes``. hypotheses: which kinds to make, all as often; None = all that fit
    (``relation`` needs scenes of three). ``targets``: ``label`` (see ``CLASSES``), ``kind``, ``boxes`` of what is seen,
    and ``card``, its box or None.
    """

    what: ClassVar[str] = "hypotheses"
    choice: ClassVar[str] = "hypotheses"
    every: ClassVar[tuple[str, ...]] = tuple(NEEDED_EMOJI)
    hypotheses: tuple[str, ...] | None = None

    @property
    def class_names(self) -> list[str]:
        """What the labels mean."""
        return list(CLASSES)

    def _unfit(self) -> Mapping[str, str]:
        few = {kind: needs for kind, needs in NEEDED_EMOJI.items() if self.max_emoji < needs}
        return {kind: f"these hypotheses need max_emoji={n}, not {self.max_emoji}" for kind, n in few.items()}

    def _about(self, index: int, kind: str, label: int | str, told: _Case) -> Mapping[str, Any]:
        boxes = self._targets(told.drawn)["boxes"]
        seen = [box for i, box in enumerate(boxes) if i != told.covered]
        card = None if told.covered is None else tuple(card_over(told.drawn.boxes[told.covered], self.size))
        return {"label": label, "kind": kind, "boxes": seen, "card": card}

    def _make(self, index: int) -> tuple[str, int, _Case]:
        rng = Random(f"{self.seed} {self.split} hypothesis {index}")
        kind, label = rng.choice(self.told_kinds), rng.randrange(3)
        return kind, label, self._presence(label, rng) if kind == "presence" else self._relation(label, rng)

    def _presence(self, label: int, rng: Random) -> _Case:
        affirms = rng.random() < 0.5
        seen = label != 1 and affirms == (label == 2)
        card = seen or label == 1

        def attempt() -> _Case | None:
            asked = rng.choice(self._people_or_plain(rng))
            # A card covers one of several; without one there are as many to be seen as with it.
            count = rng.randint(2, self.max_emoji) if card else rng.randint(1, self.max_emoji - 1)
            drawn = self._with(asked, count, rng) if seen else self._invent(rng, count)
            if drawn is None or is_vague(asked) or not (seen or is_absent(asked, drawn.scene.emoji)):
                return None
            others = [i for i, emoji in enumerate(drawn.scene.emoji) if not (seen and emoji == asked)]
            no = "" if affirms else "no "
            thing = an(asked) if affirms else an(asked).removeprefix("an ").removeprefix("a ")
            return _Case(drawn, f"there {is_are(asked)} {no}{thing}", rng.choice(others) if card else None)

        return find(attempt, self.kinds, self.split)

    def _relation(self, label: int, rng: Random) -> _Case:
        place = rng.choice(PLACES)

        def attempt() -> _Case | None:
            drawn = self._invent(rng, 3, people=0.0)
            clear, wanted = relations(drawn), OPPOSITE[place] if label == 0 else place
            pairs = [pair for pair, where in clear.items() if where == wanted]
            if not pairs:
                return None
            both = rng.choice(pairs)
            names, third = [drawn.scene.emoji[i] for i in both], 3 - sum(both)
            if any(is_vague(name) for name in names):
                return None
            if label == 1:
                return self._half_covered(drawn, both, place, rng)
            return _Case(drawn, f"{the(names[0])} {is_are(names[0])} {WHERE[place]} {the(names[1])}", third)

        return find(attempt, self.kinds, self.split)

    def _half_covered(self, drawn: Drawn, both: tuple[int, int], place: str, rng: Random) -> _Case | None:
        """One of both goes under the card, and the sentence names something in its stead that may lie there."""
        role, other = rng.randrange(2), rng.choice(self._plain)
        names, boxes = [drawn.scene.emoji[i] for i in both], [drawn.boxes[i] for i in both]
        names[role], boxes[role] = other, card_over(boxes[role], self.size)
        seen = both[1 - role], 3 - sum(both)
        # what is seen is as clearly placed as in the other cases, so that the picture alone tells nothing
        if not is_absent(other, drawn.scene.emoji) or relation(*boxes) != place or seen not in relations(drawn):
            return None
        return _Case(drawn, f"{the(names[0])} {is_are(names[0])} {WHERE[place]} {the(names[1])}", both[role])

    def _show(self, case: _Case) -> Image.Image:
        canvas = background(case.drawn.scene.colour or "white", case.drawn.texture, self.size).copy()
        if case.covered is not None:
            lay_card(canvas, card_over(case.drawn.boxes[case.covered], self.size))
        for i, (emoji, box) in enumerate(zip(case.drawn.scene.emoji, case.drawn.boxes, strict=True)):
            if i != case.covered:
                layer = sprite(emoji, box.side)
                canvas.paste(layer, (box.left, box.top), layer)
        return canvas


def card_over(box: Box, size: int) -> Box:
    """Where the card lies: a square, whose shape tells nothing of what is under it, within the picture."""
    left = min(max(0, round(box.centre[0] - box.side / 2)), size - box.side)
    top = min(max(0, round(box.centre[1] - box.side / 2)), size - box.side)
    return Box(left, top, left + box.side, top + box.side)


def lay_card(canvas: Image.Image, box: Box) -> None:
    """A grey card with a dark edge and a cross, over the box."""
    pen = ImageDraw.Draw(canvas)
    corners = (box.left, box.top, box.right - 1, box.bottom - 1)
    pen.rectangle(corners, fill=CARD, outline=EDGE, width=max(1, canvas.width // 64))
    pen.line(corners, fill=EDGE, width=max(1, canvas.width // 64))
    pen.line((box.left, box.bottom - 1, box.right - 1, box.top), fill=EDGE, width=max(1, canvas.width // 64))
