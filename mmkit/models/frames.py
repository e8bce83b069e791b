"""Frames read one by one by a model of pictures, and their mean: CLIP4Clip's parameter-free baseline.

CLIP4Clip (Luo et al. 2021, https://arxiv.org/abs/2104.08860, section 3.3.1): the cosine of a text and the mean of the
frames' normalised vectors. It reads no order: shuffled frames are the same clip. No parameter is added, so that any
dual encoder of pictures is one already. The tokens of a clip are its frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.models.dual import Dual
from mmkit.types import Fused, ModelSpec, Tokens


def of_frames(spec: ModelSpec) -> ModelSpec:
    """What a model offers when it reads frames one by one: the joint space alone."""
    return replace(spec, image_width=spec.embed_dim, patch=(), class_tokens=0, layers=(), fuses=False, hides=())


def apart(clips: Tensor) -> Tensor:
    """Clips (B, 3, T, h, w) as pictures (B * T, 3, h, w); UserError for what is none."""
    if clips.ndim != 5:
        raise UserError(f"pixels of shape {tuple(clips.shape)}: this model reads clips, (B, 3, T, height, width)")
    return clips.transpose(1, 2).flatten(0, 1)


def mean_of(frames: Tokens) -> Tensor:
    """The vectors of frames (B, T, E), normalised, to that of the clip (B, E) float32, normalised."""
    return F.normalize(frames.x.float().mean(1), dim=-1)


class FrameDual(Dual):
    """A dual encoder of clips, with the parameters of the one of pictures, name by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spec = of_frames(self.spec)

    def encode_image(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """(B, 3, T, height, width) float, normalised -> the frames in the joint space (B, T, E), normalised."""
        return Tokens(
            super().embed_image(super().encode_image(apart(pixels), pixel_mask)).unflatten(0, (len(pixels), -1))
        )

    def embed_image(self, image: Tokens) -> Tensor:
        """The mean of the frames: (B, E) float32, L2-normalised."""
        return mean_of(image)


class OverFrames(nn.Module):
    """The same over any model of pictures that has a joint space, for evaluation; it cannot be saved."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not model.spec.embed_dim:
            raise UserError("this model has no joint space of image and text, in which frames could be averaged")
        self.model = model
        self.spec = of_frames(model.spec)

    def encode_image(self, pixels: Tensor, pixel_mask: Tensor | None = None) -> Tokens:
        """See ``FrameDual``."""
        frames: Tensor = self.model.embed_image(self.model.encode_image(apart(pixels), pixel_mask))
        return Tokens(frames.unflatten(0, (len(pixels), -1)))

    def embed_image(self, image: Tokens) -> Tensor:
        """See ``FrameDual``."""
        return mean_of(image)

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tokens:
        """As the model of pictures."""
        tokens: Tokens = self.model.encode_text(ids_BL, mask_BL)
        return tokens

    def embed_text(self, text: Tokens) -> Tensor:
        """As the model of pictures."""
        embedding: Tensor = self.model.embed_text(text)
        return embedding

    def image_context(self, image: Tokens) -> Any:
        """Frames are compared, not read by words: always a UserError."""
        raise UserError("the mean of frames cannot be read by words; compare embeddings instead")

    def fuse(self, text: Tokens, contexts: Sequence[Any], keep_BM: Tensor | None = None) -> Fused:
        """A UserError, as above."""
        raise UserError("the mean of frames cannot be read by words; compare embeddings instead")
