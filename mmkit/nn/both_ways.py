"""Cells of a picture and words read each other at once, by one matrix of scores (GLIP, Li et al. 2022, section 3.2).

Grounding DINO has it too (Liu et al. 2023, section 3.1). Left out: the clamping of scores at 50,000, and subtracting
their maximum, which softmax does itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.nn.block import DropPath
from mmkit.nn.dropout import dropout
from mmkit.nn.placed import split


class BothWays(nn.Module):
    """Normalises both sides, lets each read the other, and adds what was read to the normalised ones.

    width: of the queries, keys and values, of all ``heads``. scale: what is read counts so much at the start.
    """

    def __init__(
        self, image_width: int, text_width: int, width: int, heads: int, *, scale: float, dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise UserError(f"width {width} cannot be split into {heads} heads: choose a number that divides it")
        self.heads, self.rate = heads, dropout
        self.norm_image, self.norm_text = nn.LayerNorm(image_width), nn.LayerNorm(text_width)
        self.q, self.k = nn.Linear(image_width, width), nn.Linear(text_width, width)
        self.v_image, self.v_text = nn.Linear(image_width, width), nn.Linear(text_width, width)
        self.out_image, self.out_text = nn.Linear(width, image_width), nn.Linear(width, text_width)
        self.scale_image = nn.Parameter(torch.full((image_width,), scale))
        self.scale_text = nn.Parameter(torch.full((text_width,), scale))
        self.drop_path = DropPath(drop_path)
        for part in (self.q, self.k, self.v_image, self.v_text, self.out_image, self.out_text):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(
        self, image: Tensor, text: Tensor, real_BP: Tensor | None, real_BL: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Cells (B, P, D) and words (B, L, D') -> both, having read the other. real: which of them are no padding."""
        image, text = self.norm_image(image), self.norm_text(text)
        q, k = split(self.q(image), self.heads), split(self.k(text), self.heads)
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        back = scores.mT
        if real_BL is not None:
            scores = scores.masked_fill(~real_BL[:, None, None], -torch.inf)
        if real_BP is not None:
            back = back.masked_fill(~real_BP[:, None, None], -torch.inf)
        rate = self.rate if self.training else 0.0
        for_image = dropout(scores.softmax(-1), rate) @ split(self.v_text(text), self.heads)
        for_text = dropout(back.softmax(-1), rate) @ split(self.v_image(image), self.heads)
        image = image + self.drop_path(self.scale_image * self.out_image(for_image.transpose(1, 2).flatten(2)))
        text = text + self.drop_path(self.scale_text * self.out_text(for_text.transpose(1, 2).flatten(2)))
        return image, text
