"""Pictures of a batch mixed with each other, and rectangles of noise, on the device and before any head looks.

Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) by torchvision, one of them for a batch; random erasing with
noise (Zhong et al. 2020; the "pixel" of timm and DeiT) before that. A picture is mixed with its neighbour in the same
micro-batch of the same process; which way and by how much follows from seed and step, alike on all processes. The label
becomes the share of each class. Captions cannot be mixed: a run with heads that read words is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmkit.draws import Draws, seed_of
from mmkit.errors import UserError
from mmkit.heads.base import reads_words
from mmkit.ranks import rank
from mmkit.types import Batch

Change = Callable[[Batch, int, int, int], Batch]
"""(batch, seed, step, samples before it in the step) -> the batch that heads see in training."""


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """What is done to a batch.

    mixup, cutmix: alpha of the Beta distribution of the share; 0 = not. switch: how often CutMix where both are given.
    probability: of mixing a batch at all. erase: of a rectangle of noise, 2 to 33 % of the area, in each picture.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    probability: float = 1.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0:
            raise UserError(f"mixing: mixup={self.mixup}, cutmix={self.cutmix}: 0 = not, or above")
        for name in ("switch", "probability", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"mixing: {name}={getattr(self, name)}: a probability, 0 to 1")

    @property
    def mixes(self) -> bool:
        """Whether labels change."""
        return bool((self.mixup or self.cutmix) and self.probability)

    def for_heads(self, heads: Mapping[str, Any]) -> Change:
        """The change for a run with these heads. UserError where one reads words, or none learns from shares."""
        if not self.mixes:
            return partial(self._changed, label="", classes=0)
        if words := [name for name, head in heads.items() if reads_words(head)]:
            raise UserError(
                f"data.mixing: {', '.join(words)}: reads words, and captions cannot be mixed as pictures are; leave "
                "out mixup and cutmix (erase alone is possible)"
            )
        sorters = [head for head in heads.values() if getattr(head, "soft_labels", False)]
        if len(sorters) != 1:
            raise UserError(
                f"data.mixing: {len(sorters)} heads learn from shares of classes (ImageClassify), of "
                f"{', '.join(heads)}; mixup and cutmix need exactly one"
            )
        return partial(self._changed, label=sorters[0].label, classes=len(sorters[0].classes))

    def _changed(self, batch: Batch, seed: int, step: int, before: int, *, label: str, classes: int) -> Batch:
        batch = batch.normalised()
        pixels, targets = batch.pixels, dict(batch.targets)
        if pixels.ndim != 4 or batch.pixel_mask is not None:
            what = "clips" if pixels.ndim != 4 else "pictures of unequal size"
            raise UserError(f"data.mixing: {what} are neither mixed nor erased; leave it out")
        own = [] if pixels.device.type == "cpu" else [pixels.device]
        with torch.random.fork_rng(own, device_type="cuda" if pixels.device.type == "cpu" else pixels.device.type):
            if self.erase:
                pixels = self._erased(pixels, seed, step, before + rank() * len(batch))
            if self.mixes:
                torch.manual_seed(seed_of(seed, step, "mixing"))
                if float(torch.rand(())) < self.probability:
                    pixels, targets[label] = self._mixed(pixels, targets[label], classes)
                else:
                    targets[label] = torch.nn.functional.one_hot(targets[label], classes).float()
        return replace(batch, pixels=pixels, targets=targets)

    def _mixed(self, pixels: Tensor, labels_B: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        from torchvision.transforms import v2

        cut = bool(self.cutmix) and (not self.mixup or float(torch.rand(())) < self.switch)
        kind, alpha = (v2.CutMix, self.cutmix) if cut else (v2.MixUp, self.mixup)
        mixed: tuple[Tensor, Tensor] = kind(alpha=alpha, num_classes=classes)(pixels, labels_B)
        return mixed

    def _erased(self, pixels: Tensor, seed: int, step: int, first: int) -> Tensor:
        from torchvision.transforms import v2

        rows = torch.arange(first, first + len(pixels))
        chosen = Draws((seed, step, "erase"), rows).uniform(1)[:, 0] < self.erase
        pixels = pixels.clone()
        eraser = v2.RandomErasing(p=1.0, value="random")
        for row in chosen.nonzero().flatten().tolist():
            torch.manual_seed(seed_of(seed, step, "erase", first + row))
            pixels[row] = eraser(pixels[row])
        return pixels
