"""The classes of a network of others, by the layer that it was trained with: to be used, or trained on as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mmkit.features import Features
from mmkit.heads.base import Sorter
from mmkit.types import HeadOutput, ModelSpec


class OwnClasses(Sorter):
    """Cross-entropy of the target ``label`` (B,) int64 by the classifier of the model's own image tower.

    classes: their names in the order of its outputs. The tower pools as its family does, in a pass of its own.
    """

    def __init__(self, spec: ModelSpec, classes: Sequence[str], label: str = "label") -> None:
        super().__init__(classes, label)

    def predict(self, f: Features) -> Tensor:
        """The logits (B, C) float32 of a batch."""
        image: Any = f.model.image
        return f.chunked(image.logits, f.batch.pixels).float()

    def forward(self, f: Features) -> HeadOutput:
        """Count: the samples. Logs: the chance level ln C, and the accuracy."""
        labels_B, logits_BC = f.target(self.label), self.predict(f)
        return self.output(f, F.cross_entropy(logits_BC, labels_B), logits_BC, labels_B)
