"""Captions written word by word about a picture: the language-modelling loss (BLIP, Li et al. 2022, section 3.2).

``Captioner`` reads the image tokens by cross-attention in every layer, so that a pre-trained fusion stack is its start;
``PrefixCaptioner`` has them stand before the words (``encoders/prefix.py``). Left out: the rewards of other metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from mmkit.encoders.decoder import TextDecoder
from mmkit.encoders.prefix import PrefixDecoder
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Head
from mmkit.heads.writing import DecoderWriter, from_fusion
from mmkit.losses import hits, mean_or_zero
from mmkit.nn.vocabulary import VocabularyHead
from mmkit.types import HeadOutput, Log, ModelSpec, Tokens


class Captioner(Head):
    """Cross-entropy of each word of the caption, given those before it and the picture.

    Args:
        spec: of the model; its words are the caption's.
        prompt: what each caption begins with, and nothing is learned of ("a picture of"); that of ``CaptionTokens``.
        depth, heads, width, mlp_width: of the decoder; width None = that of the fused states, else of the texts.
        max_tokens: of prompt and caption with [CLS] and [SEP].
        smoothing: the share of the target, 0 to below 1, that is spread evenly over all words.
    """

    needs_words = True
    decodes: type[TextDecoder] | type[PrefixDecoder] = TextDecoder

    def __init__(
        self, spec: ModelSpec, *, prompt: str = "", depth: int = 6, heads: int = 12, width: int | None = None,
        mlp_width: int | None = None, max_tokens: int = 40, smoothing: float = 0.1, dropout: float = 0.1,
        types: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0 <= smoothing < 1:
            raise UserError(f"{type(self).__name__}: smoothing={smoothing}: a share, 0 to below 1")
        width = width or spec.fused_width or spec.text_width
        self.prompt, self.max_tokens, self.smoothing = prompt, max_tokens, smoothing
        self.decoder = self.decodes(
            spec.vocab_size, max_tokens, depth=depth, width=width, heads=heads, source_width=spec.image_width,
            mlp_width=mlp_width, dropout=dropout, types=types,
        )  # fmt: skip
        self.vocabulary = VocabularyHead(width, spec.vocab_size)

    def inherit(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The decoder of a pre-trained model's fusion layers, word embeddings and MLM head, as far as they fit."""
        return from_fusion(self, state)

    def writer(self, image: Tokens) -> DecoderWriter:
        """What writes about these image tokens, for ``decoding.write``."""
        return DecoderWriter(self.decoder, self.decoder.context(image), self.vocabulary.logits)

    def forward(self, f: Features) -> HeadOutput:
        """Count: the words to predict, with what ends them. Logs: the chance level ln V, and the accuracy."""
        ids_BL, index_N, labels_N = (f.target(f"caption_{name}") for name in ("ids", "index", "labels"))
        read = lambda ids_BL, image: self.decoder(ids_BL, self.decoder.context(image))  # noqa: E731
        states_BLD = f.chunked(read, ids_BL, f.image)
        loss_N, hits_N = f.chunked(self._judge, states_BLD.flatten(0, 1)[index_N], labels_N)
        logs: dict[str, Log] = {"chance": math.log(len(self.vocabulary.bias)), "accuracy": mean_or_zero(hits_N)}
        return HeadOutput(loss=mean_or_zero(loss_N), count=self.counts(f), logs=logs)

    def _judge(self, states_ND: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Of each word the loss, and whether it is the likeliest one."""
        logits_NV = self.vocabulary.logits(states_ND, self.decoder.word_embeddings).float()
        loss_N = F.cross_entropy(logits_NV, labels_N, label_smoothing=self.smoothing, reduction="none")
        return loss_N, hits(logits_NV, labels_N)

    def counts(self, f: Features) -> int:
        """The words to predict."""
        return len(f.target("caption_labels"))


class PrefixCaptioner(Captioner):
    """The same with one plain stack for picture and words (SimVLM, Wang et al. 2022; GIT, Wang et al. 2022)."""

    decodes = PrefixDecoder
