"""The layouts of the official ALBEF: pre-training, retrieval with RefCOCO, VQA, visual entailment.

NLVR2 and its text assignment, whose model reads two pictures, are a project's (``projects/nlvr2/layout.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from mmkit.convert.grid import compact, picture_size, told_size
from mmkit.convert.layouts.layout import Choices, Layout, Recipe, State, attention_heads, patch_of
from mmkit.convert.pictures.read import Reading, picture_transform, reading
from mmkit.convert.tables import albef
from mmkit.convert.tables.table import Row, depth_of
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.texts.protocol import Framing
from mmkit.errors import UserError
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.classify import Classify
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef as build

RETRIEVAL_TOKENS = 30  # what the official evaluation cuts texts to
TASK_TOKENS = 512  # questions and hypotheses are not cut there, beyond their words
BERT = "google-bert/bert-base-uncased"
LICENCE = "BSD-3-Clause (the official ALBEF release)"
ENTAILMENT = ("contradiction", "neutral", "entailment")
Heads = dict[str, partial[Any]]
MakeHeads = Callable[[State, albef.Parts, Choices], Heads]


def towers(state: State, parts: albef.Parts, choices: Choices) -> tuple[dict[str, Any], EvalTransform]:
    """The arguments of a factory of ours that both towers of an official state give, and how it reads pictures."""
    text = f"text_encoder.{parts.bert}"
    words, positions = (state[f"{text}embeddings.{name}_embeddings.weight"] for name in ("word", "position"))
    image_width, text_width = state["visual_encoder.cls_token"].shape[-1], words.shape[1]
    cells = state["visual_encoder.pos_embed"].shape[1] - 1
    found = reading(choices.pictures, "Blip")
    told = told_size(choices.config) or (found.output if found else None)
    size = compact(picture_size(cells, parts.patch, told, choices.image_size))
    numbers = {
        "image_size": size, "max_tokens": len(positions), "patch": parts.patch[0], "image_depth": parts.image_depth,
        "image_width": image_width, "image_heads": attention_heads("image", image_width, choices.image_heads),
        "text_depth": parts.text_depth, "text_width": text_width,
        "text_heads": attention_heads("text", text_width, choices.text_heads),
        "text_mlp_width": len(state[f"{text}encoder.layer.0.intermediate.dense.weight"]),
        "embed_dim": len(state["vision_proj.weight"]) if parts.joint else 0,
    }  # fmt: skip
    default, full = Reading(file="ALBEF", fit="squash"), choices.image_size or told
    return numbers, picture_transform(found, default, size, parts.patch[0], full)


def _recipe(kind: albef.Kind, heads: MakeHeads, most_tokens: int) -> Callable[[State, Choices], Recipe]:
    def recipe(state: State, choices: Choices) -> Recipe:
        rows, parts = albef.table_of(state, kind), albef.parts_of(state)
        numbers, transform = towers(state, parts, choices)
        return Recipe(
            model=partial(build, **numbers, fusion_depth=parts.fusion_depth), heads=heads(state, parts, choices),
            rows=rows, vocab_size=len(state[f"text_encoder.{parts.bert}embeddings.word_embeddings.weight"]),
            transform=transform, max_tokens=min(numbers["max_tokens"], most_tokens), tokenizer=BERT,
            framing=Framing(clean="albef"),
        )  # fmt: skip

    return recipe


def _contrastive(positives: Literal["image", "pair"]) -> MakeHeads:
    def heads(state: State, parts: albef.Parts, choices: Choices) -> Heads:
        itc = partial(ITC, queue_size=parts.queue, positives=positives)
        found: Heads = {"itc": itc, "itm": partial(ITM, avoid=positives)}
        return found | ({"mlm": partial(MLM)} if parts.mlm else {})

    return heads


def _answers(state: State, parts: albef.Parts, choices: Choices) -> Heads:
    """The decoder ranks as the official code does, which counts a candidate's first token twice."""
    decoder = "text_decoder.bert."
    width = state[f"{decoder}embeddings.word_embeddings.weight"].shape[1]
    return {"answer": partial(
        AnswerDecoder, answers=choices.answers, depth=depth_of(state, f"{decoder}encoder.layer."),
        heads=attention_heads("text", width, choices.text_heads),
        mlp_width=len(state[f"{decoder}encoder.layer.0.intermediate.dense.weight"]),
        max_tokens=len(state[f"{decoder}embeddings.position_embeddings.weight"]),
        types=len(state[f"{decoder}embeddings.token_type_embeddings.weight"]), first_token_twice=True,
    )}  # fmt: skip


