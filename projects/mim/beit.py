"""BEiT (Bao et al. 2022, https://arxiv.org/abs/2106.08254): which visual word stands at each hidden patch.

Blocks of patches are hidden at the embedding, up to 38 % of a picture, and one linear map tells their ids, which
``PatchCodes`` gives in place of DALL-E's encoder. While the codes are being found, in the first steps, the loss counts
nothing. Left out: the second view of the tokeniser (one crop serves both), relative positions and layer scale in our
own towers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Head
from mmkit.look import check_hides
from mmkit.nn.attention import take
from mmkit.nn.patch import patchify
from mmkit.nn.queue import FeatureQueue
from mmkit.ranks import gather, on_first
from mmkit.types import HeadOutput, Log, ModelSpec
from projects.mim.codes import PatchCodes, fitted
from projects.mim.masks import blockwise

OF_A_PICTURE = 32  # patches of each that the codes are found from


class BEiT(Head):
    """Cross-entropy of the ids of hidden patches.

    Args:
        spec: of a model that can replace patches.
        codes: how many ids there are.
        ratio: the share of patches that is hidden at most; a picture where no further block fits has fewer.
        smallest: patches of a block, at least; None = 16 of a grid of 14 x 14, the same share of another.
        sample: patches that the codes are found from, at least as many as ``codes``. axes: see ``PatchCodes``.
    """

    def __init__(
        self, spec: ModelSpec, codes: int = 8192, ratio: float = 75 / 196, smallest: int | None = None,
        sample: int = 100_000, axes: int = 48,
    ) -> None:  # fmt: skip
        super().__init__()
        check_hides(spec, "replace", "BEiT")
        if not 0 < ratio < 1 or codes < 2 or sample < codes:
            raise UserError(
                f"BEiT: ratio={ratio}, codes={codes}, sample={sample}: a share between 0 and 1, two codes or more, and "
                "no fewer patches to find them from"
            )
        self.spec, self.ratio, self.smallest = spec, ratio, smallest
        self.mask = nn.Parameter(torch.empty(spec.image_width))
        self.out = nn.Linear(spec.image_width, codes)
        values = 3 * math.prod(spec.patch)
        self.codes = PatchCodes(values, codes, axes)
        self.queue = FeatureQueue(sample, {"patches": values})
        nn.init.trunc_normal_(self.mask, std=0.02)
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    @property
    def ready(self) -> bool:
        """Whether the codes are found; the same on every process, and known without asking the device."""
        return self.queue.pushed >= self.queue.size

    def check_run(self, steps: int, samples: int) -> None:
        """UserError where the codes would be found after the last step."""
        collecting = math.ceil(self.queue.size / (samples * OF_A_PICTURE))
        if not self.ready and steps <= collecting:
            raise UserError(
                f"BEiT: the codes are found after {collecting} steps or more ({self.queue.size:,} patches, at most "
                f"{OF_A_PICTURE} of a picture), and this run has {steps}: it would learn nothing. Give it more steps, "
                "or find the codes from fewer patches (`sample`)"
            )

    def counts(self, f: Features) -> int:
        """The hidden patches; 0 while the codes are being found."""
        return int(self._hidden(f)[0].sum()) if self.ready else 0

    def _hidden(self, f: Features) -> tuple[Tensor, Tensor]:
        """(B, P) bool, the blocks of each picture: on the CPU, where they are drawn, and on the device."""
        grid = self.spec.grid(f.batch.pixels.shape[2:])
        patches = math.prod(grid)
        count = max(1, round(patches * self.ratio))
        smallest = self.smallest or max(1, round(16 / 196 * patches))

        def make(f: Features) -> tuple[Tensor, Tensor]:
            hidden_BP = blockwise(f.random("beit", on_host=True), len(f.batch), grid, count, smallest)
            return hidden_BP, hidden_BP.to(f.batch.pixels.device, non_blocking=True)

        return f.memo(("beit", count, smallest), make)

    def forward(self, f: Features) -> HeadOutput:
        """Count: the hidden patches. Logs: accuracy beside chance, the share of codes in use, and their perplexity.

        While the codes are being found, how much of their sample is there.
        """
        pixels = f.batch.pixels
        host_BP, hidden_BP = self._hidden(f)
        index_N = host_BP.flatten().nonzero().flatten().to(pixels.device, non_blocking=True)
        look = f.second_look("beit", hidden=hidden_BP, by=self.mask)
        logits_NV = self.out(look.tokens.x[:, self.spec.class_tokens :].flatten(0, 1)[index_N])
        with torch.autocast(pixels.device.type, enabled=False), torch.no_grad():
            patches_BPN = patchify(pixels.float(), self.spec.patch)
            ids_BP = self.codes(patches_BPN)
            ids_N = ids_BP.flatten()[index_N]
        count = max(1, len(ids_N))
        loss = F.cross_entropy(logits_NV.float(), ids_N, reduction="sum") / count
        hits = (logits_NV.detach().argmax(-1) == ids_N).sum() / count
        if self.ready:
            logs: dict[str, Log] = {"accuracy": hits, "chance_accuracy": 1 / len(self.out.weight)}
            logs |= self._usage(ids_BP, ids_N) | {"patches_seen": look.seen.float().mean()}
            return HeadOutput(loss=loss, count=self.counts(f), logs=logs)
        places_BM = f.random("beit codes").uniform(ids_BP.shape[1]).argsort(1)[:, :OF_A_PICTURE]
        carry = {"patches": gather(take(patches_BPN, places_BM).flatten(0, 1))}
        share = min(1.0, self.queue.pushed / self.queue.size)
        collected: dict[str, Log] = {"sample_collected": (share, len(f.batch))}
        return HeadOutput(loss=loss * 0.0, count=0, logs=collected, carry=carry)

    @torch.no_grad()
    def after_step(self, carries: Sequence[Mapping[str, Tensor]]) -> None:
        """Collects patches until there are enough, then finds the codes; the first process does, for all."""
        if self.ready:
            return
        for carry in carries:
            self.queue.push(carry)
        if self.ready:
            count, axes = self.codes.codes.shape
            self.codes.put(on_first(lambda: fitted(self.queue["patches"], count, axes)))

    def _usage(self, ids_BP: Tensor, ids_N: Tensor) -> dict[str, Log]:
        """Of the codes: the share that this batch uses, and how many equally likely ones would be as hard to guess.

        most_frequent: the accuracy of who always says the one that most hidden patches have.
        """
        size = len(self.out.weight)
        share_V = self._shares(ids_BP.flatten(), size)
        perplexity = torch.exp(-(share_V * share_V.clamp(min=1e-12).log()).sum())
        most = self._shares(ids_N, size).max()
        return {"codes_used": (share_V > 0).float().mean(), "perplexity": perplexity, "most_frequent": most}

    @staticmethod
    def _shares(ids_N: Tensor, size: int) -> Tensor:
        ones_N = torch.ones_like(ids_N, dtype=torch.float32)
        return torch.zeros(size, device=ids_N.device).index_add_(0, ids_N, ones_N) / max(1, len(ids_N))
