"""Pictures that are painted as three planes of bytes when somebody looks, for Pillow or for training.

Training reads planes, of a mirrored picture too. What is painted as such at once needs no way through Pillow's memory
and back, which takes longer than the painting. Left out: other modes than RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Paint = Callable[[NDArray[np.uint8], bool], None]
"""(planes (3, height, width) to be filled, whether left and right are exchanged)."""


class Planar(Image.Image):
    """An RGB picture of ``size``, (width, height), loaded as pictures from files are: by what needs its pixels.

    ``paint`` fills planes with it until then, and is None afterwards, when Pillow's memory holds the picture and may
    be drawn on.
    """

    paint: Paint | None = None

    def __init__(self, size: tuple[int, int], paint: Paint) -> None:
        super().__init__()
        self._mode, self._size = "RGB", size
        self.paint = paint

    def __eq__(self, other: object) -> bool:
        """As Pillow's own of the same pixels."""
        return bool(self.copy() == (other.copy() if isinstance(other, Planar) else other))

    def load(self) -> Any:
        """See Pillow."""
        if (paint := self.paint) is not None:
            pixels = np.empty((self.height, self.width, 3), np.uint8)
            paint(pixels.transpose(2, 0, 1), False)
            self.im = Image.fromarray(pixels).im
            self.paint = None
        return super().load()
