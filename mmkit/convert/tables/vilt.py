"""ViLT checkpoints: the official ones (https://github.com/dandelin/ViLT) and those of transformers.

Our joint ViT takes the place of theirs, name by name; the pooler and the matching layer are our ITM head, the pooler
and the classifier of VQA our answer classifier, the vocabulary head our MLM head: tied where the file has no matrix for
it. A retrieval file ranks by one number: the logit of "match", beside a 0. A pooler that no head reads stays beside the
model. Sizes are read off the tensors. Left out: files that tell two images apart (NLVR2), which are refused, and the
classifiers of other tasks, dropped row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmkit.convert.grid import picture_size, told_size
from mmkit.convert.layouts.layout import attention_heads
from mmkit.convert.tables import bert, vit
from mmkit.convert.tables.table import Dropped, Entry, Row, depth_of, layer, layers, same, stack, theirs_of
from mmkit.data.texts.answers.lists import in_order
from mmkit.errors import UserError

Names = Literal["official", "transformers"]
Answer = Literal["vqa_classifier", "classifier"]
Match = Literal["itm_score.fc", "rank_output"]
BESIDE = {
    "vqa_classifier.": "a classifier of another shape than that of VQA",
    "classifier.": "the classifier of another task than VQA",
    "mpp_score.": "the head of masked patch prediction",
}
BLOCK = {
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.query attention.attention.key attention.attention.value",
    "attn.proj": "attention.output.dense", "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip
"""The parts of a layer in the names of transformers."""
WORDS = "mlm_score.decoder.weight"
POOLER = "beside.pooler"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a state holds. names: whose. match: where the matching layer comes from, None for nowhere.

    answer: the same of the classifier of VQA. prefix: what stands before the encoder's names. mlm_bias: the names of
    the vocabulary head's bias, none without a head. tied: the vocabulary head's matrix is the word embedding. pooler:
    there is one that no head reads. position_ids: text positions counted in a buffer, 0 where there is none.
    """

    names: Names
    depth: int
    patch: tuple[int, ...]
    prefix: str = ""
    match: Match | None = None
    answer: Answer | None = None
    mlm_bias: tuple[str, ...] = ()
    tied: bool = False
    pooler: bool = False
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
    bias = tuple(name for name in ("mlm_score.bias", "mlm_score.decoder.bias") if name in state)
    answer = _answer(state, names, state[f"{text}.word_embeddings.weight"].shape[1])
    match: Match | None = "rank_output" if "rank_output.weight" in state else None
    if match is None and "itm_score.fc.weight" in state:
        match = "itm_score.fc"
    return Parts(
        names=names, depth=depth_of(state, layers), patch=tuple(state[f"{projection}.weight"].shape[2:]), prefix=prefix,
        match=match, answer=answer, mlm_bias=bias,
        # save_pretrained leaves a tied matrix out; the official file always has one
        tied=bool(bias) and names == "transformers" and WORDS not in state,
        pooler=not (match or answer) and f"{prefix}pooler.dense.weight" in state,
        position_ids=state[ids].shape[-1] if ids in state else 0,
    )  # fmt: skip


def _answer(state: Mapping[str, Tensor], names: Names, width: int) -> Answer | None:
    """What the classifier of VQA is called; None without one. That of two images has more inputs."""
    name: Answer = "vqa_classifier" if names == "official" else "classifier"
    first, last = f"{name}.0.weight", f"{name}.3.weight"
    return name if {first, last} <= state.keys() and state[first].shape == (2 * width, width) else None


def table(state: Mapping[str, Tensor]) -> list[Row]:
    """The rows of a whole foreign file; our names are those of a ``Task`` with heads named itm, answer and mlm.

    UserError for a file that tells two images apart.
    """
    parts = parts_of(state)
    rows = rows_of(parts)
    _refuse_two_pictures(state, theirs_of(rows, "model.kinds.weight"), state[theirs_of(rows, "model.image.cls")])
    for key in state:
        why = next((BESIDE[start] for start in BESIDE if key.startswith(start) and start != f"{parts.answer}."), None)
        if why is None and parts.match == "rank_output" and key.startswith("itm_score."):
            why = "the matching layer, whose place the ranking layer takes"
        if why is not None:
            rows.append(Dropped(key, why))
    return rows


