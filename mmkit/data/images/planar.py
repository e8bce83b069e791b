"""Pictures that are made here as three planes of bytes, and become Pillow's own when Pillow first looks at them.

Training reads planes. A picture that was drawn as such is read without the way through Pillow's memory and back, which
takes longer than the drawing. Left out: other modes than RGB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Planar(Image.Image):
    """An RGB picture of planes (3, height, width) uint8, loaded as pictures from files are: by what needs its pixels.

    ``planes`` is theirs until then, and None afterwards, when Pillow's memory holds the picture and may be drawn on.
    """

    planes: NDArray[np.uint8] | None = None

    def __init__(self, planes: NDArray[np.uint8]) -> None:
        super().__init__()
        self._mode, self._size = "RGB", (planes.shape[2], planes.shape[1])
        self.planes = planes

    def __eq__(self, other: object) -> bool:
        """As Pillow's own of the same pixels."""
        return bool(self.copy() == (other.copy() if isinstance(other, Planar) else other))

    def load(self) -> Any:
        """See Pillow."""
        if (planes := self.planes) is not None:
            self.im = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).im
            self.planes = None
        return super().load()
