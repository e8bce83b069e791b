"""Built-in scenes that move: emoji that go left, right, up or down, fast or slowly, that appear and disappear.

Every clip follows from (seed, split, index). What leaves on one side comes in on the other, from a place that is
equally likely anywhere: so each single frame, whichever, looks the same for all directions and all speeds, and only
the frames together, in their order, tell which way something goes. Two splits never share emoji on a ground of one
colour; motion is drawn apart from these. English only. Drawings: OpenMoji, see ``scenes.ATTRIBUTION``.

Questions (``MovingQuestions``) by type, and what always giving the most frequent answer scores:

- ``direction``: "which way does the dog move?" left, right, up and down as often. 25 %, by one frame too; shuffled
  frames still tell left or right from up or down: 50 %
- ``faster``: "does the dog move faster than the cat?" yes and no as often. 50 %, by one frame too
- ``change``: "what does the dog do?" appears and disappears as often. 50 %; the first frame tells, or the last
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal

from PIL import Image

from mmkit.data.clip import Clip
from mmkit.data.openmoji.drawing import COLOURS, TEXTURES, background, sides, sprite
from mmkit.data.openmoji.kinds import emoji_name, first_kinds
from mmkit.data.openmoji.scenes import Split, check_split, combination_split
from mmkit.data.openmoji.telling import an, is_are, the
from mmkit.data.records import ByNumber, Record
from mmkit.errors import UserError

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
WAY = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}
SPEEDS = {"slow": 0.07, "fast": 0.17}
"""Of the picture's side, in each step from a frame to the next."""
ACTIONS = ("move", "appear", "disappear")
TYPES = ("direction", "faster", "change")
SIDE = 0.36
RATE = 8.0  # frames per second


@dataclass(frozen=True)
class Mover:
    """One emoji of a scene. start: (x, y) of its upper left corner in the first frame, pixels; box: (width, height).

    action: of ``ACTIONS``. direction, speed: of what moves. at: the frame with which it appears or is gone.
    """

    emoji: str
    start: tuple[int, int]
    box: tuple[int, int]
    action: str = "move"
    direction: str = ""
    speed: str = "slow"
    at: int = 0

    def place(self, frame: int, size: int) -> tuple[int, int] | None:
        """(left, top) in a frame, each from 0 to below ``size``; None where it is not there."""
        if self.action != "move":
            return self.start if (frame >= self.at) == (self.action == "appear") else None
        (across, down), step = DIRECTIONS[self.direction], round(SPEEDS[self.speed] * size)
        return (self.start[0] + across * step * frame) % size, (self.start[1] + down * step * frame) % size


@dataclass(frozen=True)
class MovingScene:
    """What a clip shows."""

    movers: tuple[Mover, ...]
    colour: str
    texture: str


