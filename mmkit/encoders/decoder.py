"""A BERT that writes: causal layers that read what an encoder understood (ALBEF, section 5.2, question answering).

Like ``FusionEncoder`` it reads its source by cross-attention in every layer, so that a pre-trained fusion stack can be
its start. Not here: the vocabulary (``nn/vocabulary.py``), beams and sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mmkit.encoders.text import ImageContext, TextEmbeddings
from mmkit.nn.attention import KeyValues
from mmkit.nn.block import PostNormBlock
from mmkit.nn.init import initialise
from mmkit.types import Tokens


class TextDecoder(nn.Module):
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

    @property
    def word_embeddings(self) -> Tensor:
        """(V, D): the words' vectors."""
        return self.embeddings.words.weight

    @property
    def _layers(self) -> Iterable[PostNormBlock]:
        return cast(Iterable[PostNormBlock], self.blocks)

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

    def step(
        self, ids_B: Tensor, past: Sequence[KeyValues] | None, context: ImageContext
    ) -> tuple[Tensor, list[KeyValues]]:
        """The next token's ids (B,) int64 after those in ``past`` -> its state (B, D), and the past with it."""
        at = 0 if past is None else past[0].k.shape[2]
        x_B1D = self.embeddings(ids_B[:, None], start=at)
        found: list[KeyValues] = []
        for i, block in enumerate(self._layers):
            x_B1D, own = block.step(x_B1D, None if past is None else past[i], [context.layers[i]], [context.fold])
            found.append(own)
        return x_B1D[:, 0], found

    @torch.no_grad()
    def greedy(
        self, context: ImageContext, first_B: Tensor, last: int, max_tokens: int,
        logits: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Write the likeliest word again and again -> ids (B, n) int64 without ``first_B``, log-probability (B,).

        A row ends with ``last``, which then fills it up. ``logits``: called with the states (B, D) and the words.
        """
        ids_B, past = first_B, None
        ended_B = torch.zeros_like(first_B, dtype=torch.bool)
        total_B = torch.zeros(first_B.shape, device=first_B.device)
        written: list[Tensor] = []
        for _ in range(max_tokens):
            state_BD, past = self.step(ids_B, past, context)
            best = logits(state_BD, self.word_embeddings).float().log_softmax(-1).max(-1)
            ids_B = best.indices.masked_fill(ended_B, last)
            total_B += best.values.masked_fill(ended_B, 0.0)
            written.append(ids_B)
            ended_B = ended_B | (ids_B == last)
            if ended_B.all():
                break
        return torch.stack(written, 1), total_B
