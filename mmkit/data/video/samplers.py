"""Which frames of a clip are seen: the ways of ViViT, TSN, CLIP4Clip and LAVIS, by name.

A sampler is a part of how a model reads clips. It is stored with the model, and every command uses it. Several clips
of one video in a test: see ``views``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Literal, get_args

from mmkit.errors import UserError

How = Literal["stride", "segments", "linear", "uniform", "headtail"]
Reader = Literal["pyav", "torchcodec"]
"""By which library the frames of video files are decoded."""
SEVERAL: tuple[How, ...] = ("stride", "segments")
"""Those of which there are several clips of a video; the others take one set of frames from the whole of it."""
ALONE = (0, 1)
"""The one clip of one."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """``frames`` of a clip, in order. A shorter clip is padded by repeating its last frame.

    how, of n frames:
        "stride": neighbours ``stride`` apart, from a random start in training, in the centre in a test (ViViT).
        "segments": one of each of as many equal parts, a random one in training, the middle one in a test (TSN).
        "linear": evenly from the first to the last, both included (CLIP4Clip), in training too.
        "uniform": the first of each of as many equal parts (LAVIS), in training too.
        "headtail": half of them at random from each half of the clip (LAVIS); training alone.
    rate: frames per second that the clip is taken down (or up) to first, for clips that tell theirs; None = all frames.
    """

    how: How = "segments"
    frames: int = 8
    stride: int = 1
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise UserError(f"sampler how={self.how!r}: there are {', '.join(get_args(How))}")
        if type(self.frames) is not int or self.frames < 1 or type(self.stride) is not int or self.stride < 1:
            raise UserError(f"sampler frames={self.frames}, stride={self.stride}: whole numbers of at least 1")
        if self.stride > 1 and self.how != "stride":
            raise UserError(f'sampler stride={self.stride}: is for how="stride", not {self.how!r}')
        if self.how == "headtail" and self.frames % 2:
            raise UserError(
                f'sampler frames={self.frames}: "headtail" takes half of them from each half, an even number'
            )
        if self.rate is not None and not self.rate > 0:
            raise UserError(f"sampler rate={self.rate}: give frames per second, above 0")

    def draw(self, count: int, rate: float | None, rng: Random) -> list[int]:
        """The frames of a training step, of ``count`` at ``rate`` per second (None = unknown)."""
        return self._chosen(count, rate, rng, ALONE)

    def fixed(self, count: int, rate: float | None = None, view: tuple[int, int] = ALONE) -> list[int]:
        """The frames of a test: the same each time.

        view: (i, n), the clip i of n that are spread evenly over the video: from the one that starts with it to the one
        that ends with it ("stride"), or at n places in each part ("segments"). The one of one is in the middle.
        """
        return self._chosen(count, rate, None, view)

    def for_eval(self) -> Sampler:
        """The sampler of evaluations: this one; "uniform" in the place of "headtail", which is for training alone."""
        return replace(self, how="uniform") if self.how == "headtail" else self

    def _chosen(self, count: int, rate: float | None, rng: Random | None, view: tuple[int, int]) -> list[int]:
        if count < 1:
            raise UserError(f"a clip of {count} frames has none to choose")
        if self.rate is None:
            return self._among(count, rng, view)
        if rate is None:
            raise UserError(
                f"sampler rate={self.rate}: the frames of this clip do not tell their rate; leave it out, or give a "
                "video or an animated picture"
            )
        steps = max(1, round(count / rate * self.rate))
        return [min(count - 1, int(step * rate / self.rate + 1e-6)) for step in self._among(steps, rng, view)]

    def _among(self, n: int, rng: Random | None, view: tuple[int, int]) -> list[int]:
        t, (number, of) = self.frames, view
        if self.how == "stride":
            span = (t - 1) * self.stride + 1
            spare = max(0, n - span)
            start = rng.randint(0, spare) if rng is not None else number * spare // (of - 1) if of > 1 else spare // 2
            return [min(n - 1, start + i * self.stride) for i in range(t)]
        if n < t:
            return [min(n - 1, i) for i in range(t)]
        if self.how == "linear":
            return [i * (n - 1) // (t - 1) for i in range(t)] if t > 1 else [(n - 1) // 2]
        if self.how == "uniform":
            return [i * n // t for i in range(t)]
        if self.how == "headtail":
            if rng is None:
                raise UserError('sampler "headtail" is for training alone; give "uniform" or "segments" for the test')
            half = t // 2
            return sorted(rng.sample(range(n // 2), half)) + sorted(rng.sample(range(n // 2, n), half))
        edges = [i * n // t for i in range(t + 1)]
        if rng is None:
            return [(2 * (i * of + number) + 1) * n // (2 * t * of) for i in range(t)]
        return [rng.randrange(low, high) for low, high in pairwise(edges)]


@dataclass(frozen=True, kw_only=True)
class Views:
    """Several views of a clip in a test, whose answers are averaged; see ``views``.

    clips: of a video; crops: of each, 1 or 3; softmax: probabilities are averaged in the place of logits.
    """

    clips: int = 1
    crops: int = 1
    softmax: bool = False

    def __post_init__(self) -> None:
        if self.clips < 1 or self.crops not in (1, 3):
            raise UserError(f"--views {self}: give at least one clip, and one crop of each or three")

    def __str__(self) -> str:
        """Its name."""
        return f"{self.clips}x{self.crops}{':softmax' if self.softmax else ''}"


def views_named(text: str) -> Views:
    """Of "4x3", whose logits are averaged, or "4x3:softmax". UserError for what is neither."""
    found = re.fullmatch(r"(\d+)x(\d+)(:softmax)?", text)
    if found is None:
        raise UserError(f"--views {text}: give CLIPSxCROPS, 4x3, whose logits are averaged; or 4x3:softmax")
    return Views(clips=int(found[1]), crops=int(found[2]), softmax=found[3] is not None)


def sampler_named(text: str) -> Sampler:
    """Of "12" or "linear:12", for evaluations. UserError for what is none of these."""
    how, colon, number = text.rpartition(":")
    if not number.isdecimal():
        raise UserError(f"--frames {text}: give a number of frames, 12, or HOW:NUMBER, linear:12")
    return Sampler(how=how if colon else "segments", frames=int(number)).for_eval()  # type: ignore[arg-type]
