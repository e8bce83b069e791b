"""The names of DETR's tensors elsewhere: in the official files, and in transformers' (released files, and its modules).

Rows of the head alone, which stands at ``heads.detect.``; those of the backbone are in ``layout.py``.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mmkit.convert.tables.table import Entry, Row, Split, layer, layers, same

Names = Literal["official", "released", "modules"]
HEAD = "heads.detect."


def rows(names: Names, encoder: int, decoder: int) -> list[Row]:
    """The head of a DETR with so many layers, ``form="queries"`` without ``norm``."""
    return _official(encoder, decoder) if names == "official" else _transformers(names, encoder, decoder)


def _flat(value: Tensor) -> Tensor:
    return value.flatten(1)


def _as_convolution(value: Tensor) -> Tensor:
    return value[:, :, None, None]


def _ends(project: str, norm: str, queries: str, classes: str, box: str) -> list[Row]:
    """What stands around the layers."""
    return [
        Entry(f"{HEAD}project.weight", (f"{project}.weight",), read=_flat, write=_as_convolution),
        same(f"{HEAD}project.bias", f"{project}.bias"),
        *layer(f"{HEAD}decoder.norm", norm),
        same(f"{HEAD}decoder.places.weight", f"{queries}.weight"),
        *layer(f"{HEAD}decoder.classes", classes),
        *(row for i in range(3) for row in layer(f"{HEAD}decoder.box.layers.{i}", f"{box}.layers.{i}")),
    ]


def _official(encoder: int, decoder: int) -> list[Row]:
    def attention(ours: str, theirs: str, norm: str) -> list[Row]:
        thirds: list[Row] = [
            Split(tuple(f"{ours}.{part}.{kind}" for part in "qkv"), f"{theirs}.in_proj_{kind}", (1, 1, 1))
            for kind in ("weight", "bias")
        ]
        return [*thirds, *layer(f"{ours}.out", f"{theirs}.out_proj"), *layer(f"{ours}.norm", norm)]

    def feed_forward(ours: str, theirs: str, norm: str) -> list[Row]:
        return [*layers(ours, theirs, {"fc1": "linear1", "fc2": "linear2"}), *layer(f"{ours}.norm", norm)]

    found: list[Row] = []
    for i in range(encoder):
        ours, theirs = f"{HEAD}encoder.layers.{i}", f"transformer.encoder.layers.{i}"
        found += attention(f"{ours}.attn", f"{theirs}.self_attn", f"{theirs}.norm1")
        found += feed_forward(f"{ours}.mlp", theirs, f"{theirs}.norm2")
    for i in range(decoder):
        ours, theirs = f"{HEAD}decoder.layers.{i}", f"transformer.decoder.layers.{i}"
        found += attention(f"{ours}.attn", f"{theirs}.self_attn", f"{theirs}.norm1")
        found += attention(f"{ours}.cross", f"{theirs}.multihead_attn", f"{theirs}.norm2")
        found += feed_forward(f"{ours}.mlp", theirs, f"{theirs}.norm3")
    return found + _ends("input_proj", "transformer.decoder.norm", "query_embed", "class_embed", "bbox_embed")


def _transformers(names: Names, encoder: int, decoder: int) -> list[Row]:
    out, inner = ("o_proj", ".mlp") if names == "modules" else ("out_proj", "")

    def attention(ours: str, theirs: str) -> list[Row]:
        return [
            *layers(ours, theirs, {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": out}),
            *layer(f"{ours}.norm", f"{theirs}_layer_norm"),
        ]

    def feed_forward(ours: str, theirs: str) -> list[Row]:
        norm = layer(f"{ours}.norm", f"{theirs}.final_layer_norm")
        return [*layers(ours, f"{theirs}{inner}", {"fc1": "fc1", "fc2": "fc2"}), *norm]

    found: list[Row] = []
    for part, depth in (("encoder", encoder), ("decoder", decoder)):
        for i in range(depth):
            ours, theirs = f"{HEAD}{part}.layers.{i}", f"model.{part}.layers.{i}"
            found += attention(f"{ours}.attn", f"{theirs}.self_attn")
            found += attention(f"{ours}.cross", f"{theirs}.encoder_attn") if part == "decoder" else []
            found += feed_forward(f"{ours}.mlp", theirs)
    return found + _ends(
        "model.input_projection", "model.decoder.layernorm", "model.query_position_embeddings",
        "class_labels_classifier", "bbox_predictor",
    )  # fmt: skip


def anchors(modules: int) -> list[Row]:
    """The decoder of transformers' DAB-DETR with so many layers; ``zeros=True`` here. For comparison alone."""
    found: list[Row] = []
    for i in range(modules):
        ours, theirs = f"layers.{i}", f"decoder.layers.{i}"
        for kind, own in (("self", "attn"), ("cross", "cross")):
            at = f"{theirs}.{kind}_attn.{kind}_attn"
            names = {"q": "query_content_proj", "k": "key_content_proj", "k_place": "key_pos_proj", "v": "value_proj"}
            more = {"q_place": "query_pos_proj"} if kind == "self" or i == 0 else {}
            more |= {} if kind == "self" else {"q_sine": "query_pos_sine_proj"}
            found += [row for a, b in (names | more).items() for row in layer(f"{ours}.{own}.{a}", f"{at}_{b}")]
            found += layer(f"{ours}.{own}.out", f"{at}.output_proj")
            found += layer(f"{ours}.{own}.norm", f"{at}_layer_norm")
        found += layers(f"{ours}.mlp", f"{theirs}.mlp", {"fc1": "fc1", "fc2": "fc2", "norm": "final_layer_norm"})
    found += layer("norm", "decoder.layernorm") + layer("classes", "class_embed")
    for ours, theirs, depth in (
        ("scale", "decoder.query_scale", 2), ("place", "decoder.ref_point_head", 2),
        ("size", "decoder.ref_anchor_head", 2), ("box", "bbox_predictor", 3),
    ):  # fmt: skip
        found += [row for i in range(depth) for row in layer(f"{ours}.layers.{i}", f"{theirs}.layers.{i}")]
    return found
