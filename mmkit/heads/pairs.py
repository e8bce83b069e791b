"""Pairs that belong together and pairs that do not, as ViLT's objectives judge them (Kim et al. 2021, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmkit.features import Features
from mmkit.types import Fused, Tokens


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """One pair for each text of the rank.

    fused: the states of each text with its image. match: (B,) bool, whether it is its own. image: the tokens (B, P, D)
    of these images before fusion.
    """

    fused: Fused
    match_B: Tensor
    image: Tokens


def mixed(f: Features) -> Mixed:
    """Each text with its own image or, for a random half of all ranks' samples, with a random other one.

    What shows the same picture or says the same words is no other one; a sample without any keeps its own. Made once
    for all heads.
    """
    return f.memo(mixed, _mix)


def _mix(f: Features) -> Mixed:
    with torch.no_grad():
        draws_G = f.random("mixed pairs", everyone=True).uniform()
        other_BG = ~f.same
        place_G = draws_G.argsort(stable=True).argsort()
        match_B = (place_G < len(draws_G) // 2)[f.own] | ~other_BG.any(1)
        noise_BG = f.random("mixed images").gumbel(len(draws_G))
        other_B = noise_BG.masked_fill(~other_BG, -torch.inf).argmax(1)
        rows_B = torch.where(match_B, f.own, other_B)
    return Mixed(fused=f.fuse([(None, rows_B)]), match_B=match_B, image=f.images(rows_B))
