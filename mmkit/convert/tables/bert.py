"""BERT (Devlin et al. 2019) in the names of transformers, which ALBEF's text side is made of too.

The lower layers become the text encoder and the upper ones the fusion encoder, where cross-attention starts fresh.
Separate query, key and value are our joined ones; the vocabulary head is the MLM head, its matrix the word embedding.
Left out: the pooler and the next-sentence head, dropped row by row; RoBERTa and DistilBERT, whose layers differ.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmkit.convert.tables.table import Constant, Dropped, Entry, Left, Row, State, depth_of, layer, same, stack
from mmkit.errors import UserError

BESIDE = {
    "pooler.": "the pooler, which only next-sentence prediction uses",
    "cls.seq_relationship.": "the next-sentence head",
    "cls.predictions.": "the vocabulary head, as there is no MLM head to take it",
}
CROSS = {"cross", "norm_cross"}
LAYER = {
    "attn.qkv": "attention.self.query attention.self.key attention.self.value",
    "attn.proj": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense", "norm2": "output.LayerNorm",
}  # fmt: skip
CROSSING = LAYER | {
    "cross.q": "crossattention.self.query", "cross.kv": "crossattention.self.key crossattention.self.value",
    "cross.proj": "crossattention.output.dense", "norm_cross": "crossattention.output.LayerNorm",
}  # fmt: skip
"""The parts of a layer, without cross-attention and with it."""
OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def both_stacks(
    text: str, lower: int, fusion: str, upper: int, theirs: str, names: Mapping[str, str] = LAYER
) -> list[Entry]:
    """The lower layers as blocks of ``text``, those above as blocks of ``fusion``, whose parts are ``names``."""
    return [
        *stack(f"{text}.blocks", theirs, lower, LAYER),
        *stack(f"{fusion}.blocks", theirs, upper, names, start=lower),
    ]


def embeddings(ours: str, theirs: str, also: tuple[str, ...] = ()) -> list[Entry]:
    """The embeddings; ``also`` are names of the tied vocabulary matrix."""
    return [
        same(f"{ours}.words.weight", f"{theirs}.word_embeddings.weight", also=also),
        same(f"{ours}.positions.weight", f"{theirs}.position_embeddings.weight"),
        same(f"{ours}.types.weight", f"{theirs}.token_type_embeddings.weight"),
        *layer(f"{ours}.norm", f"{theirs}.LayerNorm"),
    ]


def vocabulary_head(ours: str, theirs: str, also: tuple[str, ...] = ()) -> list[Entry]:
    """The transform before the vocabulary matrix, and the bias; ``also`` are further names of the bias."""
    return [
        *layer(f"{ours}.dense", f"{theirs}.transform.dense"),
        *layer(f"{ours}.norm", f"{theirs}.transform.LayerNorm"),
        same(f"{ours}.bias", f"{theirs}.bias", also=also),
    ]


def modern(state: Mapping[str, Tensor]) -> State:
    """The same under the names of today; the first files of BERT say gamma and beta."""
    renamed: State = {}
    for key, value in state.items():
        end = next((old for old in OLD_NAMES if key.endswith(old)), None)
        renamed[key.removesuffix(end) + OLD_NAMES[end] if end else key] = value
    return renamed


def prefix_of(state: Mapping[str, Tensor]) -> str | None:
    """What stands before BERT's own names: "bert." or nothing; None where this is no BERT."""
    for prefix in ("bert.", ""):
        start = f"{prefix}encoder.layer.0.attention."
        if f"{prefix}embeddings.token_type_embeddings.weight" in state and f"{start}self.query.weight" in state:
            return prefix
    return None


def table(
    state: Mapping[str, Tensor], *, text_depth: int, fusion_depth: int = 0, text: str = "text", fusion: str = "fusion",
    mlm: str | None = None,
) -> list[Row]:  # fmt: skip
    """The rows of a whole file (``modern`` names), for towers of these depths.

    A BERT with fewer layers fills what it can, from below; layers above ``text_depth + fusion_depth`` are dropped.
    ``mlm``: the MLM head's prefix, where there is one. The cross-attention of fusion layers has no row.
    """
    if (prefix := prefix_of(state)) is None:
        raise UserError("this is not a BERT in the names of transformers (embeddings.*, encoder.layer.N.*)")
    predictions = "cls.predictions"
    if f"{predictions}.bias" not in state:
        mlm = None
    tied = (f"{predictions}.decoder.weight",) if mlm and f"{predictions}.decoder.weight" in state else ()
    tied_bias = (f"{predictions}.decoder.bias",) if mlm and f"{predictions}.decoder.bias" in state else ()
    rows: list[Row] = [*embeddings(f"{text}.embeddings", f"{prefix}embeddings", tied)]
    depth = depth_of(state, f"{prefix}encoder.layer.")
    lower, upper = min(depth, text_depth), min(max(0, depth - text_depth), fusion_depth)
    rows += both_stacks(text, lower, fusion, upper, f"{prefix}encoder.layer")
    if mlm:
        rows += vocabulary_head(mlm, predictions, tied_bias)
    ids = f"{prefix}embeddings.position_ids"
    if ids in state:
        rows.append(position_ids(ids, len(state[f"{prefix}embeddings.position_embeddings.weight"])))
    for key in state:
        rows += _dropped(key, prefix, text_depth + fusion_depth, bool(mlm))
    return rows


def position_ids(name: str, count: int, old: bool = False) -> Constant:
    """The buffer of counted positions that older files hold; see ``Constant`` for ``old``."""
    return Constant(name, torch.arange(count)[None], old)


def _dropped(key: str, prefix: str, layers: int, mlm: bool) -> list[Row]:
    for start, why in BESIDE.items():
        full = start if start.startswith("cls.") else f"{prefix}{start}"
        if key.startswith(full) and not (mlm and start == "cls.predictions."):
            return [Dropped(key, why)]
    start = f"{prefix}encoder.layer."
    if key.startswith(start) and int(key[len(start) :].split(".")[0]) >= layers:
        return [Dropped(key, f"a layer above the {layers} of this model")]
    return []


def table_of_ours(
    state: Mapping[str, Tensor], *, text: str = "text", fusion: str = "fusion", mlm: str | None = None
) -> list[Row]:
    """The rows to write our towers as one BERT of transformers; cross-attention and projections are not part of it.

    UserError where the MLM head has a vocabulary matrix of its own.
    """
    if mlm and f"{mlm}.words" in state:
        raise UserError("a BERT's vocabulary matrix is its word embedding; this model's MLM head has one of its own")
    lower, upper = depth_of(state, f"{text}.blocks."), depth_of(state, f"{fusion}.blocks.")
    predictions = "cls.predictions"
    prefix = "bert." if mlm else ""
    tied = (f"{predictions}.decoder.weight",) if mlm else ()
    rows: list[Row] = [*embeddings(f"{text}.embeddings", f"{prefix}embeddings", tied)]
    rows += both_stacks(text, lower, fusion, upper, f"{prefix}encoder.layer")
    rows += [
        Left(name, "the cross-attention, which a BERT has not") for name in state
        if name.startswith(f"{fusion}.blocks.") and not CROSS.isdisjoint(name.split("."))
    ]  # fmt: skip
    return rows + (vocabulary_head(mlm, predictions, (f"{predictions}.decoder.bias",)) if mlm else [])
