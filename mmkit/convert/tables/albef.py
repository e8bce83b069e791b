"""Official ALBEF checkpoints (https://github.com/salesforce/ALBEF): pre-training, retrieval, VQA, visual entailment.

The two halves of their BERT are our text and fusion encoders; their queues are columns, ours rows; the teacher and the
queues are included where the file has them. Our names are those of a ``Task`` with heads named itc, itm and mlm, or
answer, or label. Sizes are read off the tensors. Left out: NLVR2, whose model is a project's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmkit.convert.tables import bert, vit
from mmkit.convert.tables.table import Dropped, Entry, Fresh, Row, depth_of, layer, same, stack
from mmkit.errors import UserError

TEACHER = "ema.copies"
QUEUE = ("image_queue", "text_queue", "queue_ptr", "idx_queue")
Kind = Literal["pretrain", "retrieval", "vqa", "entailment"]
JOINT: tuple[Kind, ...] = ("pretrain", "retrieval")
NOT_OF_KIND: Mapping[Kind, str] = {
    "pretrain": "has no vocabulary head (text_encoder.cls): it is not a pre-training file",
    "retrieval": "is not a retrieval file: those have an itm_head and no text_encoder.cls",
    "vqa": "is not a VQA file: those have a text_decoder",
    "entailment": "is not a file of visual entailment: those have a cls_head",
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a state holds: depths, patch, and which of the parts that a file may lack are there.

    queue: entries, 0 for none. empty_queue: the names of one that has no columns. position_ids: positions counted in a
    buffer, of the text encoder and of the decoder, 0 where the file has no such buffer.
    """

    kind: Kind
    image_depth: int
    patch: tuple[int, ...]
    text_depth: int
    fusion_depth: int
    teacher: bool
    decoder_depth: int = 0
    queue: int = 0
    image_ids: bool = False
    empty_queue: tuple[str, ...] = ()
    position_ids: tuple[int, int] = (0, 0)

    @property
    def bert(self) -> str:
        """What stands before BERT's names inside the text encoder."""
        return "bert." if self.mlm else ""

    @property
    def mlm(self) -> bool:
        """Whether the text encoder has a vocabulary head."""
        return self.kind == "pretrain"

    @property
    def joint(self) -> bool:
        """Whether there are projections, and a temperature."""
        return self.kind in JOINT


def parts_of(state: Mapping[str, Tensor]) -> Parts:
    """Read off an official state. UserError where its text layers are not plain ones below and fusing ones above."""
    text = "text_encoder.bert." if "text_encoder.bert.embeddings.word_embeddings.weight" in state else "text_encoder."
    layers = f"{text}encoder.layer."
    crosses = [f"{layers}{i}.crossattention.self.query.weight" in state for i in range(depth_of(state, layers))]
    if "visual_encoder.cls_token" not in state or True not in crosses or crosses != sorted(crosses):
        raise UserError("this is not an ALBEF: no visual_encoder, or no upper text layers with cross-attention")
    queue = state["image_queue"].shape[1] if "image_queue" in state else 0
    return Parts(
        kind=_kind(state), image_depth=depth_of(state, "visual_encoder.blocks."),
        patch=tuple(state["visual_encoder.patch_embed.proj.weight"].shape[2:]),
        text_depth=crosses.index(True), fusion_depth=sum(crosses), teacher="visual_encoder_m.cls_token" in state,
        decoder_depth=depth_of(state, "text_decoder.bert.encoder.layer."),
        empty_queue=tuple(name for name in QUEUE if name in state) if "image_queue" in state and not queue else (),
        queue=queue, image_ids="idx_queue" in state,
        position_ids=(_counted(state, text), _counted(state, "text_decoder.bert.")),
    )  # fmt: skip


def _kind(state: Mapping[str, Tensor]) -> Kind:
    if "text_encoder.cls.predictions.bias" in state:
        return "pretrain"
    if "text_decoder.bert.embeddings.word_embeddings.weight" in state:
        return "vqa"
    return "entailment" if "cls_head.0.weight" in state else "retrieval"


def _counted(state: Mapping[str, Tensor], text: str) -> int:
    ids = f"{text}embeddings.position_ids"
    return state[ids].shape[-1] if ids in state else 0


