"""Small batches with boxes, and a model that gives tokens as they are, for the tests of this project."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmkit.types import Batch, ModelSpec, Tokens

CLASSES = ("cat", "dog", "canoe")
PATCH, WIDTH = 8, 12


class Given(nn.Module):
    """Image tokens are the patches' own colours, 12 numbers a patch: each is the mean of a quarter of it."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.spec = ModelSpec(
            image_width=WIDTH, text_width=0, fused_width=0, embed_dim=0, vocab_size=0, fuses=False, patch=(PATCH, PATCH)
        )

    def encode_image(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """(B, 3, height, width) -> (B, patches, 12)."""
        means = nn.functional.avg_pool2d(pixels, PATCH // 2)
        mask = None if pixel_mask is None else pixel_mask[:, ::PATCH, ::PATCH].flatten(1)
        return Tokens(nn.functional.unfold(means, 2, stride=2).mT, mask)


def scene(boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (32, 48)) -> tuple[Tensor, list, list]:
    """A picture (3, height, width) with a bright rectangle in a colour of its own for each box."""
    pixels = torch.zeros(3, *size)
    for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
        pixels[label, round(top) : round(bottom), round(left) : round(right)] = 2.0
    return pixels, boxes, labels


SCENES = (
    scene([[2, 3, 20, 17], [25, 8, 45, 30]], [0, 1]),
    scene([], []),
    scene([[10, 10, 30, 28]], [2]),
    scene([[0, 0, 48, 32], [4, 4, 5, 5], [30, 2, 44, 12]], [1, 0, 2]),
)


def together(*scenes: tuple[Tensor, list, list], padded: tuple[int, int] | None = None) -> Batch:
    """Scenes as a batch, on a canvas with a mask where ``padded`` (height, width) or they are of unequal size."""
    shapes = {pixels.shape for pixels, *_ in scenes}
    high, wide = padded or (max(s[1] for s in shapes), max(s[2] for s in shapes))
    canvas = torch.zeros(len(scenes), 3, high, wide)
    mask = torch.zeros(len(scenes), high, wide, dtype=torch.bool)
    for i, (pixels, *_) in enumerate(scenes):
        canvas[i, :, : pixels.shape[1], : pixels.shape[2]] = pixels
        mask[i, : pixels.shape[1], : pixels.shape[2]] = True
    boxes = [box for _, own, _ in scenes for box in own]
    return Batch(
        pixels=canvas, image_id=torch.arange(len(scenes)), pixel_mask=None if mask.all() else mask,
        targets={
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor([label for *_, own in scenes for label in own], dtype=torch.int64),
            "box_of": torch.tensor([i for i, (_, own, _) in enumerate(scenes) for _ in own], dtype=torch.int64),
        },
    )  # fmt: skip
