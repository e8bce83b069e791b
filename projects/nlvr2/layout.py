"""The official ALBEF checkpoints of NLVR2 and of its text-assignment stage, read and written.

    mmkit convert projects/nlvr2/layout.py:NLVR2 FILE models/nlvr2
    mmkit convert projects/nlvr2/layout.py:NLVR2 models/nlvr2 FILE --reverse

Their names are those of visual entailment, with twice as many fusion layers; the keys and values that two layers share
stand there under two names each. The teacher is included where the file has one. Files of text assignment have none,
and the official fine-tuning then begins with the teacher of a network that was never trained, because it copies the
student before it loads it. A run of ours from such a file begins with a teacher equal to the student.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from mmkit.convert.layouts.albef import BERT, LICENCE, TASK_TOKENS, towers
from mmkit.convert.layouts.layout import Choices, Layout, Recipe, State, patch_of
from mmkit.convert.tables import albef, bert
from mmkit.convert.tables.table import Row, depth_of, layer, same
from mmkit.data.texts.protocol import Framing
from mmkit.errors import UserError
from projects.nlvr2.head import PairClassify, TextAssignment
from projects.nlvr2.model import pair_albef

LAYERS = "text_encoder.encoder.layer."
TAKES = ("image_heads", "text_heads", "image_size")


def table(parts: albef.Parts) -> list[Row]:
    """The rows of a whole state; of text assignment where it has a joint space."""
    if not parts.joint:
        return albef.table(parts)
    rows = [*albef.tower(parts, "", "model", "heads."), same("model.temperature.value", "temp")]
    rows += layer("heads.assignment.out", "ta_head")
    count = parts.position_ids[0]
    return rows + ([bert.position_ids("text_encoder.embeddings.position_ids", count)] if count else [])


def table_of(state: State) -> list[Row]:
    """The rows of an official state of either stage. UserError where layers that share do not hold the same."""
    parts = albef.parts_of(state)
    for i in range(parts.text_depth, parts.text_depth + parts.fusion_depth, 2):
        for part in ("key.weight", "key.bias", "value.weight", "value.bias"):
            left, right = (f"{LAYERS}{n}.crossattention.self.{part}" for n in (i, i + 1))
            if left in state and right in state and not torch.equal(state[left], state[right]):
                raise UserError(f"{left} and {right} should hold the same values, and do not")
    return table(parts)


def table_of_ours(state: State, kind: albef.Kind) -> list[Row]:
    """The rows to write a state of ours; kind: "entailment" for NLVR2, "retrieval" for text assignment."""
    depth = depth_of(state, "model.fusion.blocks.")
    if not depth or depth % 2:
        raise UserError(f"this is no model of two pictures: it has {depth} fusion layers")
    return table(albef.parts_of_ours(state, patch_of(state), kind))


def recipe(state: State, choices: Choices) -> Recipe:
    """The model of an official state, and how to use it."""
    parts = albef.parts_of(state)
    numbers, transform = towers(state, parts, choices)
    heads: dict[str, partial[Any]] = (
        {"assignment": partial(TextAssignment)} if parts.joint else {"label": partial(PairClassify)}
    )
    return Recipe(
        model=partial(pair_albef, **numbers, fusion_pairs=parts.fusion_depth // 2), heads=heads, rows=table_of(state),
        vocab_size=len(state["text_encoder.embeddings.word_embeddings.weight"]), transform=transform,
        max_tokens=min(numbers["max_tokens"], TASK_TOKENS), tokenizer=BERT, framing=Framing(clean="albef"),
    )  # fmt: skip


def _two_pictures(state: State) -> bool:
    """Twice as many fusion layers as below (6 and 12); visual entailment has as many, under the same names."""
    crosses = [f"{LAYERS}{i}.crossattention.self.query.weight" in state for i in range(depth_of(state, LAYERS))]
    return sum(crosses) == 2 * crosses.count(False) > 0


NLVR2 = Layout(
    name="albef-nlvr2", what="official ALBEF, NLVR2", licence=LICENCE, recipe=recipe, takes=TAKES,
    fits=lambda state: "cls_head.0.weight" in state and _two_pictures(state),
    back=lambda ours: table_of_ours(ours, "entailment"), use="mmkit convert projects/nlvr2/layout.py:NLVR2 {path} OUT",
)  # fmt: skip
ASSIGNMENT = Layout(
    name="albef-assignment", what="official ALBEF, text assignment before NLVR2", licence=LICENCE, recipe=recipe,
    takes=TAKES, fits=lambda state: "ta_head.weight" in state, back=lambda ours: table_of_ours(ours, "retrieval"),
    use="mmkit convert projects/nlvr2/layout.py:ASSIGNMENT {path} OUT",
)  # fmt: skip
