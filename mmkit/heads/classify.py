"""Classes of picture and text together: entailment, true or false statements, any label (ALBEF, section 5.2).

A small perceptron on the fused [CLS] state, with the momentum teacher's answer as a soft target (equation 7).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Sorter
from mmkit.losses import distilled_cross_entropy
from mmkit.nn.init import initialise
from mmkit.types import Fused, HeadOutput, ModelSpec


class Classify(Sorter):
    """Cross-entropy of ``batch.targets["label"]`` (B,) int64.

    ``classes``: their names in the order of the labels, or how many there are. ``label``: the target's name.
    """

    needs_words = True

    def __init__(self, spec: ModelSpec, classes: int | Sequence[str], label: str = "label") -> None:
        super().__init__([str(i) for i in range(classes)] if isinstance(classes, int) else classes, label)
        if not spec.fuses:
            raise UserError("Classify reads fused states; this model has no fuse")
        self.dense = nn.Linear(spec.fused_width, spec.fused_width)
        self.out = nn.Linear(spec.fused_width, len(self.classes))
        initialise(self, spec.fused_width)

    def logits(self, fused: Fused) -> Tensor:
        """The fused states, of which the text's first is read -> (B, C) float32."""
        return self.out(self.dense(fused.first).relu()).float()

    def predict(self, f: Features) -> Tensor:
        """The logits (B, C) float32 of a batch."""
        return self.logits(f.fused_first)

    def forward(self, f: Features) -> HeadOutput:
        """Count: the samples. Logs: the chance level ln C, and the accuracy."""
        labels_B = f.target(self.label)
        logits_BC = self.predict(f)
        teacher_BC = f.twin(self).predict(f.teacher) if f.teacher is not None and f.alpha else None
        loss = distilled_cross_entropy(logits_BC, labels_B, teacher_BC, f.alpha).mean()
        return self.output(f, loss, logits_BC, labels_B)
