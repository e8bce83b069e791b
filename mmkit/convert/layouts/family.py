"""The layouts of the relatives: ViLT, CLIP and SigLIP, under either of the names that each is published with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from mmkit.convert import clip_config
from mmkit.convert.layouts.layout import Choices, Layout, Recipe, State, patch_of
from mmkit.convert.locate import OPEN_CLIP_CONFIG
from mmkit.convert.pictures.read import Reading, picture_transform, reading
from mmkit.convert.tables import clip, vilt
from mmkit.convert.tables.table import Row, theirs_of
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.images.variable_size import HALF, KeepShape
from mmkit.data.texts.protocol import Framing
from mmkit.errors import UserError
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.heads.sigmoid import Sigmoid
from mmkit.models.sizes import dual as sizes_dual
from mmkit.models.sizes.vilt import vilt as build_vilt

CLIP_LICENCE = "MIT for OpenAI's weights; that of their training for others, not stated in the file"
WORDS = "model.text.words.weight"
log = logging.getLogger(__name__)


def _dual_recipe(state: State, choices: Choices, siglip: bool) -> Recipe:
    known, transform = _told(state, choices, siglip)
    arguments, rows = clip.arguments(state, known, choices.image_size), clip.table(state)
    words = len(state[theirs_of(rows, WORDS)])
    tokenizer, framing = "clip", Framing(last=True, grows=False)
    heads: dict[str, partial[Any]] = {"itc": partial(ITC, queue_size=0)}
    if siglip:
        tokenizer = clip_config.TOKENIZERS.get(words, clip_config.TOKENIZERS[32_000])
        heads, framing = {"sigmoid": partial(Sigmoid)}, replace(framing, first=False, canonical=True)
    return Recipe(
        model=partial(sizes_dual.siglip if siglip else sizes_dual.clip, **arguments), heads=heads, rows=rows,
        vocab_size=words, max_tokens=arguments["max_tokens"], transform=transform(arguments),
        tokenizer=known.tokenizer or tokenizer, framing=framing, filled=siglip,
    )  # fmt: skip


def _told(
    state: State, choices: Choices, siglip: bool
) -> tuple[clip_config.Told, Callable[[Mapping[str, Any]], EvalTransform]]:
    """The config, and what was chosen in its place; and the transform of a tower with given arguments."""
    known, open_clip = clip_config.told(choices.config, siglip), clip.parts_of(state).names == "open_clip"
    found = reading(choices.pictures, "Siglip" if siglip else "CLIP", open_clip)
    default = Reading(file="CLIP", window=(224, 224), odd="even" if open_clip else "low")
    if siglip:
        default = Reading(file="SigLIP", fit="squash", mean=HALF, std=HALF)
    size = known.image_size or (found.output if found and found.file != OPEN_CLIP_CONFIG else None)
    known = replace(
        known, image_heads=known.image_heads if choices.image_heads is None else choices.image_heads,
        text_heads=known.text_heads if choices.text_heads is None else choices.text_heads,
        image_activation=choices.activation or known.image_activation, image_size=size,
        text_activation=choices.activation or known.text_activation,
    )  # fmt: skip

    def transform(arguments: Mapping[str, Any]) -> EvalTransform:
        full = choices.image_size or size
        return picture_transform(found, default, arguments["image_size"], arguments["patch"], full)

    return known, transform


def _dual(name: str, what: str, names: clip.Names, *, siglip: bool) -> Layout:
    """The layout of one of both under the names of one program."""
    fits = clip.fits_open_clip if names == "open_clip" else clip.fits_transformers
    kind: Literal["Siglip", "CLIP"] = "Siglip" if siglip else "CLIP"

    def back(ours: State) -> list[Row]:
        if ("model.image_pool.query" in ours) != siglip:
            raise UserError(f"this model is no {'SigLIP' if siglip else 'CLIP'}: its image tower has another pooling")
        return clip.table_of_ours(ours, patch_of(ours), names)

    return Layout(
        name=name, what=what, licence=Layout.licence if siglip else CLIP_LICENCE,
        fits=lambda state: fits(state) and clip.parts_of(state).siglip == siglip,
        recipe=partial(_dual_recipe, siglip=siglip), back=back, takes=DUAL_TAKES,
        use=f"mmkit convert {name} {{path}} OUT", pictures="open_clip" if names == "open_clip" else kind,
    )  # fmt: skip


def _vilt_recipe(state: State, choices: Choices) -> Recipe:
    """Pictures keep their shape, with a true mask: up to 384 x 639 pixels at the published size."""
    parts, rows = vilt.parts_of(state), vilt.table(state)
    arguments = vilt.arguments(state, choices.config, choices.image_heads)
    heads: dict[str, partial[Any]] = {}
    if parts.match:
        heads["itm"] = partial(ITM, negatives="mixed", pooler=True)
    if parts.answer:
        count = len(state[theirs_of(rows, "heads.answer.out.weight")])
        answers = vilt.answers(count, choices.config, choices.answers)
        heads["answer"] = partial(AnswerClassifier, answers=answers, pooler=True)
    elif choices.answers:
        raise UserError("--answers: this ViLT has no classifier of answers, so there is nothing to name")
    if parts.mlm_bias:
        if parts.tied and "tie_word_embeddings" in choices.config and not choices.config["tie_word_embeddings"]:
            raise UserError(f"its config says tie_word_embeddings=false, but there is no {vilt.WORDS}")
        heads["mlm"] = partial(MLM, tied=parts.tied)
    found = reading(choices.pictures, "Vilt")
    transform = KeepShape(size=arguments["image_size"], multiple=arguments["patch"])
    if found is not None:
        transform = found.keeping_shape(arguments["patch"])
        log.info("pictures as %s says: %s", found.file, transform)
    return Recipe(
        model=partial(build_vilt, **arguments), heads=heads, rows=rows,
        vocab_size=len(state[theirs_of(rows, WORDS)]), max_tokens=arguments["max_tokens"],
        transform=transform, tokenizer="google-bert/bert-base-uncased", framing=Framing(last=True),
    )  # fmt: skip


def _vilt_back(names: vilt.Names) -> Callable[[State], list[Row]]:
    def back(ours: State) -> list[Row]:
        if "model.kinds.weight" not in ours:
            raise UserError("this model is not a ViLT: it does not tell words from patches")
        return vilt.table_of_ours(ours, patch_of(ours), names)

    return back


VILT_TAKES = ("image_heads", "answers")
DUAL_TAKES = ("image_heads", "text_heads", "image_size", "activation")
FAMILY = (
    Layout(
        name="vilt", what="official ViLT", licence="Apache-2.0 (the official ViLT release)", fits=vilt.fits_official,
        recipe=_vilt_recipe, back=_vilt_back("official"), takes=VILT_TAKES, use="mmkit convert vilt {path} OUT",
    ),
    Layout(
        name="vilt-transformers", what="ViLT in the names of transformers", fits=vilt.fits_transformers,
        recipe=_vilt_recipe, back=_vilt_back("transformers"), takes=VILT_TAKES,
        use="mmkit convert vilt-transformers {path} OUT", pictures="Vilt",
    ),
    _dual("clip", "CLIP with a ViT, in the names of OpenAI and open_clip", "open_clip", siglip=False),
    _dual("clip-transformers", "CLIP with a ViT, in the names of transformers", "transformers", siglip=False),
    _dual("siglip", "SigLIP, in the names of open_clip", "open_clip", siglip=True),
    _dual("siglip-transformers", "SigLIP, in the names of transformers", "transformers", siglip=True),
)  # fmt: skip
