"""DETR's step from equal feature maps, losses of all layers and backward included, beside transformers' own.

    python benchmarks/detection.py --setting paper --steps 6
    python benchmarks/detection.py --setting small --threads 1 --steps 20 --json detection.json

Both begin at the backbone's map and have the same weights, the same boxes and no dropout; losses and gradients of both
are compared before anything is measured. They take their steps in turns; what counts is the ratio of paired steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import torch
from paired import Clock, Work, command, in_turns, random_truth
from torch import Tensor, nn
from transformers import DetrConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss
from transformers.models.detr.modeling_detr import DetrDecoder, DetrEncoder, DetrMLPPredictionHead

from mmkit.convert.tables.table import read
from mmkit.heads.boxes.matching import Costs
from mmkit.heads.boxes.truth import Truth
from mmkit.nn.sine import of_cells
from projects.detection import tables
from projects.detection.decoders import Encoder, Map, Queries
from projects.detection.losses import matched_sums
from projects.detection.matching import match

WEIGHTS = {"ce": 1.0, "bbox": 5.0, "giou": 2.0}


@dataclass(frozen=True)
class Setting:
    """Sizes of one comparison. boxes: of a picture, at most."""

    batch: int
    grid: tuple[int, int]
    channels: int
    width: int
    heads: int
    hidden: int
    layers: int
    queries: int
    classes: int
    boxes: int


SETTINGS = {
    "paper": Setting(2, (25, 34), 2048, 256, 8, 2048, 6, 100, 91, 20),  # R50 at 800 x 1,066 pixels
    "small": Setting(32, (8, 8), 128, 128, 4, 256, 3, 30, 200, 3),
}


class Theirs(nn.Module):
    """DETR of transformers after its backbone, layer by layer, as ``auxiliary_loss`` would hand normed states on."""

    def __init__(self, s: Setting) -> None:
        super().__init__()
        made = DetrConfig(
            d_model=s.width, encoder_layers=s.layers, decoder_layers=s.layers, encoder_attention_heads=s.heads,
            decoder_attention_heads=s.heads, encoder_ffn_dim=s.hidden, decoder_ffn_dim=s.hidden, dropout=0.0,
            num_queries=s.queries, num_labels=s.classes, attn_implementation="sdpa", use_timm_backbone=False,
            use_pretrained_backbone=False,
        )  # fmt: skip
        self.model = nn.Module()
        self.model.encoder, self.model.decoder = DetrEncoder(made), DetrDecoder(made)
        self.model.query_position_embeddings = nn.Embedding(s.queries, s.width)
        self.model.input_projection = nn.Conv2d(s.channels, s.width, 1)
        self.class_labels_classifier = nn.Linear(s.width, s.classes + 1)
        self.bbox_predictor = DetrMLPPredictionHead(s.width, s.width, 4, 3)
        self.criterion = ImageLoss(HungarianMatcher(1, 5, 2), s.classes, 0.1, ["labels", "boxes"])

    def forward(self, feature: Tensor, places: Tensor, truth: list[dict[str, Tensor]]) -> Tensor:
        """The loss."""
        cells = self.model.input_projection(feature).flatten(2).mT
        queries = self.model.query_position_embeddings.weight.expand(len(cells), -1, -1)
        at = places.expand(len(cells), -1, -1)
        memory = self.model.encoder(cells, spatial_position_embeddings=at).last_hidden_state
        states, x = [], torch.zeros_like(queries)
        for layer in self.model.decoder.layers:
            x = layer(x, None, at, queries, memory)
            states.append(self.model.decoder.layernorm(x))
        logits = self.class_labels_classifier(torch.stack(states))
        boxes = self.bbox_predictor(torch.stack(states)).sigmoid()
        auxiliary = [{"logits": a, "pred_boxes": b} for a, b in zip(logits[:-1], boxes[:-1], strict=True)]
        said = self.criterion({"logits": logits[-1], "pred_boxes": boxes[-1], "auxiliary_outputs": auxiliary}, truth)
        return torch.stack([WEIGHTS[name.split("_")[1]] * value for name, value in said.items()]).sum()


class Ours(nn.Module):
    """The same of ``projects/detection``."""

    def __init__(self, s: Setting) -> None:
        super().__init__()
        sides = {"width": s.width, "heads": s.heads, "hidden": s.hidden, "dropout": 0.0}
        self.project = nn.Linear(s.channels, s.width)
        self.encoder = Encoder(s.layers, **sides)
        self.decoder = Queries(s.queries, s.classes + 1, depth=s.layers, **sides)

    def forward(self, feature: Tensor, places: Tensor, truth: Truth) -> Tensor:
        """The loss."""
        found = self.decoder(self.encoder(Map(self.project(feature.flatten(2).mT), places, None)))
        matches = match(found, truth, Costs(label=1.0), "softmax")
        sums, _ = matched_sums(found, truth, matches, 0.1, 1)
        boxes = int(truth.counts.sum())
        queries = found.boxes.shape[1] * found.boxes.shape[2]
        return sums.label / (boxes + 0.1 * (queries - boxes)) + 5 * sums.box / boxes + 2 * sums.giou / boxes


def inputs(s: Setting, seed: int) -> tuple[Tensor, Tensor, Truth, list[dict[str, Tensor]]]:
    """A feature map, positions, and boxes in both forms."""
    g = torch.Generator().manual_seed(seed)
    truth, labels = random_truth(g, s.batch, s.boxes, s.classes)
    feature = torch.randn(s.batch, s.channels, *s.grid, generator=g)
    places = of_cells(torch.ones(1, *s.grid, dtype=torch.bool), s.width)
    return feature, places, truth, labels


def measure(s: Setting, steps: int, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Median seconds of both, the median ratio of paired steps, and how far losses and gradients are apart."""
    torch.manual_seed(0)
    theirs, ours = Theirs(s), Ours(s)
    rows = tables.rows("modules", s.layers, s.layers)
    own = {name: value for name, value in theirs.state_dict().items() if not name.startswith("criterion")}
    ours.load_state_dict({name.removeprefix(tables.HEAD): value for name, value in read(rows, own).items()})

    def pair(step: int) -> tuple[Work, Work]:
        feature, places, truth, labels = inputs(s, step)
        return partial(ours, feature, places, truth), partial(theirs, feature, places, labels)

    for work in pair(0):
        work().backward()
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    wanted = read(rows, grads)[f"{tables.HEAD}decoder.classes.weight"]
    got = ours.decoder.classes.weight.grad
    apart = float((got - wanted).abs().max() / wanted.abs().max())
    assert apart < 1e-3, f"gradients differ by {apart}"
    return {**in_turns(pair, (ours, theirs), steps, clock), "gradients_apart": apart}


if __name__ == "__main__":
    command(__doc__, SETTINGS, "paper", measure)
