"""The names of Grounding DINO's tensors in transformers' files (grounding-dino-tiny and its like), row by row.

The Swin is torchvision's, the text tower BERT's table, and the head stands at ``heads.ground.``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torchvision.models.swin_transformer import ShiftedWindowAttention

from mmkit.convert.tables import bert
from mmkit.convert.tables.table import Entry, Fresh, Left, Row, layer, layers, same, stack

HEAD, NET, TEXT = "heads.ground.", "model.image.net.", "model.text"
SWIN, BERT = "model.backbone.conv_encoder.model.", "model.text_backbone"
STAGES = ("stage2", "stage3", "stage4")
ATTENTION = {"q": "query", "k": "key", "v": "value", "out": "out_proj"}
DEFORMABLE = {
    "offsets": "sampling_offsets", "weights": "attention_weights", "value": "value_proj", "out": "output_proj",
}  # fmt: skip
FUSION = {
    "q": "vision_proj", "k": "text_proj", "v_image": "values_vision_proj", "v_text": "values_text_proj",
    "out_image": "out_vision_proj", "out_text": "out_text_proj",
}  # fmt: skip
BLOCK = {
    "norm1": "layernorm_before", "norm2": "layernorm_after",
    "attn.qkv": "attention.self.query attention.self.key attention.self.value", "attn.proj": "attention.output.dense",
    "mlp.0": "intermediate.dense", "mlp.3": "output.dense",
}  # fmt: skip
WINDOW = 7
"""Cells along each side of all of torchvision's Swins of the first version."""
INDEX = "attn.relative_position_index"


def rows(
    names: Collection[str], depths: Sequence[int], text: int, maps: int, enhancer: int, decoder: int,
    first: int,
) -> list[Row]:  # fmt: skip
    """Of a whole file. names: theirs; depths: blocks of the Swin's stages; text, enhancer, decoder: how many layers;
    maps: levels, the coarser ones too; first: width of the Swin's first stage.
    """
    return [
        *swin(names, depths, first), *bert.embeddings(f"{TEXT}.embeddings", f"{BERT}.embeddings"),
        *stack(f"{TEXT}.blocks", f"{BERT}.encoder.layer", text, bert.LAYER),
        *(row for i in range(enhancer) for row in _enhancer(i)), *(row for i in range(decoder) for row in _decoder(i)),
        *_around(names, maps, decoder),
    ]  # fmt: skip


def swin(names: Collection[str], depths: Sequence[int], first: int) -> list[Row]:
    """The Swin of torchvision, whose last norm files of old have not; nothing here reads it."""
    found: list[Row] = [
        *layer(f"{NET}features.0.0", f"{SWIN}embeddings.patch_embeddings.projection"),
        *layer(f"{NET}features.0.2", f"{SWIN}embeddings.norm"),
    ]
    window = ShiftedWindowAttention(1, [WINDOW, WINDOW], [0, 0], 1).relative_position_index
    for stage, depth in enumerate(depths):
        for i in range(depth):
            ours, theirs = f"{NET}features.{2 * stage + 1}.{i}", f"{SWIN}encoder.layers.{stage}.blocks.{i}"
            table = "relative_position_bias_table"
            found += layers(ours, theirs, BLOCK)
            found.append(same(f"{ours}.attn.{table}", f"{theirs}.attention.self.{table}"))
            index = f"{ours}.{INDEX}"
            found += [Fresh(index, window), Left(index, "it follows from the window")]
        if stage + 1 < len(depths):
            ours, theirs = f"{NET}features.{2 * stage + 2}", f"{SWIN}encoder.layers.{stage}.downsample"
            found.append(same(f"{ours}.reduction.weight", f"{theirs}.reduction.weight"))
            found += layer(f"{ours}.norm", f"{theirs}.norm")
    last = f"{SWIN}swin.layernorm"
    if f"{last}.weight" in names:
        return [*found, *layer(f"{NET}norm", last)]
    width = first * 2 ** (len(depths) - 1)
    for name, value in ((f"{NET}norm.weight", torch.ones(width)), (f"{NET}norm.bias", torch.zeros(width))):
        found += [Fresh(name, value), Left(name, "the file had none, and nothing reads it")]
    return found


