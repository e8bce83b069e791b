"""Built-in referring expressions: "the dog left of the canoe", where there are two dogs (as RefCOCO has them).

Without its relation an expression fits both, so that half of the answers are right by chance. In English only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from mmkit.data.openmoji.captions import PHRASES, Said, filled, text_of
from mmkit.data.openmoji.drawing import COLOURS, relation
from mmkit.data.openmoji.scenes import Drawn, Scenes, combination_split
from mmkit.data.openmoji.telling import the
from mmkit.data.records import Choose, Record
from mmkit.errors import UserError

TEMPLATES = 2
"""So many of a relation's templates name one thing by another; those behind say where both are."""


@dataclass(frozen=True, kw_only=True)
class Expressions(Scenes):
    """``n`` scenes of three emoji, two of them of one kind, with an expression that is true of one of these two.

    bare: the expression is left without its relation, "the dog". ``targets``: ``boxes``, that which is meant, named by
    the expression; ``detections``, the boxes of all three; ``phrases``, the whole expression, and what it names;
    unless ``bare``, ``bare``, the same without its relation, and ``alike``, which of ``detections`` that fits.
    """

    people: float = 0.0
    bare: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language not in ("en", ("en",)):
            raise UserError(f"openmoji: language={self.language!r}; expressions are in English (en) only")

    def captions(self) -> Iterator[str]:
        """Every expression, without painting."""
        for index in range(self.n):
            yield text_of(self._refer(index)[1])

    def _compose(self, index: int) -> Drawn:
        return self._refer(index)[0]

    def _refer(self, index: int) -> tuple[Drawn, Said, int]:
        """The scene, the expression in its parts, and which emoji is meant, 0 or 2; 1 is the other kind."""
        rng = Random(f"{self.seed} expressions {self.split} {index}")
        for _ in range(100_000):
            kind, mark = rng.sample(self._plain, 2)
            colour = rng.choice(tuple(COLOURS))
            if combination_split((kind, mark), colour) != self.split:
                continue
            drawn = self._place((kind, mark, kind), colour, rng)
            where = [relation(drawn.boxes[i], drawn.boxes[1]) for i in (0, 2)]
            if None not in where and where[0] != where[1]:
                break
        else:
            raise UserError(f"openmoji: kinds={self.kinds} are too few for expressions in split {self.split!r}")
        meant = rng.choice((0, 2))
        template = rng.choice(getattr(PHRASES["en"], str(where[meant // 2]))[:TEMPLATES])
        named: Said = ((the(kind), meant),)
        return drawn, named if self.bare else filled(template, a=named, b=((the(mark), 1),)), meant

    def _at(self, index: int, choose: Choose | None = None) -> Record:
        drawn, said, meant = self._refer(index)
        text, boxes = text_of(said), [tuple(box) for box in drawn.boxes]
        target = {"name": text, "emoji": drawn.scene.emoji[meant], "box": boxes[meant]}
        targets = {
            "boxes": [target], "detections": boxes, "background": drawn.scene.colour or "white",
            "phrases": [{"caption": 0, "spans": [(0, len(text))], "boxes": [0]}],
        }  # fmt: skip
        if not self.bare:
            targets |= {"bare": the(drawn.scene.emoji[meant]), "alike": (0, 2)}
        return self._record(f"expressions/{self.split}", index, self._paint(drawn), (text,), targets, choose)