def parts_of_ours(state: Mapping[str, Tensor], patch: tuple[int, ...], kind: Kind) -> Parts:
    """Read off the state of our task, to write it in an official layout; 0 for what it lacks."""
    joint, decoder = kind in JOINT, "heads.answer.decoder."

    def rows(name: str) -> int:
        return len(state[name]) if name in state else 0

    answers = rows(f"{decoder}embeddings.positions.weight") if kind == "vqa" else 0
    return Parts(
        kind=kind, image_depth=depth_of(state, "model.image.blocks."), patch=patch,
        text_depth=depth_of(state, "model.text.blocks."), fusion_depth=depth_of(state, "model.fusion.blocks."),
        teacher=f"{TEACHER}.model.image.cls" in state,
        decoder_depth=depth_of(state, f"{decoder}blocks.") if kind == "vqa" else 0,
        queue=rows("heads.itc.queue.image") if joint else 0,
        image_ids=kind == "retrieval" and "heads.itc.queue.image_id" in state,
        position_ids=(rows("model.text.embeddings.positions.weight"), answers),
    )  # fmt: skip


def tower(parts: Parts, suffix: str, model: str, head: str) -> list[Row]:
    """Everything that student and teacher (``suffix`` "_m") both have.

    ViT, BERT, projections, and vocabulary head, decoder or classifier: ours is ``head`` + mlm, answer or label.
    """
    text = f"text_encoder{suffix}"
    inner, predictions = f"{text}.{parts.bert}", f"{text}.cls.predictions"
    rows: list[Row] = [
        *vit.tower(f"{model}.image", f"visual_encoder{suffix}.", parts.image_depth, parts.patch),
        *bert.embeddings(
            f"{model}.text.embeddings", f"{inner}embeddings", (f"{predictions}.decoder.weight",) if parts.mlm else ()
        ),
    ]
    rows += bert.both_stacks(
        f"{model}.text", parts.text_depth, f"{model}.fusion", parts.fusion_depth, f"{inner}encoder.layer", bert.CROSSING
    )
    if parts.joint:
        rows += layer(f"{model}.image_proj", f"vision_proj{suffix}")
        rows += layer(f"{model}.text_proj", f"text_proj{suffix}")
    if parts.mlm:
        rows += bert.vocabulary_head(f"{head}mlm", predictions, (f"{predictions}.decoder.bias",))
    if parts.kind == "vqa":
        rows += _decoder(parts, f"{head}answer", f"text_decoder{suffix}")
    if parts.kind == "entailment":
        rows += [*layer(f"{head}label.dense", f"cls_head{suffix}.0"), *layer(f"{head}label.out", f"cls_head{suffix}.2")]
    return rows


def _decoder(parts: Parts, ours: str, theirs: str) -> list[Row]:
    predictions = f"{theirs}.cls.predictions"
    return [
        *bert.embeddings(f"{ours}.decoder.embeddings", f"{theirs}.bert.embeddings", (f"{predictions}.decoder.weight",)),
        *bert.vocabulary_head(f"{ours}.vocabulary", predictions, (f"{predictions}.decoder.bias",)),
        *stack(f"{ours}.decoder.blocks", f"{theirs}.bert.encoder.layer", parts.decoder_depth, bert.CROSSING),
    ]


def table(parts: Parts) -> list[Row]:
    """The rows of a whole state: student, teacher, temperature, matching head, queues, counted positions."""
    rows = tower(parts, "", "model", "heads.")
    suffixes = ("", "_m") if parts.teacher else ("",)
    if parts.teacher:
        rows += tower(parts, "_m", f"{TEACHER}.model", f"{TEACHER}.heads_")
    for text, count in zip((f"text_encoder{{}}.{parts.bert}", "text_decoder{}.bert."), parts.position_ids, strict=True):
        if count:
            rows += [bert.position_ids(f"{text.format(suffix)}embeddings.position_ids", count) for suffix in suffixes]
    if not parts.joint:
        return rows
    if parts.teacher:
        # theirs has but one temperature, so ours, written last, is the one
        rows.append(same(f"{TEACHER}.model.temperature.value", "temp"))
    rows += [same("model.temperature.value", "temp"), *layer("heads.itm.classify", "itm_head")]
    # a file that was trained without a queue may hold one of no columns
    return rows + (_queues(parts) if parts.queue else [Dropped(q, "a queue of 0 entries") for q in parts.empty_queue])


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


def table_of(state: Mapping[str, Tensor], kind: Kind) -> list[Row]:
    """The table of a file of this kind; UserError for one of another.

    Files of RefCOCO were trained by the losses of retrieval, and are of that kind.
    """
    parts = parts_of(state)
    if parts.kind != kind or (kind == "retrieval" and "itm_head.weight" not in state):
        raise UserError(f"this ALBEF {NOT_OF_KIND[kind]}")
    return table(parts)
