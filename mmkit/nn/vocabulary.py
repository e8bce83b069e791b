"""From states to words: BERT's prediction head (Devlin et al. 2019), whose matrix is that of the word embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.nn.kernels import written_out
from mmkit.nn.packing import rounded

ROWS = 32
"""To a multiple of so many the states are filled up with zeros, where oneDNN multiplies."""


class VocabularyHead(nn.Module):
    """Linear, GELU, norm, then the product with the words' vectors and a bias.

    known: how many rows have a word of the tokenizer; those beyond, which fill a matrix up, are never guessed in
    evaluation. None = all.
    """

    known: int | None = None

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def logits(self, states_ND: Tensor, words_VD: Tensor) -> Tensor:
        """States (N, D) and word embeddings (V, D) -> (N, V)."""
        count = len(states_ND)
        if written_out(states_ND) and torch.is_autocast_enabled("cpu"):  # of few different shapes, see nn/packing.py
            states_ND = F.pad(states_ND, (0, 0, 0, rounded(count, ROWS) - count))
        states_ND = self.norm(F.gelu(self.dense(states_ND)))
        logits_NV = F.linear(states_ND, words_VD, self.bias)[:count]
        if self.training or self.known is None or self.known >= logits_NV.shape[-1]:
            return logits_NV
        beyond_V = torch.arange(logits_NV.shape[-1], device=logits_NV.device) >= self.known
        return logits_NV.masked_fill(beyond_V, -torch.inf)
