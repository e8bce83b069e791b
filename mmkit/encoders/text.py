"""The text side of ALBEF: one BERT (Devlin et al. 2019) cut in two (ALBEF, section 3.1).

``TextEncoder`` is the embeddings and the lower layers; ``FusionEncoder`` is the upper layers, with cross-attention to
the image between self-attention and MLP. Both read texts without a separator token: [CLS] and words. Not here: the
vocabulary head (``heads/mlm.py``), the pooler, and decoding (``encoders/decoder.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.nn.attention import KeyValues, take
from mmkit.nn.block import PostNormBlock, run
from mmkit.nn.dropout import Dropout
from mmkit.nn.init import initialise
from mmkit.nn.packing import Packing, packed, spread
from mmkit.nn.words import Words
from mmkit.types import Tokens


@dataclass(frozen=True)
class ImageContext:
    """The keys and values of B images for each fusion layer, read ``fold`` times over by consecutive texts."""

    layers: tuple[KeyValues, ...]
    fold: int = 1

    def rows(self, index: Tensor) -> ImageContext:
        """Those of the images ``index`` (int64), in that order."""
        return ImageContext(tuple(layer.rows(index) for layer in self.layers), self.fold)

    def repeated(self, fold: int) -> ImageContext:
        """The same images, each read by ``fold`` texts: rows i, i + B, i + 2 B, ... of the texts belong to image i."""
        return ImageContext(self.layers, fold)


class TextEmbeddings(nn.Module):
    """Word + position + type 0, normalised, with dropout."""

    def __init__(self, vocab_size: int, max_tokens: int, width: int, *, types: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.words = Words(vocab_size, width)
        self.positions = nn.Embedding(max_tokens, width)
        self.types = nn.Embedding(types, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, ids_BL: Tensor, start: int = 0, positions_BL: Tensor | None = None) -> Tensor:
        """(B, L) int64 -> (B, L, D); the first is at position ``start``. UserError when the positions do not reach.

        positions: of each token, int64, in place of its place in the row. They are looked at on the CPU alone: on a GPU
        the step would wait for that, and the lookup itself fails there.
        """
        limit = self.positions.num_embeddings
        if positions_BL is not None:
            if positions_BL.device.type == "cpu" and positions_BL.numel():
                _check_reach(int(positions_BL.min()), int(positions_BL.max()), limit)
            x_BLD = self.words(ids_BL) + self.types.weight[0] + self.positions(positions_BL)
            return self.dropout(self.norm(x_BLD))
        end = start + ids_BL.shape[1]
        if end > limit:
            raise UserError(f"a text of {end} tokens, but the model has {limit} positions: lower max_tokens")
        x_BLD = self.words(ids_BL) + self.types.weight[0] + self.positions.weight[start:end]
        return self.dropout(self.norm(x_BLD))


def _check_reach(first: int, last: int, limit: int) -> None:
    """UserError for positions that the model has not."""
    if first < 0 or last >= limit:
        raise UserError(
            f"a token at position {last if last >= limit else first}, but the model has {limit} positions, 0 to "
            f"{limit - 1}: a phrase of a prompt, with its separator, has at most so many tokens (longest)"
        )


class TextEncoder(nn.Module):
    """Embeddings and bidirectional layers over the words alone."""

    def __init__(
        self, vocab_size: int, max_tokens: int, *, depth: int, width: int, heads: int, mlp_width: int | None = None,
        dropout: float = 0.1, types: int = 2, checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width = width
        self.checkpointing = checkpointing
        self.embeddings = TextEmbeddings(vocab_size, max_tokens, width, types=types, dropout=dropout)
        self.blocks = nn.ModuleList(
            PostNormBlock(width, heads, mlp_width or 4 * width, dropout=dropout) for _ in range(depth)
        )
        initialise(self, width)

    @property
    def word_embeddings(self) -> Tensor:
        """(V, D): the words' vectors."""
        return self.embeddings.words.weight

    def forward(
        self, ids_BL: Tensor, mask_BL: Tensor | None = None, *, reads_BLL: Tensor | None = None,
        positions_BL: Tensor | None = None,
    ) -> Tokens:  # fmt: skip
        """Ids (B, L) int64, mask (B, L) bool -> (B, L, D). What stands at padding has no meaning.

        reads: (B, L, L) bool, which tokens each token reads, in place of all real ones: phrases of one prompt that do
        not know of each other (Grounding DINO's sub-sentences). Padding is never read, and each token reads itself.
        positions: (B, L) int64, the position of each token, where it does not count from the row's first.
        """
        packing = Packing.of(mask_BL)
        mask = mask_BL if reads_BLL is None else own_reads(reads_BLL, mask_BL)
        x = packed(self.embeddings(ids_BL, positions_BL=positions_BL), packing)
        for block in self.blocks:
            x = run(block, x, mask, None, (), (), packing, again=self.checkpointing and self.training)
        return Tokens(spread(x, packing), mask_BL)


def own_reads(reads_BLL: Tensor, mask_BL: Tensor | None) -> Tensor:
    """Which tokens each token reads (B, L, L) bool: of those given the real ones, and itself."""
    itself = torch.eye(reads_BLL.shape[-1], dtype=torch.bool, device=reads_BLL.device)
    return (reads_BLL if mask_BL is None else reads_BLL & mask_BL[:, None, :]) | itself


class FusionEncoder(nn.Module):
    """Layers in which every text token reads the text and the image."""

    def __init__(
        self, *, depth: int, width: int, heads: int, image_width: int, mlp_width: int | None = None,
        dropout: float = 0.1, checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width = width
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList(
            PostNormBlock(width, heads, mlp_width or 4 * width, source_width=image_width, dropout=dropout)
            for _ in range(depth)
        )
        initialise(self, width)

    def context(self, image: Tokens) -> ImageContext:
        """The keys and values of each layer, once for all the texts that will read these images."""
        blocks = cast(Iterable[PostNormBlock], self.blocks)
        return ImageContext(tuple(block.cross.project(image.x, image.mask) for block in blocks if block.cross))

    def forward(self, text: Tokens, contexts: Sequence[ImageContext], keep_BM: Tensor | None = None) -> Tokens:
        """Texts (B, L, D) that read the images of the contexts in turn -> (B, L, D), or (B, M, D) at ``keep_BM`` alone.

        Only the states at ``keep_BM`` (int64) are computed in the last layer: what is not read is not made.
        """
        mask_BL = text.mask
        packing = Packing.of(mask_BL)
        x = packed(text.x, packing)
        folds = [context.fold for context in contexts]
        for i, block in enumerate(self.blocks):
            keep = keep_BM if i == len(self.blocks) - 1 else None
            sources = [context.layers[i] for context in contexts]
            again = self.checkpointing and self.training
            x = run(block, x, mask_BL, keep, sources, folds, packing, again=again)
        if not self.blocks:
            x = take(x, keep_BM, packing)
        return Tokens(spread(x, packing), mask_BL) if keep_BM is None else Tokens(x)