@dataclass(frozen=True, kw_only=True)
class Moving(ByNumber):
    """``n`` clips of one or two emoji, each with a caption of what they do: "a dog moves to the left".

    split: "train", "val" or "test". frames: of a clip; size: of a frame in pixels. kinds: how many kinds of emoji.
    most: 1 or 2 emoji in a clip, as often. actions: which of ``ACTIONS`` may happen; each clip has one. plain: grounds
    of one colour without texture. shuffled: frames in a random order, for a test of what order tells. still: this frame
    alone, or "any" one of each clip, for a test of what one frame tells.

    ``targets``: ``label``, the direction of the first emoji as an index of ``class_names`` (of clips in which something
    moves), ``tracks``, a list of {name, emoji, boxes}, in which each frame has (left, top, right, bottom) in pixels, or
    None where the emoji is not there, and ``background``. A box that reaches over the border goes on at the other side.
    """

    class_names: ClassVar[list[str]] = list(DIRECTIONS)

    split: Split = "train"
    n: int = 20_000
    seed: int = 0
    size: int = 64
    frames: int = 4
    kinds: int = 200
    most: int = 1
    actions: tuple[str, ...] = ("move",)
    plain: bool = True
    shuffled: bool = False
    still: int | Literal["any"] | None = None

    def __post_init__(self) -> None:
        first_kinds(self.kinds)
        check_split(self.split)
        if self.n < 1 or self.size < 32 or self.frames < 2 or self.most not in (1, 2):
            raise UserError(
                f"openmoji: n={self.n} must be at least 1, size={self.size} at least 32, frames={self.frames} at least "
                f"2, most={self.most} 1 or 2"
            )
        if not self.actions or not set(self.actions) <= set(ACTIONS):
            raise UserError(f"openmoji: actions={self.actions}; there are {', '.join(ACTIONS)}")
        if self.still not in (None, "any", *range(self.frames)):
            raise UserError(f"openmoji: still={self.still!r}; give 'any', or a frame, 0 to {self.frames - 1}")

    def __len__(self) -> int:
        return self.n

    def _at(self, index: int) -> Record:
        scene = self._compose(index)
        return self._record(index, scene, self._caption(scene, index), self._targets(scene))

    def captions(self) -> Iterator[str]:
        """Every caption, without painting."""
        for index in range(self.n):
            yield self._caption(self._compose(index), index)

    def target(self, key: str) -> Iterator[Any]:
        """One target of every record, without painting."""
        for index in range(self.n):
            yield self._targets(self._compose(index)).get(key)

    def _record(self, index: int, scene: MovingScene, caption: str, targets: dict[str, Any]) -> Record:
        name = f"openmoji:{type(self).__name__.lower()}/{self.split}/{self.seed}/{index}"
        frames = [self._paint(scene, frame) for frame in self._shown(index)]
        return Record(image=Clip(frames, RATE), captions=(caption,), image_id=name, key=name, targets=targets)

    def _shown(self, index: int) -> list[int]:
        """The frames of a clip in their order."""
        order = list(range(self.frames))
        if self.shuffled:
            Random(f"{self.seed} order {index}").shuffle(order)
        if self.still == "any":
            return [Random(f"{self.seed} still {self.split} {index}").choice(order)]
        return order if self.still is None else [order[self.still]]

    def _compose(self, index: int) -> MovingScene:
        rng = Random(f"{self.seed} moving {self.split} {index}")
        return self._invent(rng, rng.randint(1, self.most), rng.choice(self.actions))

    def _invent(self, rng: Random, count: int, action: str, speeds: tuple[str, ...] | None = None) -> MovingScene:
        """A scene of the split. speeds: of each emoji; None = at random."""
        kinds = first_kinds(self.kinds)
        while True:
            emoji, colour = tuple(rng.choice(kinds) for _ in range(count)), rng.choice(tuple(COLOURS))
            if len(set(emoji)) == count and combination_split(emoji, colour) == self.split:
                break
        movers = tuple(
            self._mover(one, action, rng, rng.choice(tuple(SPEEDS)) if speeds is None else speeds[i])
            for i, one in enumerate(emoji)
        )
        return MovingScene(movers, colour, "plain" if self.plain else rng.choice(TEXTURES))

    def _mover(self, emoji: str, action: str, rng: Random, speed: str) -> Mover:
        (side,) = sides([SIDE], self.size)
        width, height = sprite(emoji, side).size
        start, direction = (rng.randrange(self.size), rng.randrange(self.size)), rng.choice(tuple(DIRECTIONS))
        at = rng.randrange(1, self.frames)
        if action == "move":
            return Mover(emoji, start, (width, height), action, direction, speed)
        start = start[0] % (self.size - width + 1), start[1] % (self.size - height + 1)
        return Mover(emoji, start, (width, height), action, at=at)

    def _paint(self, scene: MovingScene, frame: int) -> Image.Image:
        canvas = background(scene.colour, scene.texture, self.size).copy()
        for mover in scene.movers:
            place = mover.place(frame, self.size)
            if place is not None:
                layer = sprite(mover.emoji, max(mover.box))
                for left in {place[0], place[0] - self.size}:
                    for top in {place[1], place[1] - self.size}:
                        canvas.paste(layer, (left, top), layer)
        return canvas

    def _caption(self, scene: MovingScene, index: int) -> str:
        rng = Random(f"{self.seed} moving words {index}")
        told = [_told(mover) for mover in scene.movers]
        rng.shuffle(told)
        return " and ".join(told)

    def _targets(self, scene: MovingScene) -> dict[str, Any]:
        first = scene.movers[0]
        own = {"label": self.class_names.index(first.direction)} if first.action == "move" else {}
        return {**own, "tracks": [self._track(mover) for mover in scene.movers], "background": scene.colour}

    def _track(self, mover: Mover) -> dict[str, Any]:
        places = [mover.place(frame, self.size) for frame in range(self.frames)]
        width, height = mover.box
        boxes = [None if p is None else (p[0], p[1], p[0] + width, p[1] + height) for p in places]
        return {"name": emoji_name(mover.emoji), "emoji": mover.emoji, "boxes": boxes}


