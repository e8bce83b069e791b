"""Official ALBEF checkpoints (https://github.com/salesforce/ALBEF): pre-training, and retrieval with RefCOCO.

The two halves of their BERT are our text and fusion encoders; their queues are columns, ours rows; the teacher and the
queues are included where the file has them. Our names are those of a ``Task`` with heads named itc, itm and mlm. Sizes
are read off the tensors. Left out: the layouts of VQA, NLVR2 and visual entailment, whose heads are not here yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkit.convert import bert, vit
from mmkit.convert.table import Entry, Fresh, Row, depth_of, layer, same
from mmkit.errors import UserError

TEACHER = "ema.copies"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a state holds: depths, patch, and which of the parts that a file may lack are there.

    queue: entries, 0 for none. bert: what stands before BERT's names inside the text encoder. position_ids: text
    positions counted in a buffer, 0 where the file has no such buffer.
    """

    image_depth: int
    patch: tuple[int, ...]
    text_depth: int
    fusion_depth: int
    bert: str
    mlm: bool
    teacher: bool
    queue: int
    image_ids: bool
    position_ids: int


def parts_of(state: Mapping[str, Tensor]) -> Parts:
    """Read off an official state. UserError where its text layers are not plain ones below and fusing ones above."""
    text = "text_encoder.bert." if "text_encoder.bert.embeddings.word_embeddings.weight" in state else "text_encoder."
    layers = f"{text}encoder.layer."
    crosses = [f"{layers}{i}.crossattention.self.query.weight" in state for i in range(depth_of(state, layers))]
    if "visual_encoder.cls_token" not in state or True not in crosses or crosses != sorted(crosses):
        raise UserError("this is not an ALBEF: no visual_encoder, or no upper text layers with cross-attention")
    return Parts(
        image_depth=depth_of(state, "visual_encoder.blocks."),
        patch=tuple(state["visual_encoder.patch_embed.proj.weight"].shape[2:]),
        text_depth=crosses.index(True), fusion_depth=sum(crosses), bert=text.removeprefix("text_encoder."),
        mlm="text_encoder.cls.predictions.bias" in state, teacher="visual_encoder_m.cls_token" in state,
        queue=state["image_queue"].shape[1] if "image_queue" in state else 0, image_ids="idx_queue" in state,
        position_ids=len(state[f"{text}embeddings.position_embeddings.weight"])
        if f"{text}embeddings.position_ids" in state else 0,
    )  # fmt: skip


def parts_of_ours(state: Mapping[str, Tensor], patch: tuple[int, ...], layout: str) -> Parts:
    """Read off the state of our task, to write it in the layout "albef" (pre-training) or "albef-retrieval"."""
    pretraining = layout == "albef"
    return Parts(
        image_depth=depth_of(state, "model.image.blocks."), patch=patch,
        text_depth=depth_of(state, "model.text.blocks."), fusion_depth=depth_of(state, "model.fusion.blocks."),
        bert="bert." if pretraining else "", mlm=pretraining, teacher=f"{TEACHER}.model.image.cls" in state,
        queue=len(state["heads.itc.queue.image"]) if "heads.itc.queue.image" in state else 0,
        image_ids=not pretraining and "heads.itc.queue.image_id" in state,
        position_ids=len(state["model.text.embeddings.positions.weight"]),
    )  # fmt: skip


def tower(parts: Parts, suffix: str, model: str, mlm: str) -> list[Row]:
    """Everything that student and teacher (``suffix`` "_m") both have: ViT, BERT, projections, vocabulary head."""
    text = f"text_encoder{suffix}"
    inner, predictions = f"{text}.{parts.bert}", f"{text}.cls.predictions"
    rows: list[Row] = [
        *vit.tower(f"{model}.image", f"visual_encoder{suffix}.", parts.image_depth, parts.patch),
        *layer(f"{model}.image_proj", f"vision_proj{suffix}"),
        *layer(f"{model}.text_proj", f"text_proj{suffix}"),
        *bert.embeddings(
            f"{model}.text.embeddings", f"{inner}embeddings", (f"{predictions}.decoder.weight",) if parts.mlm else ()
        ),
    ]
    for i in range(parts.text_depth + parts.fusion_depth):
        above = i - parts.text_depth
        ours = f"{model}.text.blocks.{i}" if above < 0 else f"{model}.fusion.blocks.{above}"
        rows += bert.bert_layer(ours, f"{inner}encoder.layer.{i}", above >= 0)
    return rows + (bert.vocabulary_head(mlm, predictions, (f"{predictions}.decoder.bias",)) if parts.mlm else [])


def table(parts: Parts) -> list[Row]:
    """The rows of a whole state: student, teacher, temperature, matching head, queues, counted positions."""
    rows = tower(parts, "", "model", "heads.mlm")
    inner = f"{parts.bert}embeddings.position_ids"
    if parts.teacher:
        rows += tower(parts, "_m", f"{TEACHER}.model", f"{TEACHER}.heads_mlm")
        # theirs has but one temperature, so ours, written last, is the one
        rows.append(same(f"{TEACHER}.model.temperature.value", "temp"))
    if parts.position_ids:
        texts = ("text_encoder", "text_encoder_m") if parts.teacher else ("text_encoder",)
        rows += [bert.position_ids(f"{text}.{inner}", parts.position_ids) for text in texts]
    rows += [same("model.temperature.value", "temp"), *layer("heads.itm.classify", "itm_head")]
    return rows + (_queues(parts) if parts.queue else [])


def _queues(parts: Parts) -> list[Row]:
    size, ours, transpose = parts.queue, "heads.itc.queue", torch.Tensor.t
    unknown = -1 - torch.arange(size)  # equal to no sample's
    return [
        Entry(f"{ours}.image", ("image_queue",), transpose, transpose),
        Entry(f"{ours}.text", ("text_queue",), transpose, transpose),
        Entry(f"{ours}._extra_state", ("queue_ptr",), lambda x: x[0] + size, lambda x: x[None] % size),
        Entry(f"{ours}.image_id", ("idx_queue",), lambda x: x[0], lambda x: x[None])
        if parts.image_ids else Fresh(f"{ours}.image_id", unknown),
        Fresh(f"{ours}.caption_id", unknown),
    ]  # fmt: skip


def pretrain(state: Mapping[str, Tensor]) -> list[Row]:
    """The table of a pre-training file."""
    parts = parts_of(state)
    if not parts.mlm:
        raise UserError("this ALBEF has no vocabulary head (text_encoder.cls): it is not a pre-training file")
    return table(parts)


def retrieval(state: Mapping[str, Tensor]) -> list[Row]:
    """The table of a file of retrieval fine-tuning, or of RefCOCO, which was trained by the same losses."""
    parts = parts_of(state)
    if parts.mlm or "itm_head.weight" not in state:
        raise UserError("this ALBEF is not a retrieval file: those have an itm_head and no text_encoder.cls")
    return table(parts)
