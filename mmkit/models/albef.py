"""ALBEF: align before fuse (Li et al. 2021, https://arxiv.org/abs/2107.07651, section 3.1).

A ViT reads the image, the lower half of a BERT reads the words, both meet in a joint space, and the upper half of the
BERT reads words and image together by cross-attention. The model is what inference needs; the losses are heads, the
momentum copy is the task's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.encoders.text import FusionEncoder, ImageContext, TextEncoder
from mmkit.encoders.vit import SeesByViT
from mmkit.errors import UserError
from mmkit.nn.pool import pooled
from mmkit.nn.temperature import Temperature
from mmkit.protocol import ImageTower
from mmkit.types import Fused, ModelSpec, Tokens


class ALBEF(SeesByViT):
    """The model protocol over a ViT, a text encoder and a fusion encoder.

    ``embed_dim`` is E of the joint space; 0 leaves it out, as in the released models of VQA and visual entailment.
    """

    image_proj: nn.Linear | None
    text_proj: nn.Linear | None

    def __init__(self, image: ImageTower, text: TextEncoder, fusion: FusionEncoder, embed_dim: int = 256) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.fusion = fusion
        self.image_proj = nn.Linear(image.width, embed_dim) if embed_dim else None
        self.text_proj = nn.Linear(text.width, embed_dim) if embed_dim else None
        if embed_dim:
            self.temperature = Temperature()
        self.spec = ModelSpec(
            image_width=image.width, text_width=text.width, fused_width=fusion.width, embed_dim=embed_dim,
            vocab_size=text.embeddings.words.num_embeddings, fuses=True, **image.sight,
        )  # fmt: skip

    @property
    def word_embeddings(self) -> Tensor:
        """(V, D): the words' vectors, which vocabulary heads share."""
        return self.text.embeddings.words.weight

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tokens:
        """(B, L) int64 and bool -> (B, L, D), from the words alone."""
        return self.text(ids_BL, mask_BL)

    def embed_image(self, image: Tokens) -> Tensor:
        """The class token, or where the tower pools so the patches' mean, in the joint space: (B, E), L2-normalised."""
        return F.normalize(_joint(self.image_proj)(pooled(image, *self.spec.pool)).float(), dim=-1)

    def embed_text(self, text: Tokens) -> Tensor:
        """The [CLS] token in the joint space: (B, E) float32, L2-normalised."""
        return F.normalize(_joint(self.text_proj)(text.x[:, 0]).float(), dim=-1)

    def image_context(self, image: Tokens) -> ImageContext:
        """The keys and values of every fusion layer, projected once."""
        return self.fusion.context(image)

    def fuse(self, text: Tokens, contexts: Sequence[ImageContext], keep_BM: Tensor | None = None) -> Fused:
        """Texts read the images of the contexts in turn -> (B, L, D), or (B, M, D) at the positions ``keep_BM``."""
        return Fused(self.fusion(text, contexts, keep_BM))

    def reading(self) -> list[nn.Module]:
        """The attention layers in which words read the picture, from below."""
        return [block.get_submodule("cross") for block in self.fusion.blocks]


def _joint(projection: nn.Linear | None) -> nn.Linear:
    if projection is None:
        raise UserError("this model has no joint space of image and text; use a matching head")
    return projection