@dataclass(frozen=True, kw_only=True)
class MovingQuestions(Moving):
    """``n`` questions, each about a clip of its own; the question is the record's one caption.

    types: which of ``TYPES`` to ask, all as often. The other arguments are those of ``Moving``, but for ``most`` and
    ``actions``, which follow from the type. ``targets``: ``question``, ``answers`` (one), ``answer_type``,
    ``question_id``, and those of ``Moving``.
    """

    types: tuple[str, ...] = ("direction",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.types or not set(self.types) <= set(TYPES):
            raise UserError(f"openmoji: types={self.types}; there are {', '.join(TYPES)}")

    def answers(self) -> list[str]:
        """Every answer there can be."""
        return answers(self.types)

    def captions(self) -> Iterator[str]:
        """Every question, without painting."""
        for index in range(self.n):
            yield self._asked(index)[1]

    def _at(self, index: int) -> Record:
        kind, question, answer, scene = self._asked(index)
        own = {"question": question, "answers": [answer], "answer_type": kind, "question_id": index}
        return self._record(index, scene, question, own | self._targets(scene))

    def _compose(self, index: int) -> MovingScene:
        return self._asked(index)[3]

    def _asked(self, index: int) -> tuple[str, str, str, MovingScene]:
        """(type, question, answer, scene)."""
        rng = Random(f"{self.seed} moving question {self.split} {index}")
        kind = rng.choice(self.types)
        if kind == "direction":
            scene = self._invent(rng, 1, "move")
            (mover,) = scene.movers
            verb = "do" if is_are(mover.emoji) == "are" else "does"
            return kind, f"which way {verb} {the(mover.emoji)} move?", mover.direction, scene
        if kind == "change":
            action = rng.choice(("appear", "disappear"))
            scene = self._invent(rng, 1, action)
            verb = "do" if is_are(scene.movers[0].emoji) == "are" else "does"
            return kind, f"what {verb} {the(scene.movers[0].emoji)} do?", f"{action}s", scene
        answer = rng.choice(("yes", "no"))
        scene = self._invent(rng, 2, "move", ("fast", "slow") if answer == "yes" else ("slow", "fast"))
        one, other = (mover.emoji for mover in scene.movers)
        verb = "do" if is_are(one) == "are" else "does"
        return kind, f"{verb} {the(one)} move faster than {the(other)}?", answer, scene


def answers(types: tuple[str, ...] = TYPES) -> list[str]:
    """Every answer to questions of these types."""
    found = list(DIRECTIONS) if "direction" in types else []
    found += ["no", "yes"] if "faster" in types else []
    return found + (["appears", "disappears"] if "change" in types else [])


def _told(mover: Mover) -> str:
    plural = is_are(mover.emoji) == "are"
    verb = mover.action if plural else f"{mover.action}s"
    if mover.action != "move":
        return f"{an(mover.emoji)} {verb}"
    how = " fast" if mover.speed == "fast" else " slowly"
    return f"{an(mover.emoji)} {verb}{how} {WAY[mover.direction]}"