def _labels(state: State, parts: albef.Parts, choices: Choices) -> Heads:
    count = len(state["cls_head.2.weight"])
    return {"label": partial(Classify, classes=ENTAILMENT if count == len(ENTAILMENT) else count)}


def _back(kind: albef.Kind) -> Callable[[State], list[Row]]:
    def back(ours: State) -> list[Row]:
        if depth_of(ours, "model.fusion.blocks.") == 0:
            raise UserError("this model is not an ALBEF: it has no fusion layers")
        return albef.table(albef.parts_of_ours(ours, patch_of(ours), kind))

    return back


def _has(*names: str) -> Callable[[State], bool]:
    return lambda state: all(name in state for name in names)


def _two_pictures(state: State) -> bool:
    """NLVR2 has two fusing layers for each plain one, visual entailment one, under the same names."""
    layers = "text_encoder.encoder.layer."
    crosses = [f"{layers}{i}.crossattention.self.query.weight" in state for i in range(depth_of(state, layers))]
    return sum(crosses) > crosses.count(False)


def _official(
    kind: albef.Kind, name: str, what: str, fits: Callable[[State], bool], heads: MakeHeads, most_tokens: int,
    answers: str = "",
) -> Layout:  # fmt: skip
    """The layout of a task. answers: the end of its command, where the model needs a list of them."""
    return Layout(
        name=name, what=f"official ALBEF, {what}", licence=LICENCE, fits=fits,
        recipe=_recipe(kind, heads, most_tokens), back=_back(kind), takes=(*TAKES, "answers") if answers else TAKES,
        use=f"mmkit convert {name} {{path}} OUT{answers}",
    )  # fmt: skip


TAKES = ("image_heads", "text_heads", "image_size")
ALBEF = (
    _official(
        "pretrain", "albef", "pre-training",
        _has("visual_encoder.cls_token", "text_encoder.cls.predictions.bias", "itm_head.weight"),
        _contrastive("pair"), RETRIEVAL_TOKENS,
    ),
    _official(
        "vqa", "albef-vqa", "VQA",
        _has("visual_encoder.cls_token", "text_decoder.bert.embeddings.word_embeddings.weight"),
        _answers, TASK_TOKENS, answers=" --answers answer_list.json",
    ),
    _official(
        "retrieval", "albef-retrieval", "retrieval or RefCOCO",
        _has("visual_encoder.cls_token", "text_encoder.embeddings.word_embeddings.weight", "itm_head.weight"),
        _contrastive("image"), RETRIEVAL_TOKENS,
    ),
    _official(
        "entailment", "albef-ve", "visual entailment",
        lambda x: _has("visual_encoder.cls_token", "cls_head.0.weight")(x) and not _two_pictures(x),
        _labels, TASK_TOKENS,
    ),
    Layout(
        name="albef-nlvr2", what="official ALBEF, NLVR2", licence=LICENCE,
        fits=_has("visual_encoder.cls_token", "cls_head.0.weight"),
        use="mmkit convert projects/nlvr2/layout.py:NLVR2 {path} OUT",
    ),
    Layout(
        name="albef-assignment", what="official ALBEF, text assignment before NLVR2", licence=LICENCE,
        fits=_has("visual_encoder.cls_token", "ta_head.weight"),
        use="mmkit convert projects/nlvr2/layout.py:ASSIGNMENT {path} OUT",
    ),
)  # fmt: skip
