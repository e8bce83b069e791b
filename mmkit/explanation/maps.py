"""Heat maps as values: one map, one word, all that speaks for a text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmkit.data.images.centre_crop import CentreCrop


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Where in a picture, or in each frame of a clip, the evidence is.

    raw: (rows, columns) float32 >= 0, one value a patch: attention x positive gradient; of a clip (frames, rows,
    columns), and what is made of them below has the frames in front too. size: (height, width) of the picture in
    pixels. seen: (left, top, right, bottom), what the model saw of it; None = all.
    """

    raw: Tensor
    size: tuple[int, int]
    seen: tuple[int, int, int, int] | None = None

    @property
    def grid(self) -> Tensor:
        """(rows, columns) float32, 0 to 1: the largest value, of all frames, is 1; all 0 where there is no evidence."""
        return self.raw / self.raw.max().clamp(min=1e-30)

    @cached_property
    def pixels(self) -> Tensor:
        """(height, width) float32, 0 to 1, at the picture's own resolution (bicubic)."""
        return self.resized(self.size)

    def resized(self, size: tuple[int, int]) -> Tensor:
        """(height, width) float32, 0 to 1, at any resolution."""
        return self.spread(size).clamp(0.0, 1.0)

    def spread(self, size: tuple[int, int]) -> Tensor:
        """The same before it is cut to 0..1: the interpolation overshoots a little."""
        if self.seen is None:
            return upsampled(self.grid, size)
        down, across = size[0] / self.size[0], size[1] / self.size[1]
        left, top = round(self.seen[0] * across), round(self.seen[1] * down)
        right, bottom = max(left + 1, round(self.seen[2] * across)), max(top + 1, round(self.seen[3] * down))
        whole, heat = torch.zeros(*self.raw.shape[:-2], *size), upsampled(self.grid, (bottom - top, right - left))
        part, (above, before) = whole[..., max(0, top) : bottom, max(0, left) : right], (max(0, -top), max(0, -left))
        part.copy_(heat[..., above : above + part.shape[-2], before : before + part.shape[-1]])
        return whole

    @property
    def peak(self) -> tuple[int, int]:
        """(x, y) of the strongest pixel, of a clip in its ``frame``."""
        y, x = divmod(int(self.spread(self.size).argmax()) % (self.size[0] * self.size[1]), self.size[1])
        return x, y

    @property
    def frame(self) -> int:
        """In which of a clip's frames that pixel lies; 0 of a picture."""
        return int(self.spread(self.size).argmax()) // (self.size[0] * self.size[1])

    def of(self, frame: int) -> HeatMap:
        """The map of one frame of a clip, by itself: its largest value is 1."""
        return HeatMap(self.raw[frame], self.size, self.seen)

    def share(self, frame: int) -> float:
        """The largest value of a frame, as a share of the largest of all: 0 to 1."""
        return float(self.raw[frame].max() / self.raw.max().clamp(min=1e-30))


def seen_box(transform: object, picture: Image.Image) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of a picture that a transform shows to the model; None for all of it.

    It reaches beyond the picture where the transform sets a border around it.
    """
    return transform.seen(picture.width, picture.height) if isinstance(transform, CentreCrop) else None


def upsampled(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., rows, columns) -> (..., height, width), bicubic; it may overshoot."""
    lead = grid.shape[:-2]
    flat = grid.reshape(-1, 1, *grid.shape[-2:])
    return F.interpolate(flat, size=size, mode="bicubic", align_corners=False).reshape(*lead, *size)


@dataclass(frozen=True, eq=False)
class Word:
    """One word of the text: how it reads, the tokens that it is made of, its map, and its share of all words' evidence.

    tokens: their positions in the model's text. share: 0 to 1. probability: of the word where it was hidden from the
    model and guessed from picture and other words (target "mlm"), else None.
    """

    text: str
    tokens: tuple[int, ...]
    map: HeatMap
    share: float
    probability: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What in ``picture``, or in the ``frames`` of a clip, spoke for ``text``.

    target: what was explained: "match", "similarity", "answer: ...", "words", "target". score: its value: the match
    probability (0 to 1), the cosine (-1 to 1), the probability of the answer, the mean of the words', or what the given
    target returned. layer, head:
    which were asked; head None = the mean of all. sentence: the mean of all tokens' maps, [CLS] included. words: one
    map each, without punctuation; empty where they were not asked for, or where the target is the similarity. unseen:
    the words at the end of the text that the model did not read, as they do not fit into it. frames: of a clip, those
    that the model saw, in order (``picture`` is the first), and numbers: which of the clip they are, from 0; each map
    then has as many. A tubelet of several frames is one place to the model: these have one and the same map.
    """

    picture: Image.Image
    text: str
    target: str
    score: float
    layer: int
    head: int | None
    sentence: HeatMap
    words: tuple[Word, ...] = ()
    unseen: tuple[str, ...] = ()
    frames: tuple[Image.Image, ...] = ()
    numbers: tuple[int, ...] = ()

    @property
    def asked(self) -> str:
        """What was explained, and its value, for people."""
        what = "each word guessed when hidden, mean probability" if self.target == "words" else self.target
        return f"{what}: {self.score:.3f}"

    def word(self, text: str) -> Word:
        """The first word that reads so, in any case; KeyError where there is none."""
        for word in self.words:
            if word.text.lower() == text.lower():
                return word
        raise KeyError(f"no word {text!r}; there are: {', '.join(word.text for word in self.words)}")

    def phrase(self, text: str) -> HeatMap:
        """The map of several words in a row, the mean over their tokens; KeyError where they do not stand there."""
        wanted, found = text.lower().split(), [word.text.lower() for word in self.words]
        for start in range(len(found) - len(wanted) + 1):
            if wanted and found[start : start + len(wanted)] == wanted:
                words = self.words[start : start + len(wanted)]
                counts = [len(word.tokens) for word in words]
                total = torch.stack([word.map.raw * count for word, count in zip(words, counts, strict=True)]).sum(0)
                return HeatMap(total / sum(counts), words[0].map.size, words[0].map.seen)
        raise KeyError(f"no {text!r} in a row among the words: {' '.join(found)}")
