"""From samples to a batch: stacking, padding, true masks, and the masked positions in the form that heads want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmkit.data.images.variable_size import stack_pixels
from mmkit.data.targets import RawTargets, TargetEncoder
from mmkit.types import Batch, MaskedText, Pixels, RawPixels


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture and one caption, or a picture alone, ready for a batch.

    pixels: as the transform made them, ``RawPixels`` or (3, height, width) float32. ids: the caption's token ids,
    unpadded, or None. masked: (ids after masking, hidden positions, labels) or None. skipped: the keys of unreadable
    pictures that this sample stands in for.
    """

    pixels: Pixels
    image_id: int
    key: str
    ids: list[int] | None = None
    caption_id: int | None = None
    caption: str = ""
    masked: tuple[list[int], list[int], list[int]] | None = None
    targets: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Makes batches of samples.

    Texts are trimmed to the longest of the batch, rounded up to a multiple of ``multiple`` up to ``max_tokens``: few
    different shapes keep memory from fragmenting, and the libraries below from preparing each anew. canvas: (height,
    width) of every batch, for unequal pictures on several ranks; see ``variable_size.stack_pixels``. targets: makes the
    batch's targets of what the samples hold.
    """

    pad_id: int = 0
    max_tokens: int = 0
    multiple: int = 8
    canvas: tuple[int, int] | None = None
    targets: TargetEncoder = field(default_factory=RawTargets)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Batch with pixels (B, 3, h, w), uint8 where all samples are alike in ``RawPixels``, else float32 normalised;
        ids (B, L) int64 and mask (B, L) bool where there are words.
        """
        return Batch(
            **self._pictures([s.pixels for s in samples]), image_id=numbers([s.image_id for s in samples]),
            **self._words(samples), targets=self.targets.collate([s.targets for s in samples]),
            keys=tuple(s.key for s in samples), skipped=tuple(key for s in samples for key in s.skipped),
        )  # fmt: skip

    def _pictures(self, pictures: Sequence[Pixels]) -> dict[str, Any]:
        """What a batch says of its pictures."""
        raw = [picture for picture in pictures if isinstance(picture, RawPixels)]
        said = {id(picture.normalise): picture.normalise for picture in raw}.values()  # as a rule one object
        if len(raw) < len(pictures) or any(normalise != raw[0].normalise for normalise in said):
            raw, floats = [], [p.normalised() if isinstance(p, RawPixels) else p for p in pictures]
        pixels, mask = stack_pixels(raw or floats, self.canvas)
        boxes = [picture.erased for picture in raw]
        return {
            "pixels": pixels, "pixel_mask": mask, "normalise": raw[0].normalise if raw else None,
            "erased": torch.tensor(boxes) if any(map(any, boxes)) else None,
        }  # fmt: skip

    def _words(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What a batch says of its texts; nothing where the samples have none."""
        ids = [s.ids for s in samples if s.ids is not None]
        if len(ids) < len(samples):
            return {}
        width = self._rounded(max(map(len, ids)))
        return {
            "ids": padded(ids, width, self.pad_id),
            "mask": torch.arange(width) < numbers([len(row) for row in ids])[:, None],
            "caption_id": numbers([s.caption_id for s in samples]),
            "masked": self._masked(samples, width),
        }

    def _rounded(self, length: int) -> int:
        return min(-(-length // self.multiple) * self.multiple, self.max_tokens)

    def _masked(self, samples: Sequence[Sample], width: int) -> MaskedText | None:
        parts = [s.masked for s in samples if s.masked is not None]
        if len(parts) < len(samples):
            return None
        most = self._rounded(max(1, max(len(positions) for _, positions, _ in parts)))
        index = [row * most + i for row, (_, positions, _) in enumerate(parts) for i in range(len(positions))]
        return MaskedText(
            ids=padded([ids for ids, _, _ in parts], width, self.pad_id),
            positions=padded([positions for _, positions, _ in parts], most, 0),
            index=numbers(index),
            labels=numbers([label for _, _, labels in parts for label in labels]),
        )


def of_pictures(pictures: Sequence[Pixels]) -> Batch:
    """A batch of nothing but these."""
    return Collator()([Sample(pixels=pixels, image_id=0, key="") for pixels in pictures])


def padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    """(B, width) int64."""
    out = np.full((len(rows), width), fill, np.int64)
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(out)


def numbers(values: Sequence[Any]) -> Tensor:
    """(N,) int64, which NumPy reads in a third of the time."""
    return torch.from_numpy(np.array(values, np.int64))


def padded_texts(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Ids (B, L) int64, as long as the longest, and mask (B, L) bool, True = an id."""
    width = max(map(len, rows))
    return padded(rows, width, fill), torch.arange(width) < numbers([len(row) for row in rows])[:, None]
