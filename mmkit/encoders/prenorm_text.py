"""The text tower of CLIP (Radford et al. 2021, section 2.4) and SigLIP: word + position, pre-norm blocks, a last norm.

Causal in CLIP, where the last token reads the whole text; bidirectional in SigLIP. Not here: pooling and projection
(``models/dual.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.nn.block import PreNormBlock, run
from mmkit.nn.init import initialise
from mmkit.types import Tokens


class PreNormText(nn.Module):
    """Words to tokens, pre-norm.

    Args:
        fill_id: None, or the id that fills every text up to ``max_tokens``, where it is read like a word: so the
            released SigLIP was trained.
    """

    def __init__(
        self, vocab_size: int, max_tokens: int, *, depth: int, width: int, heads: int, mlp_width: int | None = None,
        causal: bool = True, activation: str = "gelu", eps: float = 1e-5, fill_id: int | None = None,
        checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width = width
        self.fill_id = fill_id
        self.checkpointing = checkpointing
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_tokens, width)
        self.blocks = nn.ModuleList(
            PreNormBlock(width, heads, mlp_width or 4 * width, causal=causal, activation=activation, eps=eps)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        initialise(self, width)

    @property
    def word_embeddings(self) -> Tensor:
        """(V, D): the words' vectors."""
        return self.words.weight

    def forward(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tokens:
        """Ids (B, L) int64, mask (B, L) bool -> (B, L, D); L is ``max_tokens`` where texts are filled up.

        Raises ValueError when the text is longer than there are positions.
        """
        length, limit = ids_BL.shape[1], self.positions.num_embeddings
        if length > limit:
            raise UserError(f"a text of {length} tokens, but the model has {limit} positions: lower max_tokens")
        if self.fill_id is not None:
            if mask_BL is not None:
                ids_BL = ids_BL.masked_fill(~mask_BL, self.fill_id)
            ids_BL = torch.cat([ids_BL, ids_BL.new_full((ids_BL.shape[0], limit - length), self.fill_id)], 1)
            mask_BL = None
        x_BLD = self.words(ids_BL) + self.positions.weight[: ids_BL.shape[1]]
        for block in self.blocks:
            x_BLD = run(block, x_BLD, mask_BL, again=self.checkpointing and self.training)
        return Tokens(self.norm(x_BLD), mask_BL)
