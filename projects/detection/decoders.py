"""From the cells of a map to boxes and classes after each layer: DETR's queries, and DAB-DETR's anchors.

DETR (Carion et al. 2020): a query is a learned position, its content starts at zero, a box comes from each layer's
state alone. DAB-DETR (Liu et al. 2022): a query is a box that each layer moves; its position is made anew from the box.
The box that is reported moves with gradient from the box before, which the next layer starts from without ("look
forward twice", Zhang et al. 2022, section 3.4; DAB-DETR's released code does so too).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmkit.nn.placed import EncoderLayer, Perceptron
from mmkit.nn.sine import of_boxes
from projects.detection.layers import AnchorLayer, DecoderLayer

PRIOR = 0.01  # of any class at the start, where losses are sigmoid focal
NARROW = 1e-3
"""So wide a box is at least where it is divided by, so that attention stays finite whatever a query has come to."""


class Map(NamedTuple):
    """Cells (B, P, D), their sine positions (B or 1, P, D), and which are picture: (B, P) bool, or None for all."""

    cells: Tensor
    places: Tensor
    real: Tensor | None

    @property
    def mask(self) -> Tensor | None:
        """(B, 1, 1, P) for attention."""
        return None if self.real is None else self.real[:, None, None]


class Found(NamedTuple):
    """After each of L layers: class logits (L, B, Q, C), boxes (L, B, Q, 4) as centre, width, height of 0 to 1."""

    logits: Tensor
    boxes: Tensor


class Extra(NamedTuple):
    """Further queries of a training step: content (B, P, D), boxes (B, P, 4), and who reads whom: (B, Q + P, Q + P)."""

    content: Tensor
    boxes: Tensor
    seen: Tensor


class Encoder(nn.Module):
    """``depth`` layers over the cells; 0 where the tower has mixed them already."""

    def __init__(self, depth: int, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden, dropout) for _ in range(depth))

    def forward(self, seen: Map) -> Map:
        """The same map, read."""
        cells = seen.cells
        for layer in self.layers:
            cells = layer(cells, seen.places, seen.mask)
        return seen._replace(cells=cells)


class Queries(nn.Module):
    """DETR's decoder with its two heads. outputs: logits a query has, classes and one for nothing."""

    def __init__(
        self, queries: int, outputs: int, *, depth: int, width: int, heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.places = nn.Embedding(queries, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, outputs)
        self.box = Perceptron((width, width, width, 4))
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, seen: Map, extra: Extra | None = None) -> Found:
        """What is found; there are no further queries."""
        places = self.places.weight.expand(len(seen.cells), -1, -1)
        x_BQD, states = torch.zeros_like(places), []
        for layer in self.layers:
            x_BQD = layer(x_BQD, places, seen.cells, seen.places, seen.mask)
            states.append(self.norm(x_BQD))
        x_LBQD = torch.stack(states)
        return Found(self.classes(x_LBQD).float(), self.box(x_LBQD).float().sigmoid())


class Anchors(nn.Module):
    """DAB-DETR's decoder with its two heads. groups: copies of the queries that training has beside (Chen et al. 2022).

    Copies do not read each other; evaluation uses the first alone. zeros: the content starts at zero and is not
    learned, as in the released code.
    """

    def __init__(
        self, queries: int, outputs: int, *, depth: int, width: int, heads: int, hidden: int, dropout: float,
        groups: int = 1, zeros: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.queries, self.groups, self.width = queries, groups, width
        self.anchors = nn.Parameter(grid_of_boxes(queries).repeat(groups, 1))
        self.content = None if zeros else nn.Embedding(queries * groups, width)
        self.layers = nn.ModuleList(AnchorLayer(width, heads, hidden, dropout, i == 0) for i in range(depth))
        self.norm = nn.LayerNorm(width)
        self.scale = Perceptron((width, width, width))
        self.place = Perceptron((2 * width, width, width))
        self.size = Perceptron((width, width, 2))
        self.classes = nn.Linear(width, outputs)
        self.box = Perceptron((width, width, width, 4))
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))
        for parameter in self.box.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, seen: Map, extra: Extra | None = None) -> Found:
        """What is found: in training by all groups, one after the other, and then by the further queries."""
        count, batch = self.queries * (self.groups if self.training else 1), len(seen.cells)
        boxes = self.anchors[:count].sigmoid().expand(batch, -1, -1)
        content = self.anchors.new_zeros(count, self.width) if self.content is None else self.content.weight[:count]
        x_BQD, allowed = content.expand(batch, -1, -1), self._groups(count)
        if extra is not None:
            x_BQD, boxes = torch.cat([x_BQD, extra.content], 1), torch.cat([boxes, extra.boxes], 1)
            allowed = extra.seen[:, None]
        states, moved = [], []
        for i, layer in enumerate(self.layers):
            start = boxes.detach() if i else boxes
            x_BQD = self._layer(i, layer, x_BQD, start, seen, allowed)
            states.append(self.norm(x_BQD))
            moved.append(torch.sigmoid(self.box(states[-1]).float() + logit(boxes)))
            boxes = torch.sigmoid(self.box(x_BQD).float() + logit(start))
        return Found(self.classes(torch.stack(states)).float(), torch.stack(moved))

    def _layer(
        self, i: int, layer: nn.Module, x_BQD: Tensor, boxes: Tensor, seen: Map, allowed: Tensor | None
    ) -> Tensor:
        half = self.width // 2
        sine = of_boxes(boxes, half)
        places = self.place(sine.to(x_BQD.dtype))
        near = sine[..., : self.width] * (self.scale(x_BQD) if i else 1.0)
        sides = boxes[..., 2:].clamp(min=NARROW)
        wanted = self.size(x_BQD).sigmoid() / sides  # the height modulates y, which stands first
        near = torch.cat([near[..., :half] * wanted[..., 1:], near[..., half:] * wanted[..., :1]], -1)
        return layer(x_BQD, places, near.to(x_BQD.dtype), seen.cells, seen.places, seen.mask, allowed)

    def _groups(self, count: int) -> Tensor | None:
        """(1, 1, count, count) bool, True within a group; None where there is one."""
        if count == self.queries:
            return None
        group = torch.arange(count, device=self.anchors.device) // self.queries
        return (group[:, None] == group)[None, None]


def logit(x: Tensor, least: float = 1e-5) -> Tensor:
    """The inverse of the sigmoid, finite: as if both ``x`` and 1 - ``x`` were at least ``least``."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=least) / (1 - x).clamp(min=least))


def grid_of_boxes(count: int) -> Tensor:
    """(count, 4) logits of boxes that cover the picture evenly, row by row, each as large as two cells of the grid."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    at = torch.arange(count)
    x, y = (at % columns + 0.5) / columns, (torch.div(at, columns, rounding_mode="floor") + 0.5) / rows
    size = torch.full((count,), min(0.5, 2 / max(columns, 2)))
    return logit(torch.stack([x, y, size, size], -1))
