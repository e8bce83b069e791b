"""MAE's released pre-training weights with their decoder, read and written.

    mmkit convert projects/mim/layout.py:MAE mae_pretrain_vit_base_full.pth models/mae
    mmkit convert projects/mim/layout.py:MAE_PIXELS mae_visualize_vit_large.pth models/mae-pixels
    mmkit convert projects/mim/layout.py:MAE models/mae FILE --reverse

A file does not say what its decoder was trained to say: ``MAE`` takes it for normalised patches (the main table's
weights), ``MAE_PIXELS`` for plain pixels (the demonstration's). The decoder has a head for each 32 of its width, as all
released ones; its last layer tells a patch's colours of one pixel after another, ours one colour after another. Most
released files have no decoder: their tower starts a training (``init={"image": FILE}``), and they are refused here.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mmkit.convert.grid import compact, picture_size, told_size
from mmkit.convert.layouts.layout import Choices, Layout, Recipe, State, attention_heads, patch_of
from mmkit.convert.tables import vit
from mmkit.convert.tables.table import Constant, Entry, Row, depth_of, layer, same, stack
from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.transforms import IMAGENET_MEAN, IMAGENET_STD
from mmkit.errors import UserError
from mmkit.nn.positions import sincos_positions
from projects.mim.mae import MAE as MAEHead
from projects.mim.model import sight

DECODER_HEAD_WIDTH = 32
NO_DECODER = (
    "these weights have no decoder (decoder_embed, decoder_blocks...): they were released for fine-tuning, and nothing "
    'in them can paint what is hidden. Their tower starts a training: init={"image": FILE}. For reconstructions take '
    "the full pre-training weights (mae_visualize_*, *_full)"
)


def table(depth: int, decoder_depth: int, patch: tuple[int, int], positions: Tensor) -> list[Row]:
    """The rows of a whole file. positions: the decoder's, (1, 1 + cells, width)."""
    return [
        *vit.tower("model.image", "", depth, patch),
        same("heads.mae.mask", "mask_token"),
        Constant("decoder_pos_embed", positions),
        *layer("heads.mae.embed", "decoder_embed"),
        *stack("heads.mae.blocks", "decoder_blocks", decoder_depth, vit.BLOCK),
        *layer("heads.mae.norm", "decoder_norm"),
        *(
            Entry(
                f"heads.mae.pixels.{part}", (f"decoder_pred.{part}",), partial(colours_first, patch=patch),
                partial(colours_last, patch=patch),
            )
            for part in ("weight", "bias")
        ),
    ]  # fmt: skip


def colours_first(rows: Tensor, patch: tuple[int, int]) -> Tensor:
    """Rows in the order (row, column, colour) -> (colour, row, column)."""
    return rows.reshape(*patch, 3, *rows.shape[1:]).movedim(2, 0).reshape(rows.shape)


def colours_last(rows: Tensor, patch: tuple[int, int]) -> Tensor:
    """The way back."""
    return rows.reshape(3, *patch, *rows.shape[1:]).movedim(0, 2).reshape(rows.shape)


def recipe(state: State, choices: Choices, norm_pix: bool) -> Recipe:
    """The model with its decoder. UserError for weights without one, or with positions that are not MAE's."""
    if not {"mask_token", "decoder_embed.weight", "decoder_pred.weight", "decoder_pos_embed"} <= state.keys():
        raise UserError(NO_DECODER)
    width, patch = state["cls_token"].shape[-1], (state["patch_embed.proj.weight"].shape[2],) * 2
    size = compact(picture_size(state["pos_embed"].shape[1] - 1, patch, told_size(choices.config), choices.image_size))
    model = partial(
        sight, image_size=size, patch=patch[0], depth=depth_of(state, "blocks."), width=width,
        heads=attention_heads("image", width, choices.image_heads),
    )  # fmt: skip
    decoder, narrow = depth_of(state, "decoder_blocks."), len(state["decoder_embed.weight"])
    if narrow % DECODER_HEAD_WIDTH:
        raise UserError(f"the decoder is {narrow} wide, no multiple of {DECODER_HEAD_WIDTH}, as all released ones are")
    head = partial(MAEHead, norm_pix=norm_pix, depth=decoder, width=narrow, heads=narrow // DECODER_HEAD_WIDTH)
    positions = state["decoder_pos_embed"]
    sides = [side // patch[0] for side in ((size, size) if isinstance(size, int) else size)]
    if not torch.allclose(positions[0].float(), sincos_positions(sides, narrow, 1), atol=1e-5):
        raise UserError("its decoder's positions are not the fixed ones of MAE: it was trained by another program")
    return Recipe(
        model=model, heads={"mae": head}, vocab_size=0,
        rows=table(depth_of(state, "blocks."), decoder, patch, positions),
        transform=CentreCrop(
            size=size, to=round(max(sides) * patch[0] * 256 / 224), mean=IMAGENET_MEAN, std=IMAGENET_STD
        ),
        max_tokens=0, tokenizer="",
    )  # fmt: skip


def back(ours: State) -> list[Row]:
    """The rows to write a model of ours with its decoder."""
    patch = patch_of(ours)
    if "heads.mae.embed.weight" not in ours:
        raise UserError("this model has no head `mae`, whose decoder the file holds")
    cells = len(ours["model.image.positions.table"]) - 1
    side = round(cells**0.5)
    if side**2 != cells:
        raise UserError(f"its {cells} patches are no square, and MAE's files know squares alone")
    positions = sincos_positions((side, side), len(ours["heads.mae.embed.weight"]), 1)[None]
    return table(depth_of(ours, "model.image.blocks."), depth_of(ours, "heads.mae.blocks."), patch, positions)


def _layout(name: str, what: str, norm_pix: bool) -> Layout:
    return Layout(
        name=name, what=f"MAE's pre-training with its decoder, {what}", fits=vit.fits,
        licence="CC-BY-NC 4.0 (the official MAE release)", recipe=partial(recipe, norm_pix=norm_pix), back=back,
        takes=("image_heads", "image_size"),
        use=f"mmkit convert projects/mim/layout.py:{'MAE' if norm_pix else 'MAE_PIXELS'} {{path}} OUT",
    )  # fmt: skip


MAE = _layout("mae", "trained on normalised patches", norm_pix=True)
MAE_PIXELS = _layout("mae-pixels", "trained on plain pixels", norm_pix=False)