def _attention(ours: str, theirs: str, norm: str) -> list[Row]:
    return [*layers(ours, theirs, ATTENTION), *layer(f"{ours}.norm", norm)]


def _look(ours: str, theirs: str) -> list[Row]:
    return [*layers(f"{ours}.deformable", theirs, DEFORMABLE), *layer(f"{ours}.norm", f"{theirs}_layer_norm")]


def _feed(ours: str, theirs: str, norm: str = "final_layer_norm") -> list[Row]:
    return [*layers(ours, theirs, {"fc1": "fc1", "fc2": "fc2"}), *layer(f"{ours}.norm", f"{theirs}.{norm}")]


def _enhancer(i: int) -> list[Row]:
    ours, theirs = f"{HEAD}enhancer.{i}", f"model.encoder.layers.{i}"
    fusion, text, cells = (f"{theirs}.{part}" for part in ("fusion_layer", "text_enhancer_layer", "deformable_layer"))
    return [
        *layers(f"{ours}.fusion", f"{fusion}.attn", FUSION),
        *layers(f"{ours}.fusion", fusion, {"norm_image": "layer_norm_vision", "norm_text": "layer_norm_text"}),
        same(f"{ours}.fusion.scale_image", f"{fusion}.vision_param"),
        same(f"{ours}.fusion.scale_text", f"{fusion}.text_param"),
        *_attention(f"{ours}.text.attn", f"{text}.self_attn", f"{text}.layer_norm_before"),
        *_feed(f"{ours}.text.mlp", text, "layer_norm_after"),
        *_look(f"{ours}.look", f"{cells}.self_attn"), *_feed(f"{ours}.mlp", cells),
    ]  # fmt: skip


def _decoder(i: int) -> list[Row]:
    ours, theirs = f"{HEAD}decoder.layers.{i}", f"model.decoder.layers.{i}"
    return [
        *_attention(f"{ours}.attn", f"{theirs}.self_attn", f"{theirs}.self_attn_layer_norm"),
        *_attention(f"{ours}.words", f"{theirs}.encoder_attn_text", f"{theirs}.encoder_attn_text_layer_norm"),
        *_look(f"{ours}.look", f"{theirs}.encoder_attn"), *_feed(f"{ours}.mlp", theirs),
    ]  # fmt: skip


def _around(names: Collection[str], maps: int, decoder: int) -> list[Row]:
    """What stands around the layers; the box head is one, of which some files hold a copy for each layer."""
    found: list[Row] = [
        same(f"{HEAD}levels.places", "model.level_embed"), *layer(f"{HEAD}text", "model.text_projection"),
        *layers(f"{HEAD}selection", "model", {"project": "enc_output", "norm": "enc_output_norm"}),
        same(f"{HEAD}decoder.content.weight", "model.query_position_embeddings.weight"),
        *layer(f"{HEAD}decoder.norm", "model.decoder.layer_norm"),
    ]  # fmt: skip
    for i in range(maps):
        found += layer(f"{HEAD}levels.project.{i}", f"model.input_proj_vision.{i}.0")
        found += layer(f"{HEAD}levels.groups.{i}", f"model.input_proj_vision.{i}.1")
    for i, stage in enumerate(STAGES):
        found += layer(f"{HEAD}levels.norms.{i}", f"{SWIN}hidden_states_norms.{stage}")
    for i in range(2):
        found += layer(f"{HEAD}decoder.place.layers.{i}", f"model.decoder.reference_points_head.layers.{i}")
    for i in range(3):
        found += layer(f"{HEAD}selection.box.layers.{i}", f"model.encoder_output_bbox_embed.layers.{i}")
        for part in ("weight", "bias"):
            copies = [
                f"{place}bbox_embed.{j}.layers.{i}.{part}" for place in ("", "model.decoder.") for j in range(decoder)
            ]
            found.append(Entry(
                f"{HEAD}decoder.box.layers.{i}.{part}", (copies[0],), also=tuple(n for n in copies[1:] if n in names)
            ))  # fmt: skip
    return found
