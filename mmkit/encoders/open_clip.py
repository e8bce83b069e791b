"""Any open_clip model under the model protocol: CLIP, SigLIP, CoCa, with ViT, ResNet, timm and Hugging Face towers.

Its two towers are used as they are, up to the joint space: an image or a text is one token, its embedding before
normalisation, so that whatever pooling a tower has stays its own. Left out: patch and word tokens, CoCa's decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.types import Fused, ModelSpec, Tokens


class OpenClip(nn.Module):
    """An open_clip model ``clip`` (any module with ``encode_image`` and ``encode_text``) whose joint space has E axes.

    vocab_size: of its tokenizer.
    """

    def __init__(self, clip: nn.Module, embed_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.clip: Any = clip
        self.spec = ModelSpec(
            image_width=embed_dim, text_width=embed_dim, fused_width=embed_dim, embed_dim=embed_dim,
            vocab_size=vocab_size, fuses=False,
        )  # fmt: skip

    def encode_image(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """(B, 3, height, width) float, normalised -> (B, 1, E). Pictures of unequal size are a UserError."""
        if pixel_mask is not None:
            raise UserError("an open_clip model takes pictures of one size; use its own preprocessing")
        return Tokens(self.clip.encode_image(pixels, normalize=False)[:, None])

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tokens:
        """(B, L) int64, each row as open_clip's own tokenizer pads it -> (B, 1, E). The mask is not looked at."""
        return Tokens(self.clip.encode_text(ids_BL, normalize=False)[:, None])

    def embed_image(self, image: Tokens) -> Tensor:
        """(B, E) float32, L2-normalised."""
        return F.normalize(image.x[:, 0].float(), dim=-1)

    def embed_text(self, text: Tokens) -> Tensor:
        """(B, E) float32, L2-normalised."""
        return F.normalize(text.x[:, 0].float(), dim=-1)

    def temperature(self) -> Tensor:
        """What similarities are divided by, float32 scalar."""
        scale: Tensor = self.clip.logit_scale
        return 1 / scale.float().exp().squeeze()

    def image_context(self, image: Tokens) -> Any:
        """The towers never read each other: always a UserError."""
        raise UserError("an open_clip model does not fuse image and text; compare embeddings instead")

    def fuse(self, text: Tokens, contexts: Sequence[Any], keep_BM: Tensor | None = None) -> Fused:
        """The towers never read each other: always a UserError."""
        raise UserError("an open_clip model does not fuse image and text; compare embeddings instead")


class OpenClipTokenizer:
    """An open_clip tokenizer under the tokenizer protocol, as far as evaluation needs it.

    Each text becomes ``context_length`` ids, cut and padded by open_clip itself, as its towers expect. vocab_size: as
    the model counts it. Left out: saving, masking, and what belongs to training.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.context_length = int(tokenizer.context_length)
        inner = getattr(tokenizer, "tokenizer", None)  # a transformers tokenizer inside, or a byte-pair table
        self.pad_id = 0 if inner is None else int(inner.pad_token_id)
        self.special_ids = frozenset(
            map(int, tokenizer.all_special_ids if inner is None else inner.all_special_ids),
        )

    def encode(self, text: str, max_tokens: int | None, kind: str = "caption") -> list[int]:
        """``context_length`` ids, whatever ``max_tokens`` is: the towers take no other number."""
        return [int(i) for i in self.tokenizer([text])[0]]

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without padding and special tokens."""
        kept = [int(i) for i in ids if int(i) not in self.special_ids and int(i) != self.pad_id]
        inner = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        return str(inner.decode(kept)).strip()


def embed_dim_of(clip: Any, image_size: tuple[int, int]) -> int:
    """E, by passing one blank picture through the image tower; UserError for what has not both towers."""
    for name in ("encode_image", "encode_text"):
        if not callable(getattr(clip, name, None)):
            raise UserError(f"this open_clip model ({type(clip).__name__}) has no {name}; mmkit needs both towers")
    with torch.no_grad():
        blank = torch.zeros(1, 3, *image_size, dtype=next(clip.parameters()).dtype)
        return int(clip.eval().encode_image(blank).shape[-1])
