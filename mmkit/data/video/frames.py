"""Opened clips: how many frames there are, at which rate, and those that are asked for.

What cannot be read is a ``BadImage`` that names the file and the frame. Frames at a variable rate are taken by time,
not by number: the clip then counts steps of its most usual length, and a step shows what stands on the screen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
from PIL import Image

from mmkit.data.images.opening import BadImage, load_image

SAME = 0.25
"""Steps of time that differ by less than this share are one rate, whatever a container's clock rounds."""


class Frames(ABC):
    """An opened clip. name: for messages. count: of its frames, at least 1. rate: per second; None where unknown."""

    name: str
    count: int
    rate: float | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the first frame, upright."""
        return self.take([0])[0].size

    @abstractmethod
    def decoded(self, numbers: Sequence[int]) -> dict[int, Image.Image]:
        """The frames of these numbers, distinct and ascending, as RGB; BadImage for one that cannot be read."""

    def take(self, numbers: Sequence[int]) -> list[Image.Image]:
        """The frames of these numbers (0 to ``count`` - 1), RGB, upright, all of one size."""
        found = self.decoded(sorted(set(numbers)))
        frames = [found[number] for number in numbers]
        if other := next((n for n in numbers if found[n].size != frames[0].size), None):
            (width, height), (wide, high) = frames[0].size, found[other].size
            raise BadImage(
                f"{self.name}: frame {other} has {wide} x {high} pixels, frame {numbers[0]} {width} x {height}; the "
                "frames of a clip are of one size"
            )
        return frames

    def blank(self) -> Frames:
        """As many frames of nothing but grey, of the same size."""
        (first,) = self.take([0])
        return Pictures(self.name, [Image.new("RGB", first.size, (128, 128, 128))] * self.count, self.rate)


class Pictures(Frames):
    """Pictures in order."""

    def __init__(self, name: str, pictures: Sequence[Image.Image | Path | bytes], rate: float | None = None) -> None:
        self.name, self.pictures, self.count, self.rate = name, pictures, len(pictures), rate
        if not pictures:
            raise BadImage(f"{name}: 0 frames; a clip has at least one")

    def decoded(self, numbers: Sequence[int]) -> dict[int, Image.Image]:
        """See ``Frames``."""
        return {number: self._frame(number) for number in numbers}

    def _frame(self, number: int) -> Image.Image:
        try:
            return load_image(self.pictures[number])
        except BadImage as error:
            raise BadImage(f"{self.name}, frame {number}: {error}") from error


class Array(Frames):
    """An array (T, height, width, 3) uint8, in memory or mapped."""

    def __init__(self, name: str, array: np.ndarray[Any, Any], rate: float | None = None) -> None:
        if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
            raise BadImage(
                f"{name}: an array of {' x '.join(map(str, array.shape))} {array.dtype}; a clip is (frames, height, "
                "width, 3) uint8"
            )
        if not array.size:
            raise BadImage(
                f"{name}: {array.shape[0]} frames of {array.shape[2]} x {array.shape[1]} pixels; none to see"
            )
        self.name, self.array, self.count, self.rate = name, array, len(array), rate

    def decoded(self, numbers: Sequence[int]) -> dict[int, Image.Image]:
        """See ``Frames``."""
        return {number: Image.fromarray(np.ascontiguousarray(self.array[number])) for number in numbers}


class Timed(Frames):
    """Frames with times in whole ticks; at a variable rate they are taken by time.

    times: when each is first shown, ascending; last: how long the last one stays; second: ticks of a second.
    """

    def __init__(self, name: str, times: Sequence[int], last: int, second: float) -> None:
        self.name = name
        gaps = [after - before for before, after in pairwise(times)] + ([last] if last > 0 else [])
        step = median_low(gaps) if gaps else 0
        self.rate = second / step if step > 0 else None
        self._shown: list[int] | None = None
        self.count = len(times)
        if step > 0 and any(abs(gap - step) > max(1, SAME * step) for gap in gaps):
            begin, end = times[0], times[-1] + max(last, step)
            self.count = max(1, round((end - begin) / step))
            self._shown = [bisect_right(times, begin + k * step) - 1 for k in range(self.count)]
        elif len(times) > 1:
            self.rate = second * (len(times) - 1) / (times[-1] - times[0]) if times[-1] > times[0] else self.rate

    def decoded(self, numbers: Sequence[int]) -> dict[int, Image.Image]:
        """See ``Frames``."""
        shown = self._shown
        if shown is None:
            return self.pictures(numbers)
        found = self.pictures(sorted({shown[number] for number in numbers}))
        return {number: found[shown[number]] for number in numbers}

    @abstractmethod
    def pictures(self, numbers: Sequence[int]) -> dict[int, Image.Image]:
        """The stored frames of these numbers, distinct and ascending."""
