"""Two towers that meet in a joint space and nowhere else: CLIP, SigLIP, LiT.

CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2), SigLIP (Zhai et al. 2023,
https://arxiv.org/abs/2303.15343) and LiT (Zhai et al. 2022, https://arxiv.org/abs/2111.07991) differ in pooling,
projections and loss; the losses are heads (``itc``, ``sigmoid``). There is no fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.encoders.prenorm_text import PreNormText
from mmkit.encoders.text import TextEncoder
from mmkit.encoders.vit import SeesByViT
from mmkit.errors import UserError
from mmkit.nn.temperature import Temperature
from mmkit.protocol import ImageTower
from mmkit.types import Fused, ModelSpec, Tokens


class Dual(SeesByViT):
    """The model protocol over two towers, without ``fuse``.

    Args:
        image_pool, text_pool: tokens (B, N, D) -> (B, D); see ``nn/pool.py``.
        image_proj, text_proj: (B, D) -> (B, E), linear or the identity.
        embed_dim: E.
        frozen_image: the image tower is not trained, and has neither dropout nor patch dropout (LiT).
    """

    def __init__(
        self, image: ImageTower, text: PreNormText | TextEncoder, *, image_pool: nn.Module, text_pool: nn.Module,
        image_proj: nn.Module, text_proj: nn.Module, embed_dim: int, temperature: Temperature,
        frozen_image: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.image, self.image_pool, self.image_proj = image, image_pool, image_proj
        self.text, self.text_pool, self.text_proj = text, text_pool, text_proj
        self.temperature = temperature
        self.frozen_image = frozen_image
        if frozen_image:
            image.requires_grad_(False)
        self.spec = ModelSpec(
            image_width=image.width, text_width=text.width, fused_width=text.width, embed_dim=embed_dim,
            vocab_size=len(text.word_embeddings), fuses=False, **image.sight,
        )  # fmt: skip

    def train(self, mode: bool = True) -> Dual:
        """As for any module; a frozen image tower stays in evaluation."""
        super().train(mode)
        if self.frozen_image:
            self.image.eval()
        return self

    @property
    def word_embeddings(self) -> Tensor:
        """(V, D): the words' vectors."""
        return self.text.word_embeddings

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tokens:
        """(B, L) int64 and bool -> (B, L, D)."""
        return self.text(ids_BL, mask_BL)

    def embed_image(self, image: Tokens) -> Tensor:
        """The pooled image in the joint space: (B, E) float32, L2-normalised."""
        return F.normalize(self.image_proj(self.image_pool(image)).float(), dim=-1)

    def embed_text(self, text: Tokens) -> Tensor:
        """The pooled text in the joint space: (B, E) float32, L2-normalised."""
        return F.normalize(self.text_proj(self.text_pool(text)).float(), dim=-1)

    def image_context(self, image: Tokens) -> Any:
        """The towers never read each other: always a UserError."""
        raise UserError("this model does not fuse image and text; compare embeddings instead")

    def fuse(self, text: Tokens, contexts: Sequence[Any], keep_BM: Tensor | None = None) -> Fused:
        """The towers never read each other: always a UserError."""
        raise UserError("this model does not fuse image and text; compare embeddings instead")
