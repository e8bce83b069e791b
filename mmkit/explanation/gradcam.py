"""Grad-CAM on the attention of words to patches (Selvaraju et al. 2017; ALBEF, section 6).

For a number y that the model says of a pair, the map of a token is its attention to each patch times the positive part
of y's gradient with respect to that attention, averaged over the heads. One backward pass serves a whole batch: rows do
not depend on each other. Models are asked in evaluation mode and in float32, and left as they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmkit.data.collate import of_pictures, padded_texts
from mmkit.data.texts.masking import check_mask
from mmkit.data.texts.protocol import Tokenizer
from mmkit.errors import UserError
from mmkit.explanation.goals import Target, answer_head, default_target, goal, hidden_words, kind_of, named, word_head
from mmkit.explanation.layers import Attention, all_patches, fusion_layers, image_layers, vit_of, watched
from mmkit.inference.predictor import Predictor
from mmkit.types import Pixels, Tokens, grid_of


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """The maps of one pair: (L, rows, columns) float32 >= 0 on the CPU, one for each token of the text; of a clip
    (L, frames, rows, columns).

    For the similarity there is one map alone, L = 1. ids: the text's tokens. score, target: see ``Explanation``.
    """

    maps: Tensor
    ids: tuple[int, ...]
    score: float
    target: str

    def sentence(self) -> Tensor:
        """The mean over the tokens, [CLS] included: (rows, columns), of a clip (frames, rows, columns)."""
        return self.maps.mean(0)


@dataclass(frozen=True)
class Asked:
    """What is asked of a model: the target, and the layer and head whose attention is looked at."""

    target: Target
    layer: int
    head: int | None
    attention: Attention


def ask(predictor: Predictor, target: Target | None = None, layer: int | None = None, head: int | None = None) -> Asked:
    """Looks up what a model shall be asked; UserError where it has no such thing, with what it has.

    target: None for ``default_target``: hidden words where the model guesses them, else match, answer or similarity.
    """
    target = default_target(predictor) if target is None else target
    if not callable(target) and target not in ("itm", "itc", "answer", "mlm"):
        raise UserError(
            f'target={target!r}: must be "itm" (match), "itc" (similarity), "mlm" (words), "answer", or a function'
        )
    if target == "itm":
        predictor.matcher()
    elif target == "answer":
        answer_head(predictor)
    elif target == "mlm":
        word_head(predictor)
    layers = image_layers(predictor.model) if target == "itc" else fusion_layers(predictor.model)
    vit_of(predictor.model)
    number, attention = layers.at(-1 if layer is None and target == "mlm" else layer)
    if head is not None and not 0 <= head < attention.heads:
        raise UserError(f"head={head}: layer {number} has {attention.heads} heads, 0 to {attention.heads - 1}")
    return Asked(target, number, head, attention)


def token_maps(
    predictor: Predictor, asked: Asked, pictures: Sequence[Pixels], image_of: Sequence[int], texts: Sequence[str],
    answers: Sequence[str] = (), hidden: Sequence[Sequence[int]] = (),
) -> list[TokenMaps]:  # fmt: skip
    """The maps of each text with its picture, in one pass.

    pictures: what the predictor's transform made, see ``Predictor.pixels``. image_of: the picture of each text.
    answers: one for each text, where the target is "answer". hidden: the positions that each text hides from the
    model, which guesses what stood there, where the target is "mlm".
    """
    model, device, similar = predictor.model, predictor.device, asked.target == "itc"
    # for the similarity each pair has its own pass through the image tower, whose attention is looked at
    batch = of_pictures([pictures[i] for i in image_of] if similar else pictures).to(device)
    kind = kind_of(predictor, asked.target)
    rows = [predictor.tokenizer.encode(text, predictor.max_tokens, kind) for text in texts]
    ids_BL, mask_BL = (part.to(device) for part in _padded(rows, predictor.tokenizer, hidden))
    wanted = None
    if asked.target == "mlm":
        wanted = hidden_words(predictor, rows, hidden)
    elif not similar:
        wanted = goal(predictor, asked.target, answers)
    with (
        predictor.inference(),
        torch.autocast(device.type, enabled=False),
        all_patches(model),
        watched(asked.attention) as calls,
    ):
        text = model.encode_text(ids_BL, mask_BL)
        with torch.set_grad_enabled(similar):
            image: Tokens = model.encode_image(batch.pixels, *(() if batch.pixel_mask is None else (batch.pixel_mask,)))
        with torch.enable_grad():
            if wanted is None:
                value = score = (model.embed_image(image) * model.embed_text(text)).sum(1)
            else:
                context = model.image_context(image.rows(torch.tensor(image_of, device=device)))
                value, score = wanted(model.fuse(text, [context]))
        if len(calls) != 1:
            raise UserError(f"this layer was run {len(calls)} times for one pair; choose another layer")
        cams = _by_patch(model, _cams(value, calls[0], asked.head), batch.pixels.shape[2:])
    found = []
    for i, row in enumerate(rows):
        *_, tall, wide = _grid(model, pictures[image_of[i]].shape[1:])
        length, name = 1 if similar else len(row), named(asked.target, answers[i] if answers else "")
        maps = cams[i, :length, ..., :tall, :wide]
        found.append(TokenMaps(maps.float().cpu(), tuple(row), float(score[i].detach()), name))
    return found


def _padded(
    rows: Sequence[Sequence[int]], tokenizer: Tokenizer, hidden: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Ids (B, L) int64, those at ``hidden`` replaced by the mask, and (B, L) bool where a token is."""
    ids_BL, mask_BL = padded_texts(rows, tokenizer.pad_id)
    for row, places in enumerate(hidden):
        ids_BL[row, list(places)] = check_mask(tokenizer)
    return ids_BL, mask_BL


def _grid(model: Any, size: Sequence[int]) -> tuple[int, ...]:
    """(rows, columns) of patches of a picture (height, width), or of each of (frames, height, width)."""
    grid: tuple[int, ...] = model.spec.grid(size) if model.spec.patch else grid_of(size[1:], vit_of(model).patch.patch)
    return grid


def _by_patch(model: Any, cams: Tensor, size: Sequence[int]) -> Tensor:
    """(B, N, N) of tokens -> (B, N, rows, columns) of patches, or (B, N, frames, rows, columns) where there are frames.

    A tubelet's map is that of each frame that it holds. The mean of frames reads each by itself: (B * frames, N, N).
    """
    grid = _grid(model, size)
    maps = cams[..., -math.prod(grid) :].unflatten(-1, grid)
    if not model.spec.patch:
        return maps.unflatten(0, (-1, size[0])).transpose(1, 2)
    return maps.repeat_interleave(model.spec.patch[0], 2) if len(grid) == 3 else maps


def _cams(value: Tensor, weights: Tensor, head: int | None) -> Tensor:
    """Attention x relu(gradient), (B, H, N, N) -> (B, N, N): the mean over the heads, or one of them.

    All zero where the target does not depend on this layer's attention.
    """
    gradient = None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value, weights, torch.ones_like(value), allow_unused=True)
    if gradient is None:
        return torch.zeros_like(weights[:, 0])
    cams = weights.detach() * gradient.relu()
    return cams.mean(1) if head is None else cams[:, head]
