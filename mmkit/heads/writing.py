"""What heads that write words share: the decoder as decoding asks for it, and where its weights come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from mmkit.encoders.decoder import TextDecoder
from mmkit.encoders.prefix import PrefixDecoder
from mmkit.encoders.text import ImageContext
from mmkit.nn.attention import KeyValues


@dataclass(frozen=True)
class DecoderWriter:
    """A decoder as ``decoding.Writer``. logits: called with states (R, D) and the words' vectors (V, D)."""

    decoder: TextDecoder | PrefixDecoder
    context: ImageContext
    logits: Callable[[Tensor, Tensor], Tensor]

    def read(self, ids_RN: Tensor, past: Sequence[KeyValues] | None) -> tuple[Tensor, list[KeyValues]]:
        """As of ``Writer``."""
        states_RND, past = self.decoder.read(ids_RN, past, self.context)
        return self.logits(states_RND[:, -1], self.decoder.word_embeddings), past

    def chosen(self, past: Sequence[KeyValues], rows_R: Tensor) -> list[KeyValues]:
        """As of ``Writer``."""
        return [layer.rows(rows_R) for layer in past]

    def repeated(self, times: int) -> DecoderWriter:
        """As of ``Writer``: a source that is read by cross-attention is never copied."""
        return replace(self, context=self.context.repeated(times))


def from_fusion(head: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For ``Head.inherit``: a head's ``decoder`` and ``vocabulary`` from a pre-trained model, as far as they fit.

    The fusion layers become the decoder's, as they have its shape; the words' vectors and the MLM head become its own.
    """
    found: dict[str, Tensor] = {}
    for name, own in head.named_parameters():
        source = name.replace("decoder.embeddings.", "model.text.embeddings.", 1)
        source = source.replace("decoder.blocks.", "model.fusion.blocks.", 1)
        source = source.replace("vocabulary.", "heads.mlm.", 1)
        if source not in state:
            continue
        value = state[source][: len(own)] if name == "decoder.embeddings.positions.weight" else state[source]
        if value.shape == own.shape:
            found[name] = value
    return found
