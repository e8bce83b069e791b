"""The two objectives on pairs of pictures: is the statement true (NLVR2), and which picture does the text describe.

The second is ALBEF's text assignment (appendix A): a stage between pre-training and NLVR2, on pictures with captions
alone, in which the layers that read the right picture learn their part. Negatives are pictures like the text's own one,
drawn from the samples of all ranks in proportion to the softmax of their similarity; same picture or same words are
never negatives, and a text without enough of them is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.chunks import joined, split
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Head
from mmkit.heads.classify import Classify
from mmkit.losses import masked_mean
from mmkit.nn.init import initialise
from mmkit.ranks import gather
from mmkit.types import Fused, HeadOutput, ModelSpec, Tokens

TEMPERATURE = 0.07  # of the similarities that negatives are drawn by; fixed, as nothing trains it here
FIRST, SECOND, NEITHER = range(3)


class PairClassify(Classify):
    """``Classify`` on the text's [CLS] state after both pictures; the right ones are ``targets["second"]``.

    (B, 3, height, width), of the size of ``Batch.pixels``, see ``PairTargets``. The model has ``read_pairs``.
    """

    also_reads = ("second",)

    def __init__(self, spec: ModelSpec, classes: int | Sequence[str] = ("False", "True"), label: str = "label") -> None:
        super().__init__(spec, classes, label)

    def predict(self, f: Features) -> Tensor:
        """The logits (B, C) float32 of a batch. Both pictures pass the image tower in one batch of 2 B."""
        text, pixels = f.text, torch.cat([f.batch.pixels, f.target("second")])
        cls_BD = read_pairs(f, text, f.chunked(f.model.encode_image, pixels))
        return self.logits(Fused(Tokens(cls_BD[:, None])))


class Assigned(NamedTuple):
    """For each of B texts: rows of the left and the right picture among all ranks', the label, whether it counts."""

    left_B: Tensor
    right_B: Tensor
    label_B: Tensor
    valid_B: Tensor


Assign = Callable[[Tensor, Tensor, Tensor], Assigned]


def assign(log_weights_BG: Tensor, noise_4BG: Tensor, own_B: Tensor) -> Assigned:
    """One of three cases for each text, each as likely: its own picture is the left one, the right one, or neither.

    log_weights: of each picture as a negative; -inf is none. noise: Gumbel; the first matrix draws two different
    negatives in proportion to the weights, the other three, at the own picture's place, the case. own: its rows.
    """
    choice_B2 = (log_weights_BG + noise_4BG[0]).topk(2, dim=1).indices
    label_B = noise_4BG[1:, torch.arange(len(own_B), device=own_B.device), own_B].argmax(0)
    hard_B, other_B = choice_B2.unbind(1)
    return Assigned(
        left_B=torch.where(label_B == FIRST, own_B, hard_B),
        right_B=torch.where(label_B == SECOND, own_B, torch.where(label_B == FIRST, hard_B, other_B)),
        label_B=label_B,
        valid_B=(log_weights_BG > -torch.inf).sum(1) >= torch.where(label_B == NEITHER, 2, 1),
    )


class TextAssignment(Head):
    """Cross-entropy of which of two pictures the text describes: the left, the right, or neither.

    Args:
        spec: of a ``PairALBEF`` with an ``embed_dim``, in whose joint space negatives are drawn, without gradient.
        choose: how pictures are put together.
    """

    needs_words = True
    needs_negatives = True

    def __init__(self, spec: ModelSpec, choose: Assign = assign) -> None:
        super().__init__()
        if not spec.embed_dim:
            raise UserError("TextAssignment draws its negatives in the joint space: give the model its embed_dim")
        self.choose = choose
        self.out = nn.Linear(spec.fused_width, 3)
        initialise(self, spec.fused_width)

    def forward(self, f: Features) -> HeadOutput:
        """Count: the texts that count. Logs: the chance level ln 3, and the accuracy."""
        log_weights_BG = similarities(f).masked_fill(f.same, -torch.inf)
        chosen = self.choose(log_weights_BG, self._noise(f), f.own)
        logits_B3 = self.logits(f, chosen)
        loss_B = F.cross_entropy(logits_B3, chosen.label_B, reduction="none")
        hits_B = (logits_B3.detach().argmax(1) == chosen.label_B).float()
        return HeadOutput(
            loss=masked_mean(loss_B, chosen.valid_B),
            count=chosen.valid_B.sum().float(),
            logs={"chance": math.log(3), "accuracy": masked_mean(hits_B, chosen.valid_B), "chance_accuracy": 1 / 3},
        )

    def counts(self, f: Features) -> Tensor:
        """The texts that have enough other pictures, however similar these are."""
        weights_BG = torch.zeros_like(f.same, dtype=torch.float32).masked_fill(f.same, -torch.inf)
        return self.choose(weights_BG, self._noise(f), f.own).valid_B.sum().float()

    def _noise(self, f: Features) -> Tensor:
        return f.random("text assignment").gumbel(4, len(f.all_image_id)).transpose(0, 1)

    def logits(self, f: Features, chosen: Assigned) -> Tensor:
        """(B, 3) float32, of the own texts with the chosen pictures."""
        pairs = f.images(torch.cat([chosen.left_B, chosen.right_B]))
        return self.out(read_pairs(f, f.text, pairs)).float()


def read_pairs(f: Features, text: Tokens, pairs: Tokens) -> Tensor:
    """``read_pairs`` of the model, in the chunks of the run: (B, D)."""
    model = f.model
    read = lambda text, left, right: model.read_pairs(text, joined([left, right]))  # noqa: E731
    return f.chunked(read, text, *split(pairs, 2))


def similarities(f: Features) -> Tensor:
    """(B, G) float32: of this rank's pictures to those of all ranks, over the temperature; without gradient."""
    own, everyone = f.image_embed.detach(), gather(f.image_embed.detach())
    with torch.autocast(own.device.type, enabled=False):
        return own @ everyone.T / TEMPERATURE
