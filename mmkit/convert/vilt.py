"""ViLT checkpoints: the official ones (https://github.com/dandelin/ViLT) and those of transformers.

Our joint ViT takes the place of theirs, name by name; the pooler and the matching layer are our ITM head, the
vocabulary head our untied MLM head. A retrieval file ranks by one number: the logit of "match", beside a 0.
Sizes are read off the tensors. Left out: files for two images (NLVR2), and the classifiers of other tasks, dropped row
by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmkit.convert import bert, vit
from mmkit.convert.table import Dropped, Entry, Row, depth_of, joined, layer, same
from mmkit.errors import UserError

Names = Literal["official", "transformers"]
BESIDE = {
    "vqa_classifier.": "the classifier of VQA",
    "classifier.": "the classifier of a task",
    "mpp_score.": "the head of masked patch prediction",
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a state holds. names: whose. match: where the matching layer comes from, None for nowhere.

    prefix: what stands before the encoder's names. mlm_bias: the names of the vocabulary head's bias, none without a
    head. position_ids: text positions counted in a buffer, 0 where there is none.
    """

    names: Names
    depth: int
    patch: tuple[int, ...]
    prefix: str = ""
    match: Literal["itm_score.fc", "rank_output"] | None = None
    mlm_bias: tuple[str, ...] = ()
    position_ids: int = 0


def fits_official(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the official names."""
    return {"transformer.cls_token", "text_embeddings.word_embeddings.weight", "pooler.dense.weight"} <= state.keys()


def fits_transformers(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of transformers."""
    return any(f"{prefix}embeddings.patch_embeddings.projection.weight" in state
               and f"{prefix}embeddings.text_embeddings.word_embeddings.weight" in state
               for prefix in ("vilt.", ""))  # fmt: skip


def parts_of(state: Mapping[str, Tensor]) -> Parts:
    """Read off a foreign state; UserError where it is none."""
    if fits_official(state):
        names: Names = "official"
        prefix, layers, projection = "", "transformer.blocks.", "transformer.patch_embed.proj"
        text = "text_embeddings"
    elif fits_transformers(state):
        names = "transformers"
        prefix = "vilt." if "vilt.layernorm.weight" in state else ""
        layers, projection = f"{prefix}encoder.layer.", f"{prefix}embeddings.patch_embeddings.projection"
        text = f"{prefix}embeddings.text_embeddings"
    else:
        raise UserError("this is not a ViLT: neither transformer.* nor embeddings.patch_embeddings.* is there")
    ids = f"{text}.position_ids"
    return Parts(
        names=names, depth=depth_of(state, layers), patch=tuple(state[f"{projection}.weight"].shape[2:]), prefix=prefix,
        match="rank_output" if "rank_output.weight" in state
        else "itm_score.fc" if "itm_score.fc.weight" in state else None,
        mlm_bias=tuple(name for name in ("mlm_score.bias", "mlm_score.decoder.bias") if name in state),
        position_ids=state[ids].shape[-1] if ids in state else 0,
    )  # fmt: skip


def table(state: Mapping[str, Tensor]) -> list[Row]:
    """The rows of a whole foreign file; our names are those of a ``Task`` with heads named itm and mlm."""
    parts = parts_of(state)
    rows = rows_of(parts)
    for key in state:
        why = next((why for start, why in BESIDE.items() if key.startswith(start)), None)
        if why is None and parts.match is None and key.startswith(f"{parts.prefix}pooler."):
            why = "the pooler, as there is no matching layer to read it"
        if why is None and parts.match == "rank_output" and key.startswith("itm_score."):
            why = "the matching layer, whose place the ranking layer takes"
        if why is not None:
            rows.append(Dropped(key, why))
    return rows


def table_of_ours(state: Mapping[str, Tensor], patch: tuple[int, ...], names: Names) -> list[Row]:
    """The rows to write our state under foreign names. UserError where our MLM head shares the word embedding."""
    mlm = "heads.mlm.dense.weight" in state
    if mlm and "heads.mlm.words" not in state:
        raise UserError("a ViLT's vocabulary head has a matrix of its own; this model's MLM head is tied")
    official = names == "official"
    match: Literal["itm_score.fc", "rank_output"] | None = None
    if "heads.itm.pool.weight" in state:
        ranks = not official or not state["heads.itm.classify.weight"][0].any()  # as a ranking layer is read
        match = "rank_output" if ranks else "itm_score.fc"
    bias = ("mlm_score.bias",) if official else ("mlm_score.decoder.bias",)
    return rows_of(Parts(
        names=names, depth=depth_of(state, "model.image.blocks."), patch=patch, prefix="" if official else "vilt.",
        match=match, mlm_bias=bias if mlm else (), position_ids=len(state["model.text.positions.weight"]),
    ))  # fmt: skip


def rows_of(parts: Parts) -> list[Row]:
    """The rows for what these parts name."""
    p = parts.prefix
    if parts.names == "official":
        text, kinds = "text_embeddings", "token_type_embeddings.weight"
        rows: list[Row] = list(vit.tower("model.image", "transformer.", parts.depth, parts.patch))
    else:
        text, kinds = f"{p}embeddings.text_embeddings", f"{p}embeddings.token_type_embeddings.weight"
        rows = _transformers_tower(parts)
    rows += [*bert.embeddings("model.text", text), same("model.kinds.weight", kinds)]
    if parts.position_ids:
        rows.append(bert.position_ids(f"{text}.position_ids", parts.position_ids, old=parts.names == "transformers"))
    if parts.match:
        rows += layer("heads.itm.pool", f"{p}pooler.dense")
    if parts.match == "rank_output":
        rows += [
            Entry(f"heads.itm.classify.{part}", (f"rank_output.{part}",), _with_zero, lambda x: x[1:] - x[:1])
            for part in ("weight", "bias")
        ]
    elif parts.match:
        rows += layer("heads.itm.classify", parts.match)
    if parts.mlm_bias:
        rows += [
            *layer("heads.mlm.dense", "mlm_score.transform.dense"),
            *layer("heads.mlm.norm", "mlm_score.transform.LayerNorm"),
            same("heads.mlm.bias", parts.mlm_bias[0], also=parts.mlm_bias[1:]),
            same("heads.mlm.words", "mlm_score.decoder.weight"),
        ]
    return rows


def _with_zero(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x), x])


