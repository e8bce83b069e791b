"""Grounding DINO as a head (Liu et al. 2023, https://arxiv.org/abs/2303.05499) on the shared towers.

It finds what words ask for: a prompt is read beside the picture, and each query answers with a box and with how much
each word is meant. ``asked`` makes of it a detector of any phrases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Detections, Head
from mmkit.heads.boxes.matching import Costs
from mmkit.heads.boxes.objects import objects_of, sizes
from mmkit.heads.boxes.truth import truth_of
from mmkit.nn.boxes import to_corners
from mmkit.nn.sine import of_cells
from mmkit.prompt import Prompt
from mmkit.types import Count, HeadOutput, ModelSpec
from projects.grounding.asked import Asked, Said, located
from projects.grounding.layers import Decoder, EnhancerLayer, Found, Map, Selected, Selection, Words
from projects.grounding.levels import Levels
from projects.grounding.losses import guesses_of, matches_of, sums
from projects.grounding.merging import phrase_scores


class GroundingDINO(Head):
    """Learns from the targets ``boxes``, ``labels`` (phrases of the own prompt), ``box_of`` and ``prompt``.

    Args:
        spec: of a model with ``encode_prompt``, whose image tokens are patches.
        classes: what is asked for where nobody says otherwise. ids: as published, of each; empty for 1, 2, ...
        width, heads, hidden: of the layers; hidden None = 4 x width. enhancer, decoder: how many layers.
        queries: the most objects that one prompt finds in a picture. groups: copies of them in training, each of
            which answers for all objects.
        layers: of the tower, whose maps are read with ``coarser`` further ones (``Levels``, as published); none = its
            output, as one map.
        points: 0 = plain attention over all cells; else deformable attention, as published with 4.
        scaled: see ``Align``. scale: what cells and words read of each other counts so much at the start; published
            1e-4. side: of the box that a cell begins with; published 0.05, for pictures of many cells.
        tokens, phrases: the most of a prompt; more phrases are asked for by chunks.
        most: objects of a picture that ``predict`` gives. one_answer: each query gives its best phrase alone.
        told: whether it learns from captions of what nobody boxed too (the target ``told`` of ``Telling``).
        sentences: whether it learns from whole captions, so that phrases are asked for within theirs.
    """

    def __init__(
        self, spec: ModelSpec, classes: Sequence[str] = (), ids: Sequence[int] = (), *, width: int = 128,
        heads: int = 4, hidden: int | None = None, enhancer: int = 2, decoder: int = 3, queries: int = 30,
        points: int = 0, scaled: bool = True, scale: float = 0.1, side: float = 0.05, dropout: float = 0.0,
        tokens: int = 256, phrases: int = 40, most: int = 100, one_answer: bool = False, told: bool = False,
        sentences: bool = False, groups: int = 1, layers: Sequence[str] = (), coarser: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % 4 or heads % 2 or min(queries, enhancer, decoder, phrases, groups) < 1 or tokens < 4:
            raise UserError(
                f"GroundingDINO: width={width} must be a multiple of 4, heads={heads} of 2, queries={queries}, "
                f"enhancer={enhancer}, decoder={decoder}, phrases={phrases} and groups={groups} at least 1, "
                f"tokens={tokens} at least 4"
            )
        if not spec.text_width:
            raise UserError("GroundingDINO: this model reads pictures alone; take one that reads prompts")
        self.spec, self.queries, self.most, self.one_answer, self.told = spec, queries, most, one_answer, told
        self.classes, self.ids = tuple(classes), tuple(ids) or tuple(range(1, len(classes) + 1))
        self.prompt_tokens, self.prompt_phrases, self.sentences = tokens, phrases, sentences
        hidden, self.reads_layers = hidden or 4 * width, tuple(layers)
        self.text = nn.Linear(spec.text_width, width)
        self.levels = Levels(spec, width, layers, coarser) if layers else None
        self.image = None if layers else nn.Linear(spec.image_width, width)
        self.norm = None if layers else nn.LayerNorm(width)
        maps = {"levels": 1 if self.levels is None else self.levels.count, "points": points}
        self.enhancer = nn.ModuleList(
            EnhancerLayer(width, heads, hidden, dropout, **maps, scale=scale) for _ in range(enhancer)
        )
        self.selection = Selection(width, scaled, side)
        self.decoder = Decoder(queries, decoder, width, heads, hidden, dropout, **maps, scaled=scaled, groups=groups)
        self.costs = Costs(label=2.0)
        self.weights = Costs(label=1.0 if scaled else 2.0)

    # ---- what is seen ------------------------------------------------------------------------------------------

    def map_of(self, f: Features) -> Map:
        """The tokens of the patches as a map, projected; once for all prompts."""
        made: Map = f.memo(("grounding map", id(self)), lambda f: self._map(f))
        return made

    def _map(self, f: Features) -> Map:
        if self.levels is not None:
            made: Map = self.levels(f)
            return made
        assert self.image is not None
        assert self.norm is not None
        grid = self.spec.grid(f.batch.pixels.shape[2:])
        if len(grid) != 2:
            raise UserError("GroundingDINO reads pictures, and these are clips")
        cells = self.norm(self.image(f.image.x[:, self.spec.class_tokens :]))
        if f.batch.pixel_mask is None:
            whole = torch.ones(1, *grid, dtype=torch.bool, device=cells.device)
            return Map(cells, of_cells(whole, cells.shape[-1], 20.0).to(cells.dtype), ((grid[0], grid[1]),), None)
        real = F.interpolate(f.batch.pixel_mask[:, None].float(), size=grid)[:, 0] > 0
        places = of_cells(real, cells.shape[-1], 20.0).to(cells.dtype)
        return Map(cells, places, ((grid[0], grid[1]),), real.flatten(1))

    def words_of(self, f: Features, prompt: Prompt) -> Words:
        """The words of prompts (B, L, D) before they have read the picture."""
        text = f.model.encode_prompt(prompt)
        return Words(self.text(text.x), prompt.mask, prompt.reads, prompt.positions)

    def find(self, f: Features, prompt: Prompt) -> tuple[Found, Selected]:
        """What all layers say, and what the cells said that the queries begin with. One prompt may be for all."""
        seen, text = self.map_of(f), self.words_of(f, prompt)
        if len(text.x) < len(seen.cells):
            text = Words(*(part.expand(len(seen.cells), *part.shape[1:]) for part in text))
        for layer in self.enhancer:
            seen, text = layer(seen, text)
        start = self.selection(seen, text, self.queries)
        return self.decoder(start, seen, text), start

    # ---- what is found -----------------------------------------------------------------------------------------

    def asked(self, prompts: Sequence[Prompt], classes: Sequence[str], ids: Sequence[int] = ()) -> Asked:
        """A detector of these phrases. prompts: of one row each, whose phrases are numbered through."""
        return Asked(self, prompts, classes, ids)

    def locate(self, f: Features, prompt: Prompt) -> Detections:
        """The boxes of each phrase of each picture's own prompt, best first."""
        return located(self, f, prompt)

    def said(
        self, f: Features, prompt: Prompt, spells: Tensor, seen: tuple[Found, Selected] | None = None
    ) -> list[Said]:  # fmt: skip
        """What one prompt, for all pictures, finds in each; see ``Asked``."""
        found, _ = self.find(f, prompt) if seen is None else seen
        scores = phrase_scores(found.logits[-1], spells)
        if found.real is not None:
            scores = scores * found.real[..., None]
        boxes = to_corners(found.boxes[-1]) * sizes(f.batch).repeat(1, 2)[:, None]
        return [self._said(*one) for one in zip(scores, boxes, strict=True)]

    def _said(self, scores: Tensor, boxes: Tensor) -> Said:
        """Of one picture and prompt: scores (Q, F), boxes (Q, 4)."""
        if self.one_answer:
            best, phrase = scores.max(-1)
            query = torch.arange(len(scores), device=scores.device)
        else:
            best, at = scores.flatten().topk(min(self.most, scores.numel()))
            query, phrase = at // scores.shape[1], at % scores.shape[1]
        return Said(boxes[query], best, phrase)

    def predict(self, f: Features) -> Detections:
        """Always a UserError: it has to be asked for something."""
        raise UserError("this head finds what words ask for: say what, by --text or --classes")

    # ---- what is learned ---------------------------------------------------------------------------------------

    def forward(self, f: Features) -> HeadOutput:
        """Parts: ``label`` over words, ``box`` (L1) and ``giou``, of all layers and of the cells that were chosen.

        box and giou are means over boxes; label too, where a picture without boxes counts as one.
        """
        prompt = Prompt(*f.target("prompt"))
        truth = truth_of(f)
        found, start = self.find(f, prompt)
        with torch.autocast(found.boxes.device.type, enabled=False):
            groups = len(found.boxes) // len(self.decoder.layers)
            logits, boxes = (
                torch.cat([one[None].expand(groups, *one.shape), each])
                for one, each in ((start.logits, found.logits), (start.boxes, found.boxes))
            )
            every = Found(logits, boxes, found.real)
            matches = matches_of(every, prompt, truth, self.costs)
            told = f.target("told") if self.told else None
            guesses = None if told is None else guesses_of(every, prompt, truth, matches, told)
            total, iou = sums(every, prompt, truth, matches, guesses, told)
            counts = self._counts(f, truth.counts)
            parts = {
                name: (weight * value / groups / (counts[name] or 1.0), counts[name])
                for name, weight, value in zip(
                    ("label", "box", "giou"), (self.weights.label, self.weights.box, self.weights.giou), total,
                    strict=True,
                )
            }  # fmt: skip
            last = matches.layer >= len(every.boxes) - groups
        return HeadOutput(parts=parts, logs={"iou": (iou[last].sum() / max(1, int(last.sum())), int(last.sum()))})

    def counts(self, f: Features) -> Mapping[str, Count]:
        """Boxes; see ``forward``."""
        return self._counts(f, torch.bincount(objects_of(f).of, minlength=len(f.batch)).cpu())

    def _counts(self, f: Features, boxes: Tensor) -> dict[str, float]:
        total, named = float(boxes.sum()), boxes.cpu()
        if self.told:
            named = named + torch.bincount(f.target("told")[:, 0], minlength=len(f.batch)).cpu()
        return {"label": float(named.clamp(min=1).sum()), "box": total, "giou": total}