def _refuse_two_pictures(state: Mapping[str, Tensor], kinds: str, cls: Tensor) -> None:
    why, width, first = "", cls.shape[-1], "classifier.0.weight"
    if kinds in state and len(state[kinds]) != 2:
        why = f"{kinds}: {len(state[kinds])} rows, not one for words and one for a picture"
    if first in state and state[first].ndim == 2 and (pictures := state[first].shape[1] // width) > 1:
        why = f"{first} reads {pictures} pictures at once ({state[first].shape[1]} numbers, of a model {width} wide)"
    if why:
        raise UserError(
            f"{why}: this is a ViLT for several pictures (NLVR2; ViltForImagesAndTextClassification of transformers), "
            "and mmkit's reads one picture with each text"
        )


def table_of_ours(state: Mapping[str, Tensor], patch: tuple[int, ...], names: Names) -> list[Row]:
    """The rows to write our state under foreign names.

    A tied vocabulary matrix is left out under those of transformers, as ``save_pretrained`` does, and is written twice
    under the official ones. UserError where the heads have not the one pooler of a ViLT.
    """
    mlm = "heads.mlm.dense.weight" in state
    official = names == "official"
    answer: Answer | None = None
    if {"heads.answer.norm.weight", "heads.answer.out.weight"} <= state.keys():
        _check_pooler(state)
        answer = "vqa_classifier" if official else "classifier"
    match: Match | None = None
    if "heads.itm.pool.weight" in state:
        ranks = not official or not state["heads.itm.classify.weight"][0].any()  # as a ranking layer is read
        match = "rank_output" if ranks else "itm_score.fc"
    bias = ("mlm_score.bias",) if official else ("mlm_score.decoder.bias",)
    return rows_of(Parts(
        names=names, depth=depth_of(state, "model.image.blocks."), patch=patch,
        prefix="vilt." if not official and (match or answer or mlm) else "",  # a ViltModel alone has none
        match=match, answer=answer, mlm_bias=bias if mlm else (), tied=mlm and "heads.mlm.words" not in state,
        pooler=not (match or answer) and f"{POOLER}.weight" in state,
        position_ids=len(state["model.text.positions.weight"]),
    ))  # fmt: skip


def _check_pooler(state: Mapping[str, Tensor]) -> None:
    """UserError unless the answer classifier of our state has a pooler, the same as the matching head's."""
    if "heads.answer.pool.weight" not in state:
        raise UserError("a ViLT's classifier reads a pooled state: this model's is no AnswerClassifier(pooler=True)")
    for part in ("weight", "bias"):
        matching = f"heads.itm.pool.{part}"
        if matching in state and not torch.equal(state[matching], state[f"heads.answer.pool.{part}"]):
            raise UserError("a ViLT has one pooler; this model's matching and answering heads have learned two")


def rows_of(parts: Parts) -> list[Row]:
    """The rows for what these parts name."""
    p = parts.prefix
    if parts.names == "official":
        text, kinds = "text_embeddings", "token_type_embeddings.weight"
        rows: list[Row] = list(vit.tower("model.image", "transformer.", parts.depth, parts.patch))
    else:
        text, kinds = f"{p}embeddings.text_embeddings", f"{p}embeddings.token_type_embeddings.weight"
        rows = _transformers_tower(parts)
    again = (WORDS,) if parts.tied and parts.names == "official" else ()
    rows += [*bert.embeddings("model.text", text, again), same("model.kinds.weight", kinds)]
    if parts.position_ids:
        rows.append(bert.position_ids(f"{text}.position_ids", parts.position_ids, old=parts.names == "transformers"))
    if parts.pooler:
        rows += layer(POOLER, f"{p}pooler.dense")
    if parts.match:
        rows += layer("heads.itm.pool", f"{p}pooler.dense")
    if parts.match == "rank_output":
        rows += [
            Entry(f"heads.itm.classify.{part}", (f"rank_output.{part}",), _with_zero, lambda x: x[1:] - x[:1])
            for part in ("weight", "bias")
        ]
    elif parts.match:
        rows += layer("heads.itm.classify", parts.match)
    if parts.answer:
        rows += layer("heads.answer.pool", f"{p}pooler.dense")
        rows += layers("heads.answer", parts.answer, {"dense": "0", "norm": "1", "out": "3"})
    if parts.mlm_bias:
        rows += layers("heads.mlm", "mlm_score.transform", {"dense": "dense", "norm": "LayerNorm"})
        rows.append(same("heads.mlm.bias", parts.mlm_bias[0], also=parts.mlm_bias[1:]))
        rows += [] if parts.tied else [same("heads.mlm.words", WORDS)]
    return rows


def _with_zero(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x), x])


