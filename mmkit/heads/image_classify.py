"""Classes of pictures alone: one linear map on the image tower (Dosovitskiy et al. 2021, section 3.1).

Label smoothing as Szegedy et al. (2016, section 7); with a momentum teacher its answer is a soft target beside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Sorter
from mmkit.losses import soft_cross_entropy
from mmkit.nn.pool import pooled
from mmkit.types import HeadOutput, ModelSpec


class ImageClassify(Sorter):
    """Cross-entropy of ``batch.targets["label"]`` (B,) int64 from the class token, or the mean of the patches.

    classes: their names in the order of the labels; they are saved with the model. label: the target's name.
    smoothing: the share of the target, 0 to below 1, that is spread evenly over all classes. mean: read the mean of
    the patches also where there is a class token (as MAE's fine-tuning). Where ``data.mixing`` mixes pictures the
    target is (B, C) float, the shares of the classes.
    """

    soft_labels = True

    def __init__(
        self, spec: ModelSpec, classes: Sequence[str], label: str = "label", smoothing: float = 0.0, mean: bool = False
    ) -> None:
        super().__init__(classes, label)
        if not 0 <= smoothing < 1:
            raise UserError(f"ImageClassify: smoothing={smoothing}: a share, 0 to below 1")
        self.smoothing = smoothing
        self.class_tokens, of_patches = spec.pool
        self.mean = mean or of_patches
        self.out = nn.Linear(spec.image_width, len(self.classes))
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def predict(self, f: Features) -> Tensor:
        """The logits (B, C) float32 of a batch."""
        return self.out(pooled(f.image, self.class_tokens, self.mean)).float()

    def forward(self, f: Features) -> HeadOutput:
        """Count: the samples. Logs: the chance level ln C, and the accuracy."""
        labels_B, logits_BC = f.target(self.label), self.predict(f)
        loss = F.cross_entropy(logits_BC, labels_B, label_smoothing=self.smoothing)
        if f.teacher is not None and f.alpha:
            soft_BC = f.twin(self).predict(f.teacher).softmax(-1)
            loss = (1 - f.alpha) * loss + f.alpha * soft_cross_entropy(logits_BC, soft_BC).mean()
        return self.output(f, loss, logits_BC, labels_B)
