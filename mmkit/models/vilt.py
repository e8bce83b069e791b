"""ViLT: one transformer for words and patches (Kim et al. 2021, https://arxiv.org/abs/2102.03334, section 3.1).

Words and patches are embedded and no more, then read each other in every layer of one ViT. There is no joint space:
what can be asked is how well a pair matches, which word is hidden, and which of some answers is right. The pooler
belongs to the heads that read it (``ITM(pooler=True)``, ``AnswerClassifier(pooler=True)``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmkit.encoders.joint import ImageRows, JointViT
from mmkit.encoders.text import TextEmbeddings
from mmkit.errors import UserError
from mmkit.types import Fused, ModelSpec, Tokens


class ViLT(nn.Module):
    """The model protocol over word embeddings and a ViT that reads both.

    The first row of ``kinds`` marks text, the second the image.
    """

    def __init__(self, image: JointViT, text: TextEmbeddings) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.kinds = nn.Embedding(2, image.width)
        nn.init.normal_(self.kinds.weight, std=0.02)
        self.spec = ModelSpec(
            image_width=image.width, text_width=image.width, fused_width=image.width, embed_dim=0,
            vocab_size=text.words.num_embeddings, fuses=True, patch=image.patch.patch,
            class_tokens=image.positions.prefix,
        )  # fmt: skip

    @property
    def word_embeddings(self) -> Tensor:
        """(V, D): the words' vectors, which vocabulary heads may share."""
        return self.text.words.weight

    def encode_image(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """(B, 3, height, width) float, normalised, and where there is picture -> class token and patches, embedded."""
        image = self.image.embed(pixels, pixel_mask)
        return Tokens(image.x + self.kinds.weight[1], image.mask)

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tokens:
        """(B, L) int64 and bool -> (B, L, D): words and their positions, embedded."""
        return Tokens(self.text(ids_BL) + self.kinds.weight[0], mask_BL)

    def embed_image(self, image: Tokens) -> Tensor:
        """There is no joint space: always a UserError."""
        raise UserError("this model has no joint space of image and text; use a matching head")

    def embed_text(self, text: Tokens) -> Tensor:
        """There is no joint space: always a UserError."""
        raise UserError("this model has no joint space of image and text; use a matching head")

    def image_context(self, image: Tokens) -> ImageRows:
        """The embedded image, to be read beside texts."""
        return ImageRows(image)

    def fuse(self, text: Tokens, contexts: Sequence[ImageRows], keep_BM: Tensor | None = None) -> Fused:
        """Texts and the contexts' images in turn, read together -> both; or the texts' (B, M, D) at ``keep_BM``."""
        return self.image(text, contexts, keep_BM)

    def reading(self) -> list[nn.Module]:
        """The attention layers in which words read the picture, from below: all, in which each reads the other."""
        return [block.get_submodule("attn") for block in self.image.blocks]
