"""DETR on the shared image tower (Carion et al. 2020), and the relatives that make it learn from little data.

``DETR`` reads the tokens of the tower as a map, has no anchors to be tuned and needs no suppression of doubles: each
query answers for one object or for none. ``form="queries"`` is the original; ``form="anchors"``, the default, is
DAB-DETR with sigmoid focal loss, with copies of its queries and with noised truth in training where asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Detections, Head
from mmkit.heads.boxes.matching import Costs
from mmkit.heads.boxes.objects import objects_of, sizes
from mmkit.heads.boxes.truth import Truth, truth_of
from mmkit.nn.boxes import to_corners
from mmkit.nn.sine import of_cells
from mmkit.types import Count, HeadOutput, ModelSpec
from projects.detection.decoders import Anchors, Encoder, Extra, Found, Map, Queries
from projects.detection.denoising import Noised, noised, who_reads_whom
from projects.detection.losses import matched_sums, noised_sums
from projects.detection.matching import match
from projects.detection.names import check_classes

SOFTMAX, FOCAL = Costs(label=1.0), Costs(label=2.0)


class DETR(Head):
    """Finds objects of ``classes``; the targets ``boxes``, ``labels`` and ``box_of`` of the batch say where they are.

    Args:
        spec: of a model whose image tokens are patches.
        classes: names in the order of the labels. ids: as published, of each class; empty for 1, 2, ...
        form: "queries" or "anchors", see the module. loss: "softmax" with a class for nothing, or "focal"; None = what
            the form was published with.
        width, heads, hidden: of the layers; hidden None = 4 x width. encoder, decoder: how many layers.
        queries: the most objects that are found in a picture. norm: whether the tokens are normalised on their way in.
        groups: copies of the queries in training, each of which answers for all objects. denoising: at most so many
            groups of noised truth in training; 0 = none. Both are for anchors.
        layer: which tokens are read, one of ``spec.layers``; None = the tower's output.
        nothing: the weight of the class for nothing. most: objects of a picture that ``predict`` gives.
    """

    def __init__(
        self, spec: ModelSpec, classes: Sequence[str], ids: Sequence[int] = (), *,
        form: Literal["queries", "anchors"] = "anchors", loss: Literal["softmax", "focal"] | None = None,
        width: int = 128, heads: int = 4, hidden: int | None = None, encoder: int = 0, decoder: int = 3,
        queries: int = 30, dropout: float = 0.0, norm: bool = True, groups: int = 1, denoising: int = 0,
        layer: str | None = None, nothing: float = 0.1, most: int = 100,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes, self.ids = check_classes(classes, ids)
        if width % 4 or queries < 1 or groups < 1 or denoising < 0 or decoder < 1:
            raise UserError(
                f"DETR: width={width} must be a multiple of 4, queries={queries}, groups={groups} and "
                f"decoder={decoder} at least 1, denoising={denoising} at least 0"
            )
        if form == "queries" and (groups > 1 or denoising):
            raise UserError('DETR: groups and denoising need form="anchors"')
        self.loss = loss or ("softmax" if form == "queries" else "focal")
        if self.loss == "softmax" and denoising:
            raise UserError('DETR: denoising needs loss="focal", in which a query can be called nothing')
        self.spec, self.layer, self.nothing, self.most = spec, layer, nothing, most
        self.reads_layers = () if layer is None else (layer,)
        self.queries, self.groups, self.denoising = queries, groups, denoising
        self.costs = SOFTMAX if self.loss == "softmax" else FOCAL
        sides: dict[str, Any] = {"width": width, "heads": heads, "hidden": hidden or 4 * width, "dropout": dropout}
        self.project = nn.Linear(spec.layer_width(layer), width)
        self.norm = nn.LayerNorm(width) if norm else None
        self.encoder = Encoder(encoder, **sides)
        outputs = len(self.classes) + (self.loss == "softmax")
        self.decoder: Queries | Anchors = (
            Queries(queries, outputs, depth=decoder, **sides) if form == "queries"
            else Anchors(queries, outputs, depth=decoder, groups=groups, **sides)
        )  # fmt: skip
        self.noised = nn.Embedding(len(self.classes), width) if denoising else None

    # ---- what is seen ------------------------------------------------------------------------------------------

    def map_of(self, f: Features) -> Map:
        """The tokens of the patches as a map, projected."""
        image = f.image if self.layer is None else f.image_layers((self.layer,))[self.layer]
        grid = self.spec.grid(f.batch.pixels.shape[2:], self.layer)
        if len(grid) != 2:
            raise UserError("DETR reads pictures, and these are clips")
        cells = self.project(image.x[:, image.x.shape[1] - grid[0] * grid[1] :])
        if self.norm is not None:
            cells = self.norm(cells)
        if f.batch.pixel_mask is None:
            whole = torch.ones(1, *grid, dtype=torch.bool, device=cells.device)
            return Map(cells, of_cells(whole, cells.shape[-1]).to(cells.dtype), None)
        real = F.interpolate(f.batch.pixel_mask[:, None].float(), size=grid)[:, 0] > 0
        return Map(cells, of_cells(real, cells.shape[-1]).to(cells.dtype), real.flatten(1))

    def find(self, f: Features, extra: Extra | None = None) -> Found:
        """What all layers say."""
        return self.decoder(self.encoder(self.map_of(f)), extra)

    @torch.no_grad()
    def predict(self, f: Features) -> Detections:
        """The best ``most`` of each picture, by score, best first; in pixels of the batch's picture."""
        found = self.find(f)
        logits, boxes = found.logits[-1, :, : self.queries], found.boxes[-1, :, : self.queries]
        if self.loss == "softmax":
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            best = scores.topk(min(self.most, scores.shape[1]), 1)
            query, labels = best.indices, labels.gather(1, best.indices)
        else:
            best = logits.sigmoid().flatten(1).topk(min(self.most, logits[0].numel()), 1)
            query, labels = best.indices // logits.shape[-1], best.indices % logits.shape[-1]
        chosen = to_corners(boxes.gather(1, query[..., None].expand(-1, -1, 4)))
        of = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(query)
        pixels = chosen * sizes(f.batch).repeat(1, 2)[:, None]
        return Detections(pixels.flatten(0, 1), best.values.flatten(), labels.flatten(), of.flatten())

    # ---- what is learned ---------------------------------------------------------------------------------------

    def forward(self, f: Features) -> HeadOutput:
        """Parts: ``label``, ``box`` (L1) and ``giou``, of all layers. Logs: of the last, IoU and right classes.

        box and giou are means over boxes; label is one too with focal loss, where a picture without boxes counts as
        one; with softmax over the queries' weights, as published.
        """
        truth = truth_of(f)
        noise, extra = self._noised(f, truth)
        found = self.find(f, extra)
        with torch.autocast(found.boxes.device.type, enabled=False):
            total = found.boxes.shape[2] - (0 if extra is None else extra.boxes.shape[1])
            groups = total // self.queries
            own = Found(found.logits[:, :, :total], found.boxes[:, :, :total])
            matches = match(own, truth, self.costs, "softmax" if self.loss == "softmax" else "focal", groups)
            sums, iou = matched_sums(own, truth, matches, self.nothing if self.loss == "softmax" else None, groups)
            if noise is not None:
                sums = sums.plus(
                    noised_sums(Found(found.logits[:, :, total:], found.boxes[:, :, total:]), truth, noise)
                )
            elif self.noised is not None and self.training:  # each parameter has a gradient, as other processes need
                sums = sums._replace(label=sums.label + 0 * self.noised.weight.sum())
            counts = self._counts(truth.counts)
            parts = {
                name: (weight * value / (counts[name] or 1.0), counts[name])
                for name, weight, value in zip(
                    ("label", "box", "giou"), (self.costs.label, self.costs.box, self.costs.giou), sums, strict=True
                )
            }
            answered = int(truth.counts.clamp(max=self.queries).sum()) * groups
            last = slice(len(matches.layer) - answered, None)
            said = own.logits[-1, matches.picture[last], matches.query[last], : len(self.classes)].argmax(-1)
            right = said == truth.labels[matches.picture[last], matches.box[last]]
            pairs = max(1, len(right))
            logs = {"iou": (iou[last].sum() / pairs, len(right)), "right": (right.float().sum() / pairs, len(right))}
        return HeadOutput(parts=parts, logs=logs)

    def counts(self, f: Features) -> Mapping[str, Count]:
        """Boxes; see ``forward``."""
        return self._counts(torch.bincount(objects_of(f).of, minlength=len(f.batch)).cpu())

    def _counts(self, boxes: Tensor) -> dict[str, float]:
        if self.loss == "softmax":
            answered = boxes.clamp(max=self.queries).sum().item() * self.groups
            queries = len(boxes) * self.queries * self.groups
            label = (answered + (queries - answered) * self.nothing) / self.groups
        else:
            label = boxes.clamp(min=1).sum().item()
        return {"label": float(label), "box": float(boxes.sum()), "giou": float(boxes.sum())}

    def _noised(self, f: Features, truth: Truth) -> tuple[Noised | None, Extra | None]:
        """The noised queries of a training step, and the same as the decoder takes them."""
        if self.noised is None or not self.training:
            return None, None
        noise = noised(truth, f.random("denoising"), len(self.classes), self.denoising)
        if noise is None:
            return None, None
        total = self.queries * self.groups
        return noise, Extra(self.noised(noise.labels), noise.boxes, who_reads_whom(noise, total, self.queries))
