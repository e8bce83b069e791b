"""CLIP and SigLIP checkpoints in the names of open_clip (and OpenAI) and of transformers.

Both are two pre-norm towers; what differs is listed in ``Parts``. SigLIP's bias is our sigmoid head's. Sizes are read
off the tensors; the activation and the number of attention heads are not in them, and come from the weights' own config
(``clip_config.py``). Left out: ResNet towers, towers with other text models, SigLIP 2 with variable resolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from mmkit.convert.clip_config import Told
from mmkit.convert.grid import compact, picture_size
from mmkit.convert.layouts.layout import attention_heads
from mmkit.convert.tables import vit
from mmkit.convert.tables.table import Constant, Entry, Row, Split, depth_of, layer, layers, same, stack
from mmkit.errors import UserError

Names = Literal["open_clip", "transformers"]
OPEN_CLIP_BLOCK = {
    "norm1": "ln_1", "attn.proj": "attn.out_proj", "norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
TRANSFORMERS_BLOCK = {
    "norm1": "layer_norm1", "attn.qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "attn.proj": "self_attn.out_proj", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
TRANSFORMERS_POOL = {
    "cross.proj": "attention.out_proj", "norm": "layernorm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
"""The parts of a layer; open_clip's "attn.in_proj" has no layer's names."""
PARTS = ("weight", "bias")
SIZES = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a state holds. siglip: attention pooling and a bias. text: what stands before open_clip's text names.

    position_ids: counted positions in buffers, of text and of image, 0 where there are none. scalars: the shape of the
    factor and of the bias, () or (1,). sizes: numbers that OpenAI's files hold beside the weights.
    """

    names: Names
    siglip: bool
    image_depth: int
    text_depth: int
    patch: tuple[int, ...]
    text: str = ""
    position_ids: tuple[int, int] = (0, 0)
    scalars: tuple[int, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


def fits_open_clip(state: Mapping[str, Tensor]) -> bool:
    """Whether these are a CLIP's or a SigLIP's names in open_clip."""
    towers = {"visual.conv1.weight", "visual.class_embedding"}, {"visual.trunk.attn_pool.latent"}
    texts = "token_embedding.weight" in state or "text.token_embedding.weight" in state
    return texts and "logit_scale" in state and any(tower <= state.keys() for tower in towers)


def fits_transformers(state: Mapping[str, Tensor]) -> bool:
    """Whether these are a CLIP's or a SigLIP's names in transformers."""
    needed = {"logit_scale", "vision_model.embeddings.patch_embedding.weight", "text_model.final_layer_norm.weight"}
    return needed <= state.keys()


def parts_of(state: Mapping[str, Tensor]) -> Parts:
    """Read off a foreign state; UserError where it is none."""
    if fits_open_clip(state):
        siglip = "visual.trunk.attn_pool.latent" in state
        text = "text." if "text.token_embedding.weight" in state else ""
        return Parts(
            names="open_clip", siglip=siglip, text=text,
            image_depth=depth_of(state, "visual.trunk.blocks." if siglip else "visual.transformer.resblocks."),
            text_depth=depth_of(state, f"{text}transformer.resblocks."),
            patch=tuple(state["visual.trunk.patch_embed.proj.weight" if siglip else "visual.conv1.weight"].shape[2:]),
            scalars=tuple(state["logit_scale"].shape),
            sizes={name: int(state[name]) for name in SIZES if name in state},
        )  # fmt: skip
    if fits_transformers(state):
        ids = (f"{tower}_model.embeddings.position_ids" for tower in ("text", "vision"))
        counts = [state[name].shape[-1] if name in state else 0 for name in ids]
        return Parts(
            names="transformers", siglip="vision_model.head.probe" in state,
            image_depth=depth_of(state, "vision_model.encoder.layers."),
            text_depth=depth_of(state, "text_model.encoder.layers."),
            patch=tuple(state["vision_model.embeddings.patch_embedding.weight"].shape[2:]),
            position_ids=(counts[0], counts[1]), scalars=tuple(state["logit_scale"].shape),
        )  # fmt: skip
    raise UserError("this is neither a CLIP nor a SigLIP with a ViT, in the names of open_clip or of transformers")


def table(state: Mapping[str, Tensor]) -> list[Row]:
    """The rows of a whole foreign file; our names are those of a ``Task`` with, for SigLIP, a head named sigmoid."""
    return rows_of(parts_of(state))


def table_of_ours(state: Mapping[str, Tensor], patch: tuple[int, ...], names: Names) -> list[Row]:
    """The rows to write one of our dual encoders under foreign names. UserError where it is neither CLIP nor SigLIP."""
    siglip = "model.image_pool.query" in state
    needed = {"model.text.words.weight", "model.text.positions.weight", "model.image.positions.table"}
    if not needed <= state.keys() or ("model.image.first_norm.weight" in state) == siglip:
        raise UserError("only a CLIP or a SigLIP can be written in this layout: these towers have other parts")
    texts, table = len(state["model.text.positions.weight"]), state["model.image.positions.table"]
    sizes = {
        "input_resolution": math.isqrt(table.shape[-2] - (not siglip)) * patch[0], "context_length": texts,
        "vocab_size": len(state["model.text.words.weight"]),
    }  # fmt: skip
    return rows_of(Parts(
        names=names, siglip=siglip, image_depth=depth_of(state, "model.image.blocks."),
        text_depth=depth_of(state, "model.text.blocks."), patch=patch,
        text="text." if siglip and names == "open_clip" else "",
        scalars=(1,) if siglip and names == "transformers" else (), position_ids=(texts, table.shape[-2]),
        sizes={} if siglip or names == "transformers" else sizes,
    ))  # fmt: skip


def rows_of(parts: Parts) -> list[Row]:
    """The rows for what these parts name."""
    if parts.names == "open_clip":
        rows = _open_clip_siglip_image(parts) if parts.siglip else _open_clip_image(parts)
        rows += _open_clip_text(parts)
    else:
        rows = _transformers_image(parts) + _transformers_text(parts)
    rows.append(_scalar("model.temperature.value", "logit_scale", parts.scalars))
    if parts.siglip:
        rows.append(_scalar("heads.sigmoid.bias", "logit_bias", parts.scalars))
    return rows + [Constant(name, torch.tensor(value), old=True) for name, value in parts.sizes.items()]


def _scalar(ours: str, theirs: str, shape: tuple[int, ...]) -> Entry:
    return Entry(ours, (theirs,), lambda x: x.reshape(()), lambda x: x.reshape(shape))


def _turned(ours: str, theirs: str) -> Entry:
    """A matrix that multiplies from the other side."""
    return Entry(ours, (theirs,), lambda x: x.t().contiguous(), lambda x: x.t().contiguous())


def _open_clip_blocks(ours: str, theirs: str, depth: int) -> list[Row]:
    a, b = f"{ours}.blocks", f"{theirs}transformer.resblocks"
    joint = [(f"{a}.{i}.attn.qkv.{part}", f"{b}.{i}.attn.in_proj_{part}") for i in range(depth) for part in PARTS]
    return [*stack(a, b, depth, OPEN_CLIP_BLOCK), *(same(own, other) for own, other in joint)]


def _open_clip_image(parts: Parts) -> list[Row]:
    return [
        vit.patches("model.image.patch.proj.weight", "visual.conv1.weight", parts.patch),
        Entry("model.image.cls", ("visual.class_embedding",), lambda x: x[None, None], lambda x: x[0, 0]),
        same("model.image.positions.table", "visual.positional_embedding"),
        *layer("model.image.first_norm", "visual.ln_pre"),
        *_open_clip_blocks("model.image", "visual.", parts.image_depth),
        *layer("model.image.norm", "visual.ln_post"),
        _turned("model.image_proj.weight", "visual.proj"),
    ]


def _open_clip_siglip_image(parts: Parts) -> list[Row]:
    ours, pool = "model.image_pool", "visual.trunk.attn_pool"
    tower = vit.tower("model.image", "visual.trunk.", parts.image_depth, parts.patch)
    return [
        *(entry for entry in tower if entry.ours != "model.image.cls"),
        same(f"{ours}.query", f"{pool}.latent"),
        *layers(f"{ours}.cross", pool, {name: name for name in ("q", "kv", "proj")}),
        *layers(ours, pool, {name: name for name in ("norm", "mlp.fc1", "mlp.fc2")}),
    ]


def _open_clip_text(parts: Parts) -> list[Row]:
    p = parts.text
    rows: list[Row] = [
        same("model.text.words.weight", f"{p}token_embedding.weight"),
        same("model.text.positions.weight", f"{p}positional_embedding"),
        *_open_clip_blocks("model.text", p, parts.text_depth),
        *layer("model.text.norm", f"{p}ln_final"),
    ]
    if parts.siglip:
        return rows + list(layer("model.text_proj", f"{p}text_projection"))
    return [*rows, _turned("model.text_proj.weight", f"{p}text_projection")]


def _transformers_image(parts: Parts) -> list[Row]:
    embeddings = "vision_model.embeddings"
    rows: list[Row] = [
        vit.patches("model.image.patch.proj.weight", f"{embeddings}.patch_embedding.weight", parts.patch),
        same("model.image.positions.table", f"{embeddings}.position_embedding.weight"),
        *stack("model.image.blocks", "vision_model.encoder.layers", parts.image_depth, TRANSFORMERS_BLOCK),
        *layer("model.image.norm", "vision_model.post_layernorm"),
        *_counted(f"{embeddings}.position_ids", parts.position_ids[1]),
    ]
    if not parts.siglip:
        return [
            *rows,
            Entry("model.image.cls", (f"{embeddings}.class_embedding",), lambda x: x[None, None], lambda x: x[0, 0]),
            *layer("model.image.first_norm", "vision_model.pre_layrnorm"),
            same("model.image_proj.weight", "visual_projection.weight"),
        ]
    ours, head = "model.image_pool", "vision_model.head"
    rows += [
        same("model.image.patch.proj.bias", f"{embeddings}.patch_embedding.bias"),
        same(f"{ours}.query", f"{head}.probe"),
        *layers(ours, head, TRANSFORMERS_POOL),
    ]
    return rows + [
        Split((f"{ours}.cross.q.{part}", f"{ours}.cross.kv.{part}"), f"{head}.attention.in_proj_{part}", (1, 2))
        for part in PARTS
    ]


def _transformers_text(parts: Parts) -> list[Row]:
    embeddings = "text_model.embeddings"
    rows: list[Row] = [
        same("model.text.words.weight", f"{embeddings}.token_embedding.weight"),
        same("model.text.positions.weight", f"{embeddings}.position_embedding.weight"),
        *stack("model.text.blocks", "text_model.encoder.layers", parts.text_depth, TRANSFORMERS_BLOCK),
        *layer("model.text.norm", "text_model.final_layer_norm"),
        *_counted(f"{embeddings}.position_ids", parts.position_ids[0]),
    ]
    if parts.siglip:
        return rows + list(layer("model.text_proj", "text_model.head"))
    return [*rows, same("model.text_proj.weight", "text_projection.weight")]


def _counted(name: str, count: int) -> list[Row]:
    return [Constant(name, torch.arange(count)[None], old=True)] if count else []


def arguments(state: Mapping[str, Tensor], known: Told, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """What ``sizes_dual.clip`` or ``sizes_dual.siglip`` take for a model of this state, beside the vocabulary.

    known: what tensors do not tell. Without it there is an attention head for each 64 of a width; and a UserError about
    the activation, as weights run with the wrong one without a word. image_size: (height, width) given by hand.
    """
    parts = parts_of(state)
    if known.image_activation is None or known.text_activation is None:
        raise UserError(
            "CLIP weights do not tell their activation: keep their config.json or open_clip_config.json beside them, "
            "or give --activation: quick_gelu for those of OpenAI and of transformers' CLIP, gelu for most others"
        )
    ours = {row.ours: state[row.theirs[0]] for row in rows_of(parts) if isinstance(row, Entry)}
    positions, words = ours["model.image.positions.table"], ours["model.text.words.weight"]
    width, text_width = positions.shape[-1], words.shape[1]
    cells = positions.shape[-2] - (not parts.siglip)
    size = picture_size(cells, parts.patch, known.image_size, image_size)
    found = {
        "image_size": compact(size), "max_tokens": len(ours["model.text.positions.weight"]), "patch": parts.patch[0],
        "image_depth": parts.image_depth, "image_width": width,
        "image_heads": attention_heads("image", width, known.image_heads),
        "image_mlp_width": len(ours["model.image.blocks.0.mlp.fc1.weight"]), "text_depth": parts.text_depth,
        "text_width": text_width, "text_heads": attention_heads("text", text_width, known.text_heads),
        "text_mlp_width": len(ours["model.text.blocks.0.mlp.fc1.weight"]), "activation": known.image_activation,
        "text_activation": known.text_activation,
    }  # fmt: skip
    if parts.siglip:
        return found | {"fill_id": known.fill_id}
    return found | {"embed_dim": ours["model.image_proj.weight"].shape[0 if parts.names == "transformers" else 1]}
