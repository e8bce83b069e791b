"""Grounding DINO of transformers on a Swin-T, both ways: grounding-dino-tiny and its like.

    mmkit convert projects/grounding/layout.py:GROUNDING_DINO FOLDER models/grounding
    mmkit convert projects/grounding/layout.py:GROUNDING_DINO models/grounding back.safetensors --reverse
    mmkit detect --model models/grounding --image photo.png --text "a dog. a red canoe."

The model is torchvision's Swin-T and a BERT as towers, and the head ``ground`` over three maps of the Swin and a
coarser one, with deformable attention. Pictures are squashed to 800 x 1,066 pixels unless told otherwise
(--image-size): the published evaluation keeps their shape and pads. Left out, and refused by name:
grounding-dino-base, whose Swin has windows of 12 cells, where torchvision's have 7; box heads that differ by layer;
MM-Grounding-DINO's files, whose logits have a bias of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mmkit.convert.layouts.layout import Choices, Layout, Recipe, State
from mmkit.convert.tables.table import Row, depth_of
from mmkit.data.images.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform
from mmkit.data.texts.protocol import Framing
from mmkit.errors import UserError
from projects.grounding.head import GroundingDINO
from projects.grounding.model import towers
from projects.grounding.tables import BERT, HEAD, NET, SWIN, TEXT, WINDOW, rows

SWINS: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "torchvision:swin_t",
    (96, (2, 2, 18, 2)): "torchvision:swin_s",
}
"""By the width of the first stage and the blocks of each."""
LAYERS = ("features.3", "features.5", "features.7")
"""The Swin's stages that are read, before their maps are halved."""
FIRST = f"{SWIN}embeddings.norm.weight"
HEAD_WIDTH = 64  # of an attention head of the text tower
SAID: dict[str, Any] = {
    "positional_embedding_temperature": 20, "decoder_bbox_embed_share": True, "two_stage": True,
    "embedding_init_target": True, "query_dim": 4, "activation_function": "relu", "layer_norm_eps": 1e-5,
}  # fmt: skip
"""What a config may say, and must."""


def fits(state: State) -> bool:
    """Whether a file has this layout."""
    return "model.enc_output.weight" in state and f"{BERT}.embeddings.word_embeddings.weight" in state


def recipe(state: State, choices: Choices) -> Recipe:
    """The model of a file. UserError for what the head has not."""
    config = choices.config
    for name, wanted in SAID.items():
        if name in config and config[name] != wanted:
            raise UserError(f"its config says {name}={config[name]!r}, and this head has {wanted!r} alone")
    depths, net = swin_of(state)
    text, enhancer, decoder = (
        depth_of(state, f"{name}.")
        for name in (f"{BERT}.encoder.layer", "model.encoder.layers", "model.decoder.layers")
    )
    maps, (queries, width) = len(state["model.level_embed"]), state["model.query_position_embeddings.weight"].shape
    vocab, text_width = state[f"{BERT}.embeddings.word_embeddings.weight"].shape
    hidden = len(state["model.encoder.layers.0.deformable_layer.fc1.weight"])
    if hidden != len(state["model.decoder.layers.0.fc1.weight"]):
        raise UserError("its encoder's and its decoder's hidden layers are not of one width, as this head's are")
    heads, points = sampling(state, config, maps)
    size = choices.image_size or (800, 1066)
    head = partial(
        GroundingDINO, width=width, heads=heads, hidden=hidden, enhancer=enhancer, decoder=decoder, queries=queries,
        points=points, scaled=False, scale=1e-4, layers=LAYERS, coarser=maps - len(LAYERS), most=300,
    )  # fmt: skip
    said: Mapping[str, Any] = config.get("text_config") or {}
    model = partial(
        towers, image_size=size, max_tokens=len(state[f"{BERT}.embeddings.position_embeddings.weight"]),
        text_depth=text, text_width=text_width,
        text_heads=choices.text_heads or said.get("num_attention_heads") or text_width // HEAD_WIDTH,
        text_mlp=len(state[f"{BERT}.encoder.layer.0.intermediate.dense.weight"]), backbone=net,
    )  # fmt: skip
    return Recipe(
        model=model, heads={"ground": head}, vocab_size=vocab, max_tokens=256, framing=Framing(last=True),
        tokenizer="google-bert/bert-base-uncased",
        rows=rows(state, depths, text, maps, enhancer, decoder, len(state[FIRST])),
        transform=EvalTransform(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, resample="bilinear"),
    )  # fmt: skip


def swin_of(state: State) -> tuple[tuple[int, ...], str]:
    """The blocks of its stages, and torchvision's name; UserError for one that torchvision has not."""
    depths = tuple(depth_of(state, f"{SWIN}encoder.layers.{stage}.blocks.") for stage in range(4))
    first = state.get(FIRST)
    if first is None or not depths[0]:
        raise UserError("its backbone is no Swin, which this layout reads alone")
    table = state[f"{SWIN}encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"]
    if len(table) != (2 * WINDOW - 1) ** 2:
        raise UserError(
            f"its Swin has windows of {(int(len(table) ** 0.5) + 1) // 2} cells, and torchvision's have {WINDOW}: "
            "grounding-dino-base cannot be read, grounding-dino-tiny can"
        )
    net = SWINS.get((len(first), depths))
    if net is None:
        raise UserError(f"its Swin begins {len(first)} wide and has {depths} blocks; torchvision has no such network")
    return depths, net


def sampling(state: State, config: Mapping[str, Any], maps: int) -> tuple[int, int]:
    """Heads and points of its deformable attention: 8 and 4 where no config says others."""
    heads = int(config.get("encoder_attention_heads") or 8)
    places = {
        len(state[f"model.{part}.layers.0.{name}.attention_weights.weight"])
        for part, name in (("encoder", "deformable_layer.self_attn"), ("decoder", "encoder_attn"))
    }
    if len(places) > 1 or (total := places.pop()) % (heads * maps):
        raise UserError(f"its deformable attention has no whole number of points for {heads} heads and {maps} maps")
    return heads, total // (heads * maps)


def back(ours: State) -> list[Row]:
    """The rows to write a model of ours; UserError for one that these files have no place for."""
    if f"{HEAD}levels.places" not in ours or f"{NET}features.0.0.weight" not in ours:
        raise UserError("this layout holds a Swin of torchvision with a head `ground` over its maps (layers=)")
    if f"{HEAD}selection.align.bias" in ours:
        raise UserError("the head's logits have a scale and a bias (scaled=True), for which these files have no place")
    depths = tuple(depth_of(ours, f"{NET}features.{2 * stage + 1}.") for stage in range(4))
    text, enhancer, decoder = (
        depth_of(ours, f"{name}.") for name in (f"{TEXT}.blocks", f"{HEAD}enhancer", f"{HEAD}decoder.layers")
    )
    norm = ours[f"{NET}norm.weight"], ours[f"{NET}norm.bias"]
    new = bool((norm[0] == 1).all() and (norm[1] == 0).all())
    names = set() if new else {f"{SWIN}swin.layernorm.weight"}
    return rows(
        names,
        depths,
        text,
        len(ours[f"{HEAD}levels.places"]),
        enhancer,
        decoder,
        len(ours[f"{NET}features.0.2.weight"]),
    )


GROUNDING_DINO = Layout(
    name="grounding-dino", what="Grounding DINO of transformers on a Swin-T", fits=fits, recipe=recipe, back=back,
    licence="Apache-2.0 (the official Grounding DINO release)", takes=("image_size", "text_heads"),
    use="mmkit convert projects/grounding/layout.py:GROUNDING_DINO {path} OUT",
)  # fmt: skip
