"""The sigmoid loss of SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343, algorithm 1).

Every picture and every text of all ranks is one yes-or-no question: do they belong together? The texts of all ranks are
gathered with gradient, so that the loss and its gradients are those of one process. The factor of the similarities is
the model's temperature; the bias is learned here. Left out: the exchange between neighbours, which saves memory only.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from mmkit.errors import UserError
from mmkit.features import Features, alike
from mmkit.heads.base import EachSample
from mmkit.types import HeadOutput, Log, ModelSpec


class Sigmoid(EachSample):
    """The sum over all texts, the mean over this rank's pictures.

    Args:
        spec: of the model; it needs a joint space (``embed_dim`` > 0).
        bias: of the logits at the start; so low that nearly all pairs are rightly told apart from the first step.
        positives: "same" counts equal pictures and equal words as belonging together; "pair" a sample's partner alone.
    """

    needs_words = True
    needs_negatives = True
    compares = True

    def __init__(self, spec: ModelSpec, bias: float = -10.0, positives: Literal["same", "pair"] = "same") -> None:
        super().__init__()
        if not spec.embed_dim:
            raise UserError("Sigmoid needs a model with a joint space; this one has no embed_image and embed_text")
        self.positives = positives
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, f: Features) -> HeadOutput:
        """Count: the samples. Logs: the chance level, that of the best constant answer; the share of texts found."""
        with torch.autocast(f.image_embed.device.type, enabled=False):
            logits_BG = f.image_embed @ f.all_text_embed.T / f.temperature + self.bias.float()
        candidates = logits_BG.shape[1]
        positive_BG = alike(f, self.positives)
        loss = -F.logsigmoid(torch.where(positive_BG, logits_BG, -logits_BG)).sum() / len(f.batch)
        found = positive_BG.gather(1, logits_BG.detach().argmax(1, keepdim=True)).float().mean()
        logs: dict[str, Log] = {"chance": _chance(candidates), "candidates": candidates, "i2t_accuracy": found}
        logs |= {"temperature": f.temperature.detach().clone(), "bias": self.bias.detach().clone()}
        return HeadOutput(loss=loss, count=self.counts(f), logs=logs)


def _chance(candidates: int) -> float:
    """The loss of always answering with the share of pairs that belong together, 1 in ``candidates``."""
    if candidates == 1:
        return math.log(2)  # there is nothing to tell apart
    share = 1 / candidates
    return -math.log(share) - (candidates - 1) * math.log(1 - share)
