"""Masked autoencoders (He et al. 2022, https://arxiv.org/abs/2111.06377): pixels of patches that were never encoded.

Three quarters of the patches are left out; a small decoder, which is thrown away afterwards, is given what the tower
made of the rest, one learned vector for each hidden patch and fixed positions, and says the pixels of the hidden ones.
The loss is the squared error there alone. Left out: its own random cropping, which is the run's transform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mmkit.features import Features
from mmkit.heads.base import EachSample
from mmkit.look import check_hides
from mmkit.nn.attention import take
from mmkit.nn.block import PreNormBlock
from mmkit.nn.patch import patchify
from mmkit.nn.positions import sincos_positions
from mmkit.types import HeadOutput, ModelSpec
from projects.mim.masks import kept, shuffled
from projects.mim.shown import Reconstruction, filled


class MAE(EachSample):
    """Mean squared error of the pixels of hidden patches.

    Args:
        spec: of a model that can leave patches out.
        ratio: the share of patches that is hidden; of the rest, rounded down, the tower sees all.
        norm_pix: each patch's target is its pixels minus their mean, by their standard deviation (of all colours
            together, over n - 1); better features, but a picture then needs the true mean and deviation to be shown.
        depth, width, heads: of the decoder.
    """

    def __init__(
        self, spec: ModelSpec, ratio: float = 0.75, norm_pix: bool = False, depth: int = 8, width: int = 512,
        heads: int = 16,
    ) -> None:  # fmt: skip
        super().__init__()
        check_hides(spec, "leave out", "MAE")
        self.spec, self.ratio, self.norm_pix = spec, ratio, norm_pix
        self.embed = nn.Linear(spec.image_width, width)
        self.mask = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(PreNormBlock(width, heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pixels = nn.Linear(width, 3 * math.prod(spec.patch))
        self._tables: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        sincos_positions((1, 1), width)
        kept(10**6, ratio)
        xavier(self)
        nn.init.normal_(self.mask, std=0.02)

    def forward(self, f: Features) -> HeadOutput:
        """Count: the samples. Logs: patches seen, and the error of ``mean_colour`` (see there) in the same measure."""
        order_BP, predicted_BMN = self._predicted(f)
        hidden_BM = order_BP[:, order_BP.shape[1] - predicted_BMN.shape[1] :]
        with torch.autocast(f.batch.pixels.device.type, enabled=False):
            patches_BPN = patchify(f.batch.pixels.float(), self.spec.patch)
            true_BMN = take(patches_BPN, hidden_BM)
            wanted_BMN = normalised(true_BMN) if self.norm_pix else true_BMN
            loss = (predicted_BMN.float() - wanted_BMN).square().mean()
            with torch.no_grad():
                seen_BVN = take(patches_BPN, order_BP[:, : order_BP.shape[1] - hidden_BM.shape[1]])
                guess = torch.zeros_like(wanted_BMN) if self.norm_pix else mean_colour(seen_BVN)
                plain = (guess - wanted_BMN).square().mean()
        seen = order_BP.shape[1] - hidden_BM.shape[1]
        return HeadOutput(loss=loss, count=self.counts(f), logs={"mean_colour": plain, "patches_seen": seen})

    def reconstruct(self, f: Features) -> Reconstruction:
        """What the decoder paints in place of hidden patches; with ``norm_pix`` by their true mean and deviation."""
        order_BP, predicted_BMN = self._predicted(f)
        hidden_BM = order_BP[:, order_BP.shape[1] - predicted_BMN.shape[1] :]
        painted_BMN = predicted_BMN.float()
        if self.norm_pix:
            true_BMN = take(patchify(f.batch.pixels, self.spec.patch), hidden_BM)
            painted_BMN = painted_BMN * deviation(true_BMN) + true_BMN.mean(-1, keepdim=True)
        return filled(f.batch.pixels, hidden_BM, painted_BMN, self.spec, leaks=self.norm_pix)

    def _predicted(self, f: Features) -> tuple[Tensor, Tensor]:
        """The order of the patches (B, P), the seen ones first, and what is said of the pixels of the hidden ones."""
        grid = self.spec.grid(f.batch.pixels.shape[2:])
        patches = math.prod(grid)
        count, ratio = kept(patches, self.ratio), self.ratio
        order_BP, place_BP = f.memo(
            ("mae", ratio), lambda f: shuffled(f.random("mae").uniform(patches), count)
        )  # fmt: skip
        keep_BV = f.memo(("mae keeps", ratio), lambda f: order_BP[:, :count])
        look = f.second_look(("mae", ratio), keep=keep_BV)
        return order_BP, f.chunked(partial(self.decode, grid), look.tokens.x, place_BP, order_BP[:, count:])

    def decode(self, grid: Sequence[int], x_BND: Tensor, place_BP: Tensor, wanted_BM: Tensor) -> Tensor:
        """Tower's tokens (B, C + V, D), where each patch stands behind them -> pixels (B, M, patch values) of some."""
        first = self.spec.class_tokens
        x_BND = self.embed(x_BND)
        absent = place_BP.shape[1] - (x_BND.shape[1] - first)
        hidden_BMD = self.mask.to(x_BND.dtype).expand(len(x_BND), absent, -1)
        patches_BPD = take(torch.cat([x_BND[:, first:], hidden_BMD], 1), place_BP)
        x_BND = torch.cat([x_BND[:, :first], patches_BPD], 1) + self._positions(tuple(grid), x_BND.device)
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.pixels(self.norm(take(x_BND, wanted_BM + first)))

    def _positions(self, grid: tuple[int, ...], device: torch.device) -> Tensor:
        """Fixed ones, of the class tokens too."""
        if (grid, device) not in self._tables:
            table = sincos_positions(grid, self.mask.shape[-1], self.spec.class_tokens)
            self._tables[grid, device] = table.to(device, non_blocking=True)
        return self._tables[grid, device]


def xavier(root: nn.Module) -> None:
    """MAE's beginning: Linear maps uniform by Glorot & Bengio (2010), biases 0."""
    for module in root.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def deviation(patches_BPN: Tensor) -> Tensor:
    """(B, P, 1): the standard deviation of all values of a patch, over n - 1, never 0."""
    return (patches_BPN.var(-1, keepdim=True) + 1e-6).sqrt()


def normalised(patches_BPN: Tensor) -> Tensor:
    """Each patch minus its mean, by its deviation."""
    return (patches_BPN - patches_BPN.mean(-1, keepdim=True)) / deviation(patches_BPN)


def mean_colour(patches_BVN: Tensor) -> Tensor:
    """The mean colour of what is seen of each picture, as one patch (B, 1, N): what to say who knows nothing more."""
    colours_B3 = patches_BVN.unflatten(-1, (3, -1)).mean((1, 3))
    return colours_B3.repeat_interleave(patches_BVN.shape[-1] // 3, dim=1)[:, None]
