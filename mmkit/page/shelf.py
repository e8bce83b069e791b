"""The pictures of a folder that the page looks through."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmkit.data.sources.folder import Pictures

if TYPE_CHECKING:
    from torch import Tensor

    from mmkit.inference.predictor import Predictor


@dataclass(frozen=True)
class Shelf:
    """Pictures to look through, with a name for people. What was made of them is kept."""

    paths: tuple[Path, ...]
    name: str = ""
    kept: dict[int, Tensor] = field(default_factory=dict)

    def embeddings(self, predictor: Predictor) -> Tensor:
        """(n, E) float32, L2-normalised; made once for a model."""
        if id(predictor) not in self.kept:
            self.kept[id(predictor)] = predictor.encode_image(self.paths)
        return self.kept[id(predictor)]


def pictures_in(folder: str | Path) -> Shelf:
    """The pictures below a folder; UserError where there is none."""
    source = Pictures(Path(folder))
    paths = tuple(Path(str(source[i].image)) for i in range(len(source)))
    return Shelf(paths, Path(folder).name)
