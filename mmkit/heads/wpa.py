"""Word-patch alignment by optimal transport (UNITER, Chen et al. 2020; ViLT, section 3.2; IPOT, Xie et al. 2018).

How cheaply the words of a text can be moved onto the patches of an image, the cost being the cosine distance of their
final states: cheap for a pair that belongs together, dear for one that does not. It reads the fused tokens, and where
these are the text's alone (cross-attention) the image's own. The weight in ViLT is 0.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import EachSample
from mmkit.heads.pairs import mixed
from mmkit.losses import masked_mean, mean_or_zero
from mmkit.types import HeadOutput, ModelSpec


class WPA(EachSample):
    """The mean over pairs of the transport distance, minus where the pair does not belong together.

    The pairs are those of ``pairs.mixed``, which a matching head may share.

    Args:
        spec: of the model; it needs ``fuse``, and words and patches of one width.
        beta, iterations: the step of the proximal method, and how many there are.
        drop_last: leave out each text's last token too, for tokenizers that end with [SEP].
    """

    needs_words = True
    needs_negatives = True

    def __init__(self, spec: ModelSpec, beta: float = 0.5, iterations: int = 50, drop_last: bool = False) -> None:
        super().__init__()
        if not spec.fuses:
            raise UserError("WPA aligns fused words with patches; this model has no fuse")
        if spec.fused_width != spec.image_width:
            raise UserError(
                f"WPA compares words and patches by cosine, so they must be of one width; this model's fused text has "
                f"{spec.fused_width} and its image {spec.image_width}"
            )
        self.beta = beta
        self.iterations = iterations
        self.drop_last = drop_last
        self.class_tokens = spec.class_tokens

    def forward(self, f: Features) -> HeadOutput:
        """Count: the pairs. Logs: the chance level 0, and the mean distance of either kind of pair."""
        pairs = mixed(f)
        text, image = pairs.fused
        if image is None:
            image = pairs.image
        words_BL = f.mask.clone()
        words_BL[:, 0] = False
        if self.drop_last:
            words_BL[:, :-1] &= f.mask[:, 1:]
            words_BL[:, -1] = False
        patches_BP = image.full_mask().clone()
        patches_BP[:, : self.class_tokens] = False
        with torch.autocast(image.x.device.type, enabled=False):
            cost_BLP = cosine_cost(text.x.float(), image.x.float())
            distance_B = transport_distance(cost_BLP, words_BL, patches_BP, self.beta, self.iterations)
        match_B = pairs.match_B
        kinds = {"matching": match_B, "other": ~match_B}
        means = {name: (masked_mean(distance_B.detach(), of_B), of_B.sum().float()) for name, of_B in kinds.items()}
        loss = mean_or_zero(torch.where(match_B, distance_B, -distance_B))
        return HeadOutput(loss=loss, count=self.counts(f), logs={"chance": 0.0, **means})


def cosine_cost(x_BND: Tensor, y_BND: Tensor) -> Tensor:
    """1 - cosine of every x with every y: (B, N of x, N of y) float32, 0 to 2."""
    return 1 - F.normalize(x_BND, dim=-1, eps=1e-5) @ F.normalize(y_BND, dim=-1, eps=1e-5).transpose(1, 2)


def transport_distance(cost_BLP: Tensor, x_BL: Tensor, y_BP: Tensor, beta: float = 0.5, iterations: int = 50) -> Tensor:
    """The cost of moving equal weights on the real x onto equal weights on the real y: (B,) float32.

    x, y: (B, L) and (B, P) bool. The gradient goes through the costs, not through the plan. 0 where either is empty.
    """
    real_BLP = x_BL[:, :, None] & y_BP[:, None]
    cost_BLP = cost_BLP.masked_fill(~real_BLP, 0.0)
    return (cost_BLP * transport_plan(cost_BLP.detach(), x_BL, y_BP, beta, iterations)).sum((1, 2))


@torch.no_grad()
def transport_plan(cost_BLP: Tensor, x_BL: Tensor, y_BP: Tensor, beta: float, iterations: int) -> Tensor:
    """The plan (B, L, P) of IPOT with one inner step: it sums to 1 over real pairs, and is 0 elsewhere."""
    real_BLP = x_BL[:, :, None] & y_BP[:, None]
    kernel_BLP = (-cost_BLP / beta).exp() * real_BLP
    count_B1, count_y_B1 = x_BL.sum(1, keepdim=True).float(), y_BP.sum(1, keepdim=True).float()
    left_BL = x_BL / count_B1.clamp(min=1)
    plan_BLP = real_BLP.float()
    for _ in range(iterations):
        step_BLP = kernel_BLP * plan_BLP
        right_BP = _inverse(count_y_B1 * torch.einsum("blp,bl->bp", step_BLP, left_BL), y_BP)
        left_BL = _inverse(count_B1 * torch.einsum("blp,bp->bl", step_BLP, right_BP), x_BL)
        plan_BLP = left_BL[:, :, None] * step_BLP * right_BP[:, None]
    return plan_BLP


def _inverse(x_BN: Tensor, real_BN: Tensor) -> Tensor:
    return torch.where(real_BN, 1 / x_BN.clamp(min=torch.finfo(x_BN.dtype).tiny), 0.0)
