"""Ids for patches without a network and without downloads: k-means on whitened pixels.

Published BEiT takes the ids of DALL-E's encoder, whose weights were at an address that is gone. Here the codes are
found in the first steps of the run: patches are collected, their pixels reduced to the main axes of their variance,
each of variance 1 (PCA whitening), and grouped by k-means (Lloyd 1982) from spread starts (k-means++, Arthur &
Vassilvitskii 2007). Then they stay as they are. Left out: codes that learn with the run, and a tokeniser that distils
another model (BEiT v2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST = 1e-4  # of the largest variance: an axis with less is noise, and left as small as it is


class PatchCodes(nn.Module):
    """``count`` codes for patches of ``values`` numbers, in ``axes`` dimensions; none until ``fit``."""

    mean: Tensor
    axes: Tensor
    codes: Tensor

    def __init__(self, values: int, count: int, axes: int = 48) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("axes", torch.zeros(values, min(axes, values)))
        self.register_buffer("codes", torch.zeros(count, min(axes, values)))

    def forward(self, patches: Tensor) -> Tensor:
        """(..., values) float -> (...) int64, the nearest code of each."""
        return nearest((patches.float() - self.mean) @ self.axes, self.codes)

    @torch.no_grad()
    def put(self, found: tuple[Tensor, Tensor, Tensor]) -> None:
        """Take over what ``fitted`` found."""
        for own, value in zip((self.mean, self.axes, self.codes), found, strict=True):
            own.copy_(value)


def fitted(patches_NV: Tensor, count: int, axes: int, rounds: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """(N, values) -> their mean (values), the whitening (values, axes) and the codes (count, axes), all on the CPU.

    The same patches give the same codes.
    """
    patches_NV = patches_NV.float().cpu()
    mean_V = patches_NV.mean(0)
    centred_NV = patches_NV - mean_V
    variances, directions = torch.linalg.eigh((centred_NV.T @ centred_NV).double() / len(patches_NV))
    variances, directions = variances.flip(0)[:axes], directions.flip(1)[:, :axes]
    whitening = (directions / variances.clamp(min=LEAST * float(variances[0]) + 1e-12).sqrt()).float()
    return mean_V, whitening, k_means(centred_NV @ whitening, count, rounds)


def k_means(points_ND: Tensor, count: int, rounds: int) -> Tensor:
    """(N, D) -> the means (count, D) of ``count`` groups; one that loses all its points begins anew at the farthest."""
    codes_KD = _spread(points_ND, count)
    for _ in range(rounds):
        ids_N = nearest(points_ND, codes_KD)
        size_K = torch.bincount(ids_N, minlength=count)
        sums_KD = torch.zeros_like(codes_KD).index_add_(0, ids_N, points_ND)
        codes_KD = torch.where(size_K[:, None] > 0, sums_KD / size_K.clamp(min=1)[:, None], codes_KD)
        empty = (size_K == 0).nonzero().flatten()
        if len(empty):
            far_N = (points_ND - codes_KD[ids_N]).square().sum(1)
            codes_KD[empty] = points_ND[far_N.topk(len(empty)).indices]
    return codes_KD


def _spread(points_ND: Tensor, count: int) -> Tensor:
    """Starts: each a point, drawn in proportion to its squared distance from those before."""
    generator = torch.Generator().manual_seed(0)
    chosen = [points_ND[int(torch.randint(len(points_ND), (), generator=generator))]]
    far_N = torch.full((len(points_ND),), torch.inf)
    for _ in range(count - 1):
        far_N = torch.minimum(far_N, (points_ND - chosen[-1]).square().sum(1))
        total_N = far_N.double().cumsum(0)
        at = torch.searchsorted(total_N, torch.rand((), generator=generator, dtype=torch.float64) * total_N[-1])
        chosen.append(points_ND[min(int(at), len(points_ND) - 1)])
    return torch.stack(chosen)


def nearest(points: Tensor, codes_KD: Tensor) -> Tensor:
    """(..., D) -> (...) int64: the code at the least distance, the first of several."""
    return (codes_KD.square().sum(1) - 2 * points @ codes_KD.T).argmin(-1)
