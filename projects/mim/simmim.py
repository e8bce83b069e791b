"""SimMIM (Xie et al. 2022, https://arxiv.org/abs/2111.09886): pixels of coarse cells that one vector stands for.

Cells of 32 pixels, whatever the patch, are hidden at the embedding; one linear map says their pixels, and the loss is
the absolute error of these. The published 1x1 convolution with PixelShuffle is this linear map of each token. Left out:
the shared relative positions of its ViT, and Swin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import EachSample
from mmkit.look import check_hides
from mmkit.nn.attention import take
from mmkit.nn.patch import patchify
from mmkit.types import HeadOutput, ModelSpec
from projects.mim.mae import mean_colour
from projects.mim.masks import coarse
from projects.mim.shown import Reconstruction, filled


class SimMIM(EachSample):
    """Mean absolute error of the hidden pixels, and where asked for a share of the squared error.

    Where more than half of the hidden pixels have one value (a white ground), saying it everywhere is a minimum of the
    absolute error until the tower knows where the others lie, so it never begins to learn where. The squared error has
    a slope there.

    Args:
        spec: of a model that can replace patches.
        ratio: the share of cells that is hidden, rounded up.
        cell: pixels of a side, a multiple of the patch that divides the picture.
        squared: what the mean squared error counts beside the absolute one; 0 = as published.
    """

    def __init__(self, spec: ModelSpec, ratio: float = 0.6, cell: int = 32, squared: float = 0.0) -> None:
        super().__init__()
        check_hides(spec, "replace", "SimMIM")
        if not 0 < ratio < 1:
            raise UserError(f"SimMIM: ratio={ratio}: the share of hidden cells is above 0 and below 1")
        if any(cell % side for side in spec.patch):
            raise UserError(f"SimMIM: cell={cell}: no multiple of the patch, {'x'.join(map(str, spec.patch))} pixels")
        if not (squared >= 0 and math.isfinite(squared)):
            raise UserError(f"SimMIM: squared={squared}: how much the squared error counts, 0 or more")
        self.spec, self.ratio, self.cell, self.squared = spec, ratio, cell, squared
        self.mask = nn.Parameter(torch.empty(spec.image_width))
        self.pixels = nn.Linear(spec.image_width, 3 * math.prod(spec.patch))
        nn.init.trunc_normal_(self.mask, std=0.02)
        nn.init.trunc_normal_(self.pixels.weight, std=0.02)
        nn.init.zeros_(self.pixels.bias)

    def forward(self, f: Features) -> HeadOutput:
        """Count: the samples. Logs: patches seen, the absolute error, and that of the mean colour of what is seen."""
        hidden_BP, hidden_BM, predicted_BMN = self._predicted(f)
        with torch.autocast(f.batch.pixels.device.type, enabled=False):
            patches_BPN = patchify(f.batch.pixels.float(), self.spec.patch)
            true_BMN = take(patches_BPN, hidden_BM)
            loss = absolute = absolute_error(predicted_BMN.float(), true_BMN)
            if self.squared:
                loss = absolute + self.squared * (predicted_BMN.float() - true_BMN).square().mean()
            with torch.no_grad():
                seen = hidden_BP.shape[1] - hidden_BM.shape[1]
                seen_BV = hidden_BP.int().argsort(dim=1, stable=True)[:, :seen]
                plain = absolute_error(mean_colour(take(patches_BPN, seen_BV)), true_BMN)
        return HeadOutput(
            loss=loss, count=self.counts(f),
            logs={"absolute": absolute.detach(), "mean_colour": plain, "patches_seen": seen},
        )  # fmt: skip

    def reconstruct(self, f: Features) -> Reconstruction:
        """What is said of the hidden pixels, put in their place."""
        _, hidden_BM, predicted_BMN = self._predicted(f)
        return filled(f.batch.pixels, hidden_BM, predicted_BMN, self.spec, leaks=False)

    def _predicted(self, f: Features) -> tuple[Tensor, Tensor, Tensor]:
        """What is hidden, (B, P) bool and (B, M) int64, and the pixels that are said of it (B, M, patch values)."""
        size = f.batch.pixels.shape[2:]
        grid, cells = self.spec.grid(size), [side // self.cell for side in size]
        if any(side % self.cell for side in size):
            fits = "x".join(str(max(1, round(side / self.cell)) * self.cell) for side in size)
            raise UserError(
                f"SimMIM: pictures of {'x'.join(map(str, size))} pixels are no whole cells of {self.cell}: take "
                f"{fits}, or another `cell`"
            )
        times = [patches // cells for patches, cells in zip(grid, cells, strict=True)]
        key = ("simmim", self.ratio, self.cell)
        hidden_BP, hidden_BM = f.memo(
            key, lambda f: coarse(f.random("simmim").uniform(math.prod(cells)), cells, times, self.ratio)
        )
        look = f.second_look(key, hidden=hidden_BP, by=self.mask)
        return hidden_BP, hidden_BM, self.pixels(take(look.tokens.x, hidden_BM + self.spec.class_tokens))


def absolute_error(predicted_BMN: Tensor, true_BMN: Tensor) -> Tensor:
    """The published mean: summed over hidden pixels and colours, by (hidden pixels + 1e-5), by colours."""
    return (predicted_BMN - true_BMN).abs().sum() / (true_BMN.numel() / 3 + 1e-5) / 3
