"""A decoder without cross-attention: image tokens stand before the words (SimVLM, Wang et al. 2022, section 3.1).

The tokens of the picture see each other, the words see them and the words before, so all layers are those of one plain
stack (GIT, Wang et al. 2022, section 3). Since no image token reads a word, they pass through the stack once, and the
words read their keys and values. Left out: words among what is seen both ways, and a vector for each frame of a video.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmkit.encoders.decoder import Decoder
from mmkit.encoders.text import ImageContext, TextEmbeddings
from mmkit.nn.attention import KeyValues
from mmkit.nn.block import PostNormBlock
from mmkit.nn.init import initialise
from mmkit.types import Tokens


class PrefixDecoder(Decoder):
    """Words (B, L) that each see those before them, and a picture of width ``source_width`` before all."""

    def __init__(
        self, vocab_size: int, max_tokens: int, *, depth: int, width: int, heads: int, source_width: int,
        mlp_width: int | None = None, dropout: float = 0.1, types: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embeddings = TextEmbeddings(vocab_size, max_tokens, width, types=types, dropout=dropout)
        self.source = nn.Linear(source_width, width)
        self.source_norm = nn.LayerNorm(width, eps=1e-5)
        self.blocks = nn.ModuleList(
            PostNormBlock(width, heads, mlp_width or 4 * width, dropout=dropout, causal=True) for _ in range(depth)
        )
        initialise(self, width)

    def context(self, source: Tokens) -> ImageContext:
        """The keys and values of the picture's tokens in each layer, once for all the texts that will read them."""
        x_BPD, found = self.source_norm(self.source(source.x)), []
        for block in self._layers:
            x_BPD, own = block.read(x_BPD, None, source.mask, causal=False)
            found.append(own)
        return ImageContext(tuple(found))

    def forward(self, ids_BL: Tensor, context: ImageContext) -> Tensor:
        """As of ``TextDecoder``."""
        return self.read(ids_BL, None, context)[0]

    def read(
        self, ids_BN: Tensor, past: Sequence[KeyValues] | None, context: ImageContext
    ) -> tuple[Tensor, list[KeyValues]]:
        """As of ``TextDecoder``; the past begins with the picture."""
        before = past
        if before is None:
            rows = torch.arange(len(context.layers[0].k), device=ids_BN.device).repeat(context.fold)
            before = [layer.rows(rows) if context.fold > 1 else layer for layer in context.layers]
        x_BND = self.embeddings(ids_BN, start=before[0].k.shape[2] - context.layers[0].k.shape[2])
        found: list[KeyValues] = []
        for block, own in zip(self._layers, before, strict=True):
            x_BND, own = block.read(x_BND, own)
            found.append(own)
        return x_BND, found
