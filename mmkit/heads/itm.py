"""Image-text matching with hard negatives (ALBEF, section 3.2 and equation 5).

For each text one image that is not its own, for each image one text, drawn from the samples of all ranks in
proportion to the softmax of their contrastive similarity. A Gumbel maximum draws them all at once, in log space, so
that nothing underflows; same picture or same words are never negatives, and a row without a negative is left out.
ViLT (section 4.1), without a joint space, judges one pair a sample instead, half of them with a random image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features, alike
from mmkit.heads.base import Head
from mmkit.heads.pairs import mixed
from mmkit.losses import masked_mean
from mmkit.nn.init import initialise
from mmkit.types import HeadOutput, Log, ModelSpec

# From log-weights (draws, B, G) and noise of that shape to one choice in each row, (draws, B) int64.
Draw = Callable[[Tensor, Tensor], Tensor]


def gumbel_choice(log_weights: Tensor, noise: Tensor) -> Tensor:
    """One index of each row in proportion to exp(log-weight): the Gumbel-max trick. -inf is never chosen."""
    return (log_weights + noise).argmax(-1)


def log_similarities(f: Features) -> Tensor:
    """(2, B, G) float32: this rank's texts to all images, and its images to all texts, over the temperature."""
    keys = f.teacher or f
    with torch.autocast(f.image_embed.device.type, enabled=False):
        t2i_BG = f.text_embed.detach() @ keys.all_image_embed.detach().T
        i2t_BG = f.image_embed.detach() @ keys.all_text_embed.detach().T
        return torch.stack([t2i_BG, i2t_BG]) / f.temperature.detach()


class ITM(Head):
    """Cross-entropy of "these two belong together": one positive to two negatives for each sample.

    Args:
        spec: of the model; it needs ``fuse``, and a joint space for hard negatives.
        negatives: "hard", or "random" for models without a joint space; "mixed" for the pairs of ``pairs.mixed``,
            one for each sample, at a third of the cost (ViLT).
        avoid: "same" keeps equal pictures and captions out of the negatives; "image" equal pictures (the official
            retrieval fine-tuning); "pair" only a sample's own (the official pre-training).
        draw: how one index of each row is chosen.
        pooler: a tanh layer before the classifier (ViLT, as in BERT).
    """

    needs_words = True
    needs_negatives = True

    def __init__(
        self, spec: ModelSpec, negatives: Literal["hard", "random", "mixed"] = "hard",
        avoid: Literal["same", "image", "pair"] = "same", draw: Draw = gumbel_choice,
        pooler: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not spec.fuses:
            raise UserError("ITM needs a model that fuses text and image; this one has no fuse")
        if negatives == "hard" and not spec.embed_dim:
            raise UserError('ITM draws hard negatives in a joint space, which this model lacks: use negatives="random"')
        self.negatives = negatives
        self.avoid = avoid
        self.draw = draw
        self.pool = nn.Linear(spec.fused_width, spec.fused_width) if pooler else None
        if self.pool is not None:
            initialise(self.pool, spec.fused_width)
        self.classify = nn.Linear(spec.fused_width, 2)
        nn.init.normal_(self.classify.weight, std=0.02)
        nn.init.zeros_(self.classify.bias)

    def match_logits(self, cls_BD: Tensor) -> Tensor:
        """The fused [CLS] state (B, D) -> logits (B, 2): no match, match."""
        return self.classify(cls_BD if self.pool is None else self.pool(cls_BD).tanh())

    def predict(self, f: Features) -> Tensor:
        """Of each text with its own picture the logits (B, 2) float32: no match, match."""
        return self.match_logits(f.fused_first.first).float()

    def forward(self, f: Features) -> HeadOutput:
        """Count: the pairs judged. Logs: the chance level 0.6365 (the entropy of 1 to 2), the accuracy (2/3 by chance);
        of fewer negatives, where samples are alike, that of the pairs judged.

        Of mixed pairs the chance level is ln 2, and the accuracy 1/2 by chance.
        """
        if self.negatives == "mixed":
            return self._judge_mixed(f)
        image_B, text_B, valid_B = self._choose(f)
        size = len(f.batch)
        keep = torch.zeros(3 * size, 1, dtype=torch.int64, device=image_B.device)
        fused = f.fuse([(None, None), (text_B, None), (None, image_B)], keep)
        logits_N2 = self.match_logits(fused.first).float()
        labels_N = torch.zeros(3 * size, dtype=torch.int64, device=image_B.device)
        labels_N[:size] = 1
        valid_N = torch.cat([torch.ones_like(valid_B), valid_B, valid_B])
        loss_N = F.cross_entropy(logits_N2, labels_N, reduction="none")
        hits_N = (logits_N2.detach().argmax(1) == labels_N).float()
        matches = size / valid_N.sum()
        logs: dict[str, Log] = {
            "chance": torch.special.entr(matches) + torch.special.entr(1 - matches),
            "accuracy": masked_mean(hits_N, valid_N), "chance_accuracy": torch.maximum(matches, 1 - matches),
        }  # fmt: skip
        return HeadOutput(loss=masked_mean(loss_N, valid_N), count=self.counts(f), logs=logs)

    def counts(self, f: Features) -> int | Tensor:
        """The pairs judged: each sample's own, and two for each sample that has a negative."""
        size = len(f.batch)
        return size if self.negatives == "mixed" else size + 2 * (~alike(f, self.avoid)).any(1).sum().float()

    def _judge_mixed(self, f: Features) -> HeadOutput:
        pairs = mixed(f)
        labels_B = pairs.match_B.long()
        logits_B2 = self.match_logits(pairs.fused.first).float()
        accuracy = (logits_B2.detach().argmax(1) == labels_B).float().mean()
        logs: dict[str, Log] = {"chance": math.log(2), "accuracy": accuracy, "chance_accuracy": 1 / 2}
        return HeadOutput(loss=F.cross_entropy(logits_B2, labels_B), count=self.counts(f), logs=logs)

    def _choose(self, f: Features) -> tuple[Tensor, Tensor, Tensor]:
        """For each text an image, for each image a text, as rows of all ranks; whether there is one. Each (B,)."""
        noise = f.random("itm").gumbel(2, len(f.all_image_id)).transpose(0, 1)
        weights = log_similarities(f) if self.negatives == "hard" else torch.zeros_like(noise)
        positive_BG = alike(f, self.avoid)
        weights = weights.masked_fill(positive_BG, -torch.inf)
        choice = self.draw(weights, noise)
        return choice[0], choice[1], (~positive_BG).any(1)