def _transformers_tower(parts: Parts) -> list[Row]:
    p, shape = parts.prefix, (-1, 3, *parts.patch)
    rows: list[Row] = [
        same("model.image.cls", f"{p}embeddings.cls_token"),
        Entry(
            "model.image.positions.table", (f"{p}embeddings.position_embeddings",), lambda x: x[0], lambda x: x[None]
        ),
        Entry(
            "model.image.patch.proj.weight", (f"{p}embeddings.patch_embeddings.projection.weight",),
            lambda x: x.flatten(1), lambda x: x.reshape(shape),
        ),
        same("model.image.patch.proj.bias", f"{p}embeddings.patch_embeddings.projection.bias"),
        *layer("model.image.norm", f"{p}layernorm"),
    ]  # fmt: skip
    for i in range(parts.depth):
        ours, theirs = f"model.image.blocks.{i}", f"{p}encoder.layer.{i}"
        rows += [
            *layer(f"{ours}.norm1", f"{theirs}.layernorm_before"),
            *joined(f"{ours}.attn.qkv", (f"{theirs}.attention.attention.{name}" for name in ("query", "key", "value"))),
            *layer(f"{ours}.attn.proj", f"{theirs}.attention.output.dense"),
            *layer(f"{ours}.norm2", f"{theirs}.layernorm_after"),
            *layer(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense"),
            *layer(f"{ours}.mlp.fc2", f"{theirs}.output.dense"),
        ]
    return rows


def arguments(state: Mapping[str, Tensor], config: Mapping[str, Any], heads: int | None = None) -> dict[str, Any]:
    """What ``sizes_vilt.vilt`` takes for a model of this state, beside the vocabulary.

    config: transformers' ``config.json``, or empty. heads: where it is empty and there is not one for each 64 of the
    width. The official norms have eps 1e-6; those of transformers what their config says, 1e-12 by default.
    """
    parts = parts_of(state)
    ours = {row.ours: row.theirs[0] for row in rows_of(parts) if isinstance(row, Entry)}
    width = state[ours["model.image.cls"]].shape[-1]
    grid = math.isqrt(state[ours["model.image.positions.table"]].shape[1] - 1)
    official = {"layer_norm_eps": 1e-6} if parts.names == "official" else {"layer_norm_eps": 1e-12}
    known = official | {"num_attention_heads": heads or width // 64, "max_image_length": -1} | dict(config)
    most = known["max_image_length"]
    return {
        "image_size": grid * parts.patch[0], "max_tokens": len(state[ours["model.text.positions.weight"]]),
        "patch": parts.patch[0], "depth": parts.depth, "width": width, "heads": known["num_attention_heads"],
        "mlp_width": len(state[ours["model.image.blocks.0.mlp.fc1.weight"]]), "eps": known["layer_norm_eps"],
        "text_types": len(state[ours["model.text.types.weight"]]), "max_patches": most if most > 0 else None,
    }  # fmt: skip
