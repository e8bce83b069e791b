"""What every objective is: a module from the views of a batch to a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmkit.features import Features
from mmkit.types import HeadOutput


class Head(nn.Module):
    """One objective. ``forward`` changes no state; what must change does so in ``after_step``.

    ``distilled``: whether the teacher keeps an averaged copy of this head, for ``Features.twin``.
    ``needs_negatives``: whether a batch of one sample teaches it nothing. ``needs_masking``: whether it learns from
    words that ``data.masking`` hides. ``compares``: whether it makes the joint space one in which embeddings compare.
    """

    distilled = False
    needs_negatives = False
    needs_masking = False
    compares = False

    def forward(self, f: Features) -> HeadOutput:
        """The loss over one rank's batch."""
        raise NotImplementedError

    def inherit(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values for this head's parameters from a pre-trained state that has no such head, by the head's own names.

        ``state``: "model.fusion.blocks.0....", "heads.mlm.dense.weight", ...; what it lacks stays at random.
        """
        return {}

    @torch.no_grad()
    def after_step(self, carries: Sequence[Mapping[str, Tensor]]) -> None:
        """Once per optimizer step, with what ``forward`` carried out of each micro-batch. Nothing by default."""
