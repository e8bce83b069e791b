"""The checkpoint layouts that mmkit knows by name: how to tell one, build its model, and write one of ours as such.

Left out, as their heads are not in mmkit: ALBEF's VQA, NLVR2 and visual entailment. They are recognised, and their
towers start a training by ``init``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from mmkit.convert import albef, bert, vit
from mmkit.convert.table import Row, depth_of
from mmkit.data.image_ops import CLIP_MEAN, CLIP_STD, EvalTransform
from mmkit.errors import UserError
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes import albef as build_albef

State = Mapping[str, Tensor]
RETRIEVAL_TOKENS = 30  # what the official evaluation cuts texts to
HEAD_WIDTH = 64  # of an attention head in every released ALBEF, BERT-base and ViT-B


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What tensors do not tell: the number of attention heads of each tower; None = one for each 64 of its width."""

    image_heads: int | None = None
    text_heads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a file becomes a model: ``model(vocab_size=)``, ``head(spec)``, the table, preprocessing and tokenizer."""

    model: partial[Any]
    heads: Mapping[str, partial[Any]]
    rows: list[Row]
    vocab_size: int
    transform: EvalTransform
    max_tokens: int
    tokenizer: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout.

    recipe: None where mmkit has no model for the whole of it. back: our state -> rows. use: what to do with ``{path}``.
    """

    name: str
    what: str
    fits: Callable[[State], bool]
    use: str
    licence: str = "not stated in the file"
    recipe: Callable[[State, Choices], Recipe] | None = None
    back: Callable[[State], list[Row]] | None = None


def _albef_recipe(
    table: Callable[[State], list[Row]], positives: Literal["image", "pair"]
) -> Callable[[State, Choices], Recipe]:
    def recipe(state: State, choices: Choices) -> Recipe:
        rows, parts = table(state), albef.parts_of(state)
        text = f"text_encoder.{parts.bert}"
        words, positions = (state[f"{text}embeddings.{name}_embeddings.weight"] for name in ("word", "position"))
        image_width, text_width = state["visual_encoder.cls_token"].shape[-1], words.shape[1]
        side, patch = math.isqrt(state["visual_encoder.pos_embed"].shape[1] - 1), parts.patch[0]
        model = partial(
            build_albef, image_size=side * patch, max_tokens=len(positions), patch=patch,
            image_depth=parts.image_depth, image_width=image_width,
            image_heads=_heads("image", image_width, choices.image_heads), text_depth=parts.text_depth,
            fusion_depth=parts.fusion_depth, text_width=text_width,
            text_heads=_heads("text", text_width, choices.text_heads),
            text_mlp_width=len(state[f"{text}encoder.layer.0.intermediate.dense.weight"]),
            embed_dim=len(state["vision_proj.weight"]),
        )  # fmt: skip
        itc = partial(ITC, queue_size=parts.queue, positives=positives)
        heads: dict[str, partial[Any]] = {"itc": itc, "itm": partial(ITM, avoid=positives)}
        if parts.mlm:
            heads["mlm"] = partial(MLM)
        transform = EvalTransform(size=side * patch, mean=CLIP_MEAN, std=CLIP_STD)
        return Recipe(
            model=model, heads=heads, rows=rows, vocab_size=len(words), transform=transform,
            max_tokens=min(len(positions), RETRIEVAL_TOKENS), tokenizer="google-bert/bert-base-uncased",
        )  # fmt: skip

    return recipe


def _heads(tower: str, width: int, given: int | None) -> int:
    if given is not None:
        return given
    if width % HEAD_WIDTH:
        raise UserError(f"the {tower} tower is {width} wide, no multiple of {HEAD_WIDTH}: give --{tower}-heads N")
    return width // HEAD_WIDTH


def patch_of(ours: State, tower: str = "model.image") -> tuple[int, int]:
    """The square patch of one of our image towers."""
    side = math.isqrt(ours[f"{tower}.patch.proj.weight"].shape[1] // 3)
    return side, side


def _albef_back(layout: str) -> Callable[[State], list[Row]]:
    def back(ours: State) -> list[Row]:
        if depth_of(ours, "model.fusion.blocks.") == 0:
            raise UserError("this model is not an ALBEF: it has no fusion layers")
        return albef.table(albef.parts_of_ours(ours, patch_of(ours), layout))

    return back


def _bert_back(ours: State) -> list[Row]:
    mlm = "heads.mlm" if "heads.mlm.dense.weight" in ours else None
    return bert.table_of_ours(ours, text="model.text", fusion="model.fusion", mlm=mlm)


def _has(*names: str) -> Callable[[State], bool]:
    return lambda state: all(name in state for name in names)


def _is_bert(state: State) -> bool:
    return bert.prefix_of(state) is not None


_TASK = 'mmkit has not this task\'s head yet; its towers start a training: init={{"image": {path!r}}}'
_ALBEF_LICENCE = "BSD-3-Clause (the official ALBEF release)"
LAYOUTS = (
    Layout(
        name="albef", what="official ALBEF, pre-training", licence=_ALBEF_LICENCE,
        fits=_has("visual_encoder.cls_token", "text_encoder.cls.predictions.bias", "itm_head.weight"),
        recipe=_albef_recipe(albef.pretrain, "pair"), back=_albef_back("albef"),
        use="mmkit convert albef {path} OUT",
    ),
    Layout(
        name="albef-vqa", what="official ALBEF, VQA", licence=_ALBEF_LICENCE, use=_TASK,
        fits=_has("visual_encoder.cls_token", "text_decoder.bert.embeddings.word_embeddings.weight"),
    ),
    Layout(
        name="albef-retrieval", what="official ALBEF, retrieval or RefCOCO", licence=_ALBEF_LICENCE,
        fits=_has("visual_encoder.cls_token", "text_encoder.embeddings.word_embeddings.weight", "itm_head.weight"),
        recipe=_albef_recipe(albef.retrieval, "image"), back=_albef_back("albef-retrieval"),
        use="mmkit convert albef-retrieval {path} OUT",
    ),
    Layout(
        name="albef-task", what="official ALBEF, NLVR2 or visual entailment", licence=_ALBEF_LICENCE, use=_TASK,
        fits=lambda x: "visual_encoder.cls_token" in x and ("cls_head.0.weight" in x or "ta_head.weight" in x),
    ),
    Layout(
        name="bert", what="BERT in the names of transformers", fits=_is_bert, back=_bert_back,
        use='init={{"text": {path!r}}} in a config',
    ),
    Layout(
        name="vit", what="ViT in timm's names (timm, DeiT, MAE)", fits=vit.fits,
        back=lambda ours: vit.table_of_ours(ours, patch_of(ours), "model.image"),
        use='init={{"image": {path!r}}} in a config',
    ),
)  # fmt: skip


def guess(state: State) -> Layout | None:
    """The layout of a foreign state, by its keys; None for an unknown one."""
    modern = bert.modern(state)
    return next((layout for layout in LAYOUTS if layout.fits(modern)), None)


def named(name: str) -> Layout:
    """The layout of a name; UserError that lists them."""
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    listed = "; ".join(f"{layout.name} ({layout.what})" for layout in LAYOUTS if layout.recipe or layout.back)
    raise UserError(f"there is no layout {name!r}; there are {listed}")
