"""Where a model looks at the picture: its layers by number, the patches among what they read, and their weights.

With fusion by cross-attention (ALBEF) the words read the image; in one stream (ViLT) the words read words and image.
For the similarity of two towers it is the image tower that looks: its class token reads the patches, or the learned
query of an attention pool does (SigLIP).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from mmkit.encoders.vit import ViT
from mmkit.encoders.vivit import FactorisedEncoder
from mmkit.errors import UserError
from mmkit.models.frames import FrameDual
from mmkit.nn.attention import CrossAttention, SelfAttention
from mmkit.nn.pool import AttentionPool

Attention = CrossAttention | SelfAttention


@runtime_checkable
class Reads(Protocol):
    """A model that says in which of its layers words read the picture."""

    def reading(self) -> Sequence[Attention]:
        """From below."""


@dataclass(frozen=True)
class Layers:
    """The attention layers that can be asked, in order. default: the one asked for None. what: their name."""

    layers: tuple[Attention, ...]
    default: int
    what: str

    def at(self, number: int | None) -> tuple[int, Attention]:
        """The layer ``number`` (from 0; from the end when negative), as (number, layer). UserError out of range."""
        count = len(self.layers)
        found = self.default if number is None else number
        if not -count <= found < count:
            raise UserError(f"layer={number}: this model has {count} {self.what}, 0 to {count - 1}")
        return found % count, self.layers[found]


def fusion_layers(model: Any) -> Layers:
    """Those in which words read the picture; default: the last of the lower half, for ALBEF the third of six.

    (That layer locates best: ALBEF, section 6.) UserError where words and picture never meet in the model.
    """
    layers: tuple[Attention, ...] = tuple(model.reading()) if isinstance(model, Reads) else ()
    if not layers:
        raise UserError(
            "this model has no layer in which words read the picture (cross-attention or a joint transformer); "
            'target="itc" explains the similarity of its two embeddings instead'
        )
    return Layers(layers, (len(layers) - 1) // 2, "layers in which words read the picture")


def image_layers(model: Any) -> Layers:
    """Those of the image tower, in which one token reads the patches for the joint space; default: the last (ALBEF).

    UserError where there is no joint space, or the tower is not a ViT of mmkit.
    """
    if not model.spec.embed_dim:
        raise UserError('this model has no joint space of image and text; use target="itm"')
    tower = vit_of(model)
    pool = getattr(model, "image_pool", None)
    if isinstance(pool, AttentionPool):
        return Layers((pool.cross,), 0, "layer that pools the patches")
    if tower.cls is None:
        raise UserError("the image tower has neither a class token nor an attention pool; its similarity has no map")
    layers = tuple(cast(SelfAttention, block.attn) for block in tower.blocks)
    return Layers(layers, len(layers) - 1, "layers in the image tower")


def vit_of(model: Any) -> ViT:
    """The image tower; UserError where it is not a ViT over pictures or whole clips."""
    tower = getattr(model, "image", None)
    if isinstance(tower, FactorisedEncoder):
        raise UserError(
            "this model reads one vector for each time of a clip (factorised_encoder), which tells no place: there are "
            "no heat maps; train one whose tokens are patches: how='spacetime' or 'factorised_attention'"
        )
    if not isinstance(tower, ViT) or not (isinstance(model, FrameDual) or len(model.spec.patch) in (2, 3)):
        raise UserError(
            f"the image tower of this {type(model).__name__} is not a ViT of mmkit over pictures or clips, so that its "
            "patches are unknown here; convert the checkpoint with `mmkit convert` first"
        )
    return tower


@contextmanager
def watched(layer: Attention) -> Iterator[list[Tensor]]:
    """The attention weights (B, H, N, N) of each call of the layer while it is open, in the computation."""
    before, calls = layer.watch, list[Tensor]()

    def keep(weights: Tensor) -> None:
        if not weights.requires_grad and torch.is_grad_enabled():
            weights.requires_grad_()  # nothing before it is trained: a frozen model
        calls.append(weights)

    layer.watch = keep
    try:
        yield calls
    finally:
        layer.watch = before


@contextmanager
def all_patches(model: Any) -> Iterator[None]:
    """While it is open, a joint transformer reads every patch of a large picture, where it would take a share."""
    tower = vit_of(model)
    limit, tower.max_patches = tower.max_patches, None
    try:
        yield
    finally:
        tower.max_patches = limit
