"""Official ALBEF checkpoints (https://github.com/salesforce/ALBEF), pre-training layout.

The two halves of their BERT are our text and fusion encoders; their separate query, key and value are our joined ones;
their queues are columns, ours rows. Sizes are read off the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmkit.convert.table import Entry, joined, layer, same


def vit(ours: str, theirs: str, depth: int, patch: tuple[int, ...]) -> list[Entry]:
    """A timm-style ViT under the prefix ``theirs``."""
    shape = (-1, 3, *patch)
    entries = [
        same(f"{ours}.cls", f"{theirs}.cls_token"),
        Entry(f"{ours}.positions.table", (f"{theirs}.pos_embed",), lambda x: x[0], lambda x: x[None]),
        Entry(f"{ours}.patch.proj.weight", (f"{theirs}.patch_embed.proj.weight",), lambda x: x.flatten(1), lambda x: x.reshape(shape)),
        same(f"{ours}.patch.proj.bias", f"{theirs}.patch_embed.proj.bias"),
        *layer(f"{ours}.norm", f"{theirs}.norm"),
    ]
    for i in range(depth):
        for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            entries += layer(f"{ours}.blocks.{i}.{name}", f"{theirs}.blocks.{i}.{name}")
    return entries


def bert_layer(ours: str, theirs: str, cross: bool) -> list[Entry]:
    """One layer of BERT, with cross-attention or without."""
    attention = f"{theirs}.attention"
    entries = [
        *joined(f"{ours}.attn.qkv", (f"{attention}.self.{part}" for part in ("query", "key", "value"))),
        *layer(f"{ours}.attn.proj", f"{attention}.output.dense"),
        *layer(f"{ours}.norm1", f"{attention}.output.LayerNorm"),
        *layer(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense"),
        *layer(f"{ours}.mlp.fc2", f"{theirs}.output.dense"),
        *layer(f"{ours}.norm2", f"{theirs}.output.LayerNorm"),
    ]
    if cross:
        attention = f"{theirs}.crossattention"
        entries += [
            *layer(f"{ours}.cross.q", f"{attention}.self.query"),
            *joined(f"{ours}.cross.kv", (f"{attention}.self.{part}" for part in ("key", "value"))),
            *layer(f"{ours}.cross.proj", f"{attention}.output.dense"),
            *layer(f"{ours}.norm_cross", f"{attention}.output.LayerNorm"),
        ]
    return entries


def bert_embeddings(ours: str, theirs: str, also: tuple[str, ...] = ()) -> list[Entry]:
    """The embeddings of BERT; ``also`` are names of the tied vocabulary matrix."""
    return [
        same(f"{ours}.words.weight", f"{theirs}.word_embeddings.weight", also=also),
        same(f"{ours}.positions.weight", f"{theirs}.position_embeddings.weight"),
        same(f"{ours}.types.weight", f"{theirs}.token_type_embeddings.weight"),
        *layer(f"{ours}.norm", f"{theirs}.LayerNorm"),
    ]


def tower(state: Mapping[str, Tensor], suffix: str, model: str, mlm: str) -> list[Entry]:
    """Everything that student and teacher (``suffix`` "_m") both have: ViT, BERT, projections, vocabulary head."""
    visual, text = f"visual_encoder{suffix}", f"text_encoder{suffix}"
    bert = f"{text}.bert"
    patch = tuple(state[f"{visual}.patch_embed.proj.weight"].shape[2:])
    entries = vit(f"{model}.image", visual, depth_of(state, f"{visual}.blocks."), patch)
    entries += layer(f"{model}.image_proj", f"vision_proj{suffix}") + layer(f"{model}.text_proj", f"text_proj{suffix}")
    predictions = f"{text}.cls.predictions"
    entries += bert_embeddings(f"{model}.text.embeddings", f"{bert}.embeddings", (f"{predictions}.decoder.weight",))
    crosses = [cross_in(state, f"{bert}.encoder.layer.{i}") for i in range(depth_of(state, f"{bert}.encoder.layer."))]
    lower = crosses.index(True)
    for i, cross in enumerate(crosses):
        part = f"fusion.blocks.{i - lower}" if cross else f"text.blocks.{i}"
        entries += bert_layer(f"{model}.{part}", f"{bert}.encoder.layer.{i}", cross)
    return [
        *entries,
        *layer(f"{mlm}.dense", f"{predictions}.transform.dense"),
        *layer(f"{mlm}.norm", f"{predictions}.transform.LayerNorm"),
        same(f"{mlm}.bias", f"{predictions}.bias", also=(f"{predictions}.decoder.bias",)),
    ]


def depth_of(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered layers there are under a prefix."""
    return 1 + max(int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix))


def cross_in(state: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether a layer of theirs has cross-attention."""
    return f"{prefix}.crossattention.self.query.weight" in state


def pretrain(state: Mapping[str, Tensor]) -> list[Entry]:
    """The table of a pre-training state, for a ``Task`` with heads named itc, itm and mlm and a teacher."""
    transpose = torch.Tensor.t
    size = state["image_queue"].shape[1]
    return [
        *tower(state, "", "model", "heads.mlm"),
        *tower(state, "_m", "ema.copies.model", "ema.copies.heads_mlm"),
        same("ema.copies.model.temperature.value", "temp"),  # theirs has but one, so ours, written last, is the one
        same("model.temperature.value", "temp"),
        *layer("heads.itm.classify", "itm_head"),
        Entry("heads.itc.queue.image", ("image_queue",), transpose, transpose),
        Entry("heads.itc.queue.text", ("text_queue",), transpose, transpose),
        Entry("heads.itc.queue._extra_state", ("queue_ptr",), lambda x: x[0] + size, lambda x: x[None] % size),
    ]
