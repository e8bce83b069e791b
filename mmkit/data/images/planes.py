"""Pictures as three planes of bytes, (3, h, w) uint8: how augmentation works on them and how they travel.

A crop is resized by PyTorch where this processor has AVX2: there it takes a third of Pillow's time, in Pillow's own
memory. On others Pillow does it. Both take the crop alone, with the same filter, in 8 bits; they differ
where one of them rounds up and the other down. Evaluation is left to Pillow everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mmkit.data.images.planar import Planar

Box = tuple[int, int, int, int]


def to_planes(image: Image.Image, mirrored: bool = False) -> Tensor:
    """RGB picture to (3, h, w) uint8. mirrored: left and right exchanged."""
    if (paint := painter(image, mirrored)) is not None:
        out = np.empty((3, image.height, image.width), np.uint8)
        paint(out)
        return torch.from_numpy(out)
    if mirrored:
        return to_planes(image).flip(2)
    # in NumPy, which starts no threads: many readers and workers do this at the same time
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def painter(image: Image.Image, mirrored: bool = False) -> Callable[[NDArray[np.uint8]], None] | None:
    """What paints the same where the batch lies; None of a picture that is painted already, as those of files are."""
    if not isinstance(image, Planar) or (paint := image.paint) is None:
        return None
    return lambda out: paint(out, mirrored)


def from_planes(planes: Tensor) -> Image.Image:
    """The way back."""
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes.numpy()])


def resized_crop(image: Image.Image, box: Box, width: int, height: int) -> Tensor:
    """What lies within ``box``, (left, top, right, bottom), of an RGB picture: (3, height, width) uint8, bicubic.

    As torchvision's crop and resize: what lies beside the box has no part in it.
    """
    part = image.crop(box)
    if part.size == (width, height):
        return to_planes(part)
    if not _by_torch():
        return to_planes(part.resize((width, height), Image.Resampling.BICUBIC))
    pixels = _memory(part)[None].permute(0, 3, 1, 2)
    return functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0, :3].contiguous()


@cache
def _by_torch() -> bool:
    """Whether PyTorch resizes bytes with this processor's wide instructions; without them Pillow is faster."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")


def _memory(image: Image.Image) -> Tensor:
    """The picture's own, (h, w, 4) uint8, the last of the four unused; a copy (h, w, 3) where it cannot be lent."""
    import pyarrow as pa  # not before it is needed

    array: Any
    try:
        array = pa.array(image)
    except (TypeError, ValueError):  # in several parts, as more than 16 MB are, or an older Pillow
        return torch.from_numpy(np.array(image))
    return torch.from_dlpack(array.values).view(image.height, image.width, 4)
