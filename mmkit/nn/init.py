"""How weights begin: normal, 0.02 wide at the paper's width of 768, wider in narrower models.

The official 0.02 (ViT, BERT) keeps signals of a useful size at width 768; at 128 it makes every layer's contribution
six times too small, and the first hundred steps pass without learning. The width enters as a square root.
"""

from __future__ import annotations

import math

from torch import nn

PAPER_WIDTH = 768


def initialise(root: nn.Module, width: int) -> None:
    """Linear maps of a transformer of this width: truncated normal, biases 0; embeddings: normal, 0.02 wide."""
    std = 0.02 * math.sqrt(PAPER_WIDTH / width)
    for module in root.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
