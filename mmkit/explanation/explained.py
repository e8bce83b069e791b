"""What ``mmkit.explain`` gives: the evidence for a text, which can be shown and saved as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmkit.explanation import film, picture
from mmkit.explanation.maps import Evidence
from mmkit.explanation.picture import Style
from mmkit.files import check_ending, save_picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation(Evidence):
    """Heat maps of a picture or clip and a text; its values are those of ``Evidence``."""

    def figure(self, style: Style | None = None) -> Image.Image:
        """The picture, the sentence's heat map over it, and one tile for each word, as one RGB picture; of a clip its
        frames in a row, and one row for the sentence and each word.
        """
        return film.figure(self, style) if self.frames else picture.figure(self, style)

    def overlay(self, word: str | None = None, size: int | None = None) -> Image.Image:
        """The heat map of the sentence, or of a word, over the picture: RGB; ``size``: its longer side in pixels.

        Of a clip the frames side by side, each of that size.
        """
        heat = self.sentence if word is None else self.word(word).map
        return film.overlay(self.frames, heat, size) if self.frames else picture.overlay(self.picture, heat, size)

    def save(self, path: str | Path, style: Style | None = None) -> None:
        """Write ``figure`` as a PNG; UserError where it cannot be written, or the name ends otherwise."""
        check_ending(path, ".png")
        save_picture(self.figure(style), path)
