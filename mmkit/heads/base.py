"""What every objective is: a module from the views of a batch to a loss, or to several with counts of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmkit.features import Features
from mmkit.types import Count, HeadOutput


class Head(nn.Module):
    """One objective. ``forward`` changes no state; what must change does so in ``after_step``.

    Its loss is a mean, and says over how many items. Over ranks and micro-batches the means are put together by these
    counts, so that n micro-batches, n ranks, or both, give the gradients of the joined batch wherever samples do not
    see each other. What compares samples with each other (``needs_negatives``) sees those of one micro-batch, of all
    ranks. A count of 0 is no fault: the loss then is finite, and has no weight.

    ``distilled``: whether the teacher keeps an averaged copy of this head, for ``Features.twin``.
    ``needs_negatives``: whether a batch of one sample teaches it nothing. ``needs_masking``: whether it learns from
    words that ``data.masking`` hides. ``compares``: whether it makes the joint space one in which embeddings compare.
    """

    distilled = False
    needs_negatives = False
    needs_masking = False
    compares = False

    def forward(self, f: Features) -> HeadOutput:
        """The loss over one rank's micro-batch."""
        raise NotImplementedError

    def counts(self, f: Features) -> Count | Mapping[str, Count] | None:
        """What ``forward`` will count, from the batch alone: ``f.batch``, its ids of all ranks, its random numbers.

        Asked before the steps that accumulate micro-batches, as the gradient of the first needs the total of all. With
        parts, by their names. None, as here: only ``forward`` knows, and it runs once more for each micro-batch to find
        out, without gradient and dropout. A count that ``forward`` then gives otherwise stops the run.
        """
        return None

    def inherit(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values for this head's parameters from a pre-trained state that has no such head, by the head's own names.

        ``state``: "model.fusion.blocks.0....", "heads.mlm.dense.weight", ...; what it lacks stays at random.
        """
        return {}

    @torch.no_grad()
    def after_step(self, carries: Sequence[Mapping[str, Tensor]]) -> None:
        """Once per optimizer step, with what ``forward`` carried out of each micro-batch. Nothing by default."""
