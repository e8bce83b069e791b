"""Image-text contrast with a feature queue and soft targets (ALBEF, section 3.2 and equations 1, 2, 6).

Queries are this rank's student features. Keys are the teacher's features of all ranks and the queue of past ones;
without a teacher they are the student's own, gathered with gradient. The same picture and the same words are
positives wherever they turn up. ``positives="pair"`` is the official pre-training: only a sample's own partner;
``positives="image"`` the official retrieval fine-tuning: the same picture, but not the same words under another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mmkit.errors import UserError
from mmkit.features import Features, alike, same_pair
from mmkit.heads.base import EachSample
from mmkit.losses import soft_cross_entropy
from mmkit.nn.queue import FeatureQueue
from mmkit.types import HeadOutput, Log, ModelSpec


class ITC(EachSample):
    """The mean of the image-to-text and the text-to-image contrastive loss.

    Args:
        spec: of the model; it needs a joint space (``embed_dim`` > 0).
        queue_size: how many past pairs serve as further candidates; 0 for none. Any size, whatever the batch.
        positives: "same" counts every candidate with the same picture or words; "image" those with the same picture;
            "pair" a sample's partner alone.
    """

    needs_words = True
    needs_negatives = True
    compares = True

    def __init__(
        self, spec: ModelSpec, queue_size: int = 65_536, positives: Literal["same", "image", "pair"] = "same"
    ) -> None:
        super().__init__()
        if not spec.embed_dim:
            raise UserError("ITC needs a model with a joint space; this one has no embed_image and embed_text")
        self.positives = positives
        width = spec.embed_dim
        self.queue = FeatureQueue(queue_size, {"image": width, "text": width, "image_id": 0, "caption_id": 0})

    def forward(self, f: Features) -> HeadOutput:
        """Count: the samples of the batch. Logs: the chance level ln(candidates), and accuracy over the candidates."""
        views = f.teacher or f
        image_G, text_G = views.all_image_embed, views.all_text_embed
        with torch.autocast(f.image_embed.device.type, enabled=False):
            hard_BN = self._hard_targets(f)
            losses, hits = [], []
            for query, keys, teacher, past in (
                (f.image_embed, text_G, f.teacher.image_embed if f.teacher else None, self.queue["text"]),
                (f.text_embed, image_G, f.teacher.text_embed if f.teacher else None, self.queue["image"]),
            ):
                logits_BN = torch.cat([query @ keys.T, query @ past.T], 1) / f.temperature
                target_BN = hard_BN / hard_BN.sum(1, keepdim=True)
                if teacher is not None and f.alpha:
                    soft_BN = torch.cat([teacher @ keys.T, teacher @ past.T], 1) / f.temperature.detach()
                    target_BN = f.alpha * soft_BN.softmax(-1) + (1.0 - f.alpha) * target_BN
                losses.append(soft_cross_entropy(logits_BN, target_BN).mean())
                best_B1 = logits_BN.detach().argmax(1, keepdim=True)
                hits.append(hard_BN.gather(1, best_B1).mean())
        candidates = hard_BN.shape[1]
        logs: dict[str, Log] = {"chance": math.log(candidates), "candidates": candidates}
        logs |= {"temperature": f.temperature.detach().clone(), "i2t_accuracy": hits[0], "t2i_accuracy": hits[1]}
        carry = {"image": image_G.detach(), "text": text_G.detach()}
        carry |= {"image_id": f.all_image_id, "caption_id": f.all_caption_id}
        return HeadOutput(loss=(losses[0] + losses[1]) / 2, count=self.counts(f), logs=logs, carry=carry)

    def after_step(self, carries: Sequence[Mapping[str, Tensor]]) -> None:
        """Pushes the features of every micro-batch, in order."""
        for carry in carries:
            self.queue.push(carry)

    @torch.no_grad()
    def _hard_targets(self, f: Features) -> Tensor:
        own_BG = alike(f, self.positives)
        if self.positives == "pair":
            past_BK = own_BG.new_zeros(len(own_BG), len(self.queue))
        elif self.positives == "image":
            past_BK = f.batch.image_id[:, None] == self.queue["image_id"]
        else:
            past_BK = same_pair(f.batch.image_id, f.caption_id, self.queue["image_id"], self.queue["caption_id"])
        return torch.cat([own_BG, past_BK], 1).float()
