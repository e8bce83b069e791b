"""A BERT that writes: causal layers that read what an encoder understood (ALBEF, section 5.2, question answering).

Like ``FusionEncoder`` it reads its source by cross-attention in every layer, so that a pre-trained fusion stack can be
its start. Not here: the vocabulary (``nn/vocabulary.py``), and which of the words that it
proposes are written (``encoders/decoding.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from mmkit.encoders.text import ImageContext, TextEmbeddings
from mmkit.nn.attention import KeyValues
from mmkit.nn.block import PostNormBlock
from mmkit.nn.init import initialise
from mmkit.types import Tokens


class Decoder(nn.Module):
    """What decoders have in common: words, and a stack of blocks."""

    embeddings: TextEmbeddings
    blocks: nn.ModuleList

    @property
    def word_embeddings(self) -> Tensor:
        """(V, D): the words' vectors."""
        return self.embeddings.words.weight

    @property
    def _layers(self) -> Iterable[PostNormBlock]:
        return cast(Iterable[PostNormBlock], self.blocks)


class TextDecoder(Decoder):
    """Words (B, L) that each see those before them, and a source of width ``source_width``."""

    def __init__(
        self, vocab_size: int, max_tokens: int, *, depth: int, width: int, heads: int, source_width: int,
        mlp_width: int | None = None, dropout: float = 0.1, types: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embeddings = TextEmbeddings(vocab_size, max_tokens, width, types=types, dropout=dropout)
        self.blocks = nn.ModuleList(
            PostNormBlock(
                width, heads, mlp_width or 4 * width, source_width=source_width, dropout=dropout, causal=True
            )
            for _ in range(depth)
        )  # fmt: skip
        initialise(self, width)

    def context(self, source: Tokens) -> ImageContext:
        """The source's keys and values for each layer, once for all the texts that will read it."""
        return ImageContext(tuple(b.cross.project(source.x, source.mask) for b in self._layers if b.cross))

    def forward(self, ids_BL: Tensor, context: ImageContext) -> Tensor:
        """Ids (B, L) int64 -> (B, L, D). Rows read the context's sources in turn, ``fold`` times over.

        Padding behind a text needs no mask: nothing before it sees it.
        """
        x_BLD = self.embeddings(ids_BL)
        for block, layer in zip(self._layers, context.layers, strict=True):
            x_BLD = block(x_BLD, None, None, [layer], [context.fold])
        return x_BLD

    def read(
        self, ids_BN: Tensor, past: Sequence[KeyValues] | None, context: ImageContext
    ) -> tuple[Tensor, list[KeyValues]]:
        """N more tokens (int64) after those in ``past`` -> their states (B, N, D), and the past with them.

        Equal to the last N rows of ``forward`` on the whole texts.
        """
        at = 0 if past is None else past[0].k.shape[2]
        x_BND = self.embeddings(ids_BN, start=at)
        found: list[KeyValues] = []
        for i, block in enumerate(self._layers):
            before = None if past is None else past[i]
            x_BND, own = block.read(x_BND, before, sources=[context.layers[i]], folds=[context.fold])
            found.append(own)
        return x_BND, found