def _transformers_tower(parts: Parts) -> list[Row]:
    p = parts.prefix
    return [
        same("model.image.cls", f"{p}embeddings.cls_token"),
        Entry(
            "model.image.positions.table", (f"{p}embeddings.position_embeddings",), lambda x: x[0], lambda x: x[None]
        ),
        vit.patches("model.image.patch.proj.weight", f"{p}embeddings.patch_embeddings.projection.weight", parts.patch),
        same("model.image.patch.proj.bias", f"{p}embeddings.patch_embeddings.projection.bias"),
        *layer("model.image.norm", f"{p}layernorm"),
        *stack("model.image.blocks", f"{p}encoder.layer", parts.depth, BLOCK),
    ]


def arguments(state: Mapping[str, Tensor], config: Mapping[str, Any], heads: int | None = None) -> dict[str, Any]:
    """What ``sizes_vilt.vilt`` takes for a model of this state, beside the vocabulary.

    config: transformers' ``config.json``, or empty. heads: in place of what it says; without either there is one for
    each 64 of the width. The official norms have eps 1e-6; those of transformers what their config says, 1e-12 by
    default. UserError where the picture of its positions is not square.
    """
    parts = parts_of(state)
    ours = {row.ours: row.theirs[0] for row in rows_of(parts) if isinstance(row, Entry)}
    width = state[ours["model.image.cls"]].shape[-1]
    cells = state[ours["model.image.positions.table"]].shape[1] - 1
    height, wide = picture_size(cells, parts.patch, told_size(config), always_square=True)
    if height != wide:
        raise UserError(f"its config says pictures of {height} x {wide} pixels; a ViLT's positions are a square grid")
    official = {"layer_norm_eps": 1e-6} if parts.names == "official" else {"layer_norm_eps": 1e-12}
    known = official | {"num_attention_heads": None, "max_image_length": -1} | dict(config)
    if heads is None:
        heads = known["num_attention_heads"]
    most = known["max_image_length"]
    return {
        "image_size": height, "max_tokens": len(state[ours["model.text.positions.weight"]]),
        "patch": parts.patch[0], "depth": parts.depth, "width": width, "heads": attention_heads("image", width, heads),
        "mlp_width": len(state[ours["model.image.blocks.0.mlp.fc1.weight"]]), "eps": known["layer_norm_eps"],
        "text_types": len(state[ours["model.text.types.weight"]]), "max_patches": most if most > 0 else None,
    }  # fmt: skip


def answers(count: int, config: Mapping[str, Any], given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Those of a classifier with ``count`` classes: the ones given, else by number the ``id2label`` of a config.

    UserError where there are neither (LABEL_0, LABEL_1, ... only hold places), or not as many as classes.
    """
    found, where = given, "--answers"
    if not given and "id2label" in config and config["id2label"]:
        where = "config.json: id2label"
        found = in_order(config["id2label"], where=where)
        if all(answer == f"LABEL_{i}" for i, answer in enumerate(found)):
            found = ()
    if not found:
        raise UserError(
            f"the classifier tells {count} answers apart, and no config.json beside it says which (id2label): give "
            "them in the order of its classes by --answers FILE"
        )
    if len(found) != count:
        raise UserError(f"{where}: {len(found)} answers, and the classifier tells {count} apart; give one for each")
    return found
