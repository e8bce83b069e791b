"""GLIP as a head (Li et al. 2022, https://arxiv.org/abs/2112.03857) on the shared towers: detection as grounding.

A prompt is read beside the picture, each reading the other in several layers; then each cell says of each word how much
it is meant, and where the object is. ``asked`` makes of it a detector of any phrases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Detections, Head
from mmkit.heads.boxes.objects import Objects, objects_of
from mmkit.nn.boxes import batched_nms, giou_pairs
from mmkit.prompt import Prompt
from mmkit.types import Count, HeadOutput, ModelSpec
from projects.grounding.asked import Asked, Said, located
from projects.grounding.assigning import anchors_of, assigned, centerness
from projects.grounding.glip_layers import Alignment, FusionLayer, Levels
from projects.grounding.guessing import guessed, near_any
from projects.grounding.layers import Words
from projects.grounding.losses import focal
from projects.grounding.merging import phrase_scores

CODER = (10.0, 10.0, 5.0, 5.0)


class Dense(NamedTuple):
    """What all cells say: of words (B, A, L), of their boxes as codes (B, A, 4), how central they are (B, A), float32.

    anchors: (A, 4), what the codes start from; real: (B, A) bool, which cells are picture.
    """

    logits: Tensor
    codes: Tensor
    central: Tensor
    anchors: Tensor
    real: Tensor


class GLIP(Head):
    """Learns from the targets ``boxes``, ``labels`` (phrases of the own prompt), ``box_of`` and ``prompt``.

    Args:
        spec: of a model with ``encode_prompt``, whose image tokens are patches.
        classes: what is asked for where nobody says otherwise. ids: as published, of each; empty for 1, 2, ...
        width: of the cells; words keep the width of their tower. depth: layers of fusion; 0 = late fusion, as GLIP-A.
        read: width of what cells and words read of each other; None = 2 x width, published 8 x. heads, text_heads: of
            these layers.
        scales: of the maps, see ``level``. anchor: side of a cell's square, in strides; published 8, for five levels.
        scale: what is read counts so much at the start; None = 1 / depth, as published. dynamic: whether cells read
            their neighbours by the dynamic head, as published, or by plain convolutions, which are faster.
        nearest: see ``assigned``.
        weights: of the parts ``label``, ``box`` and ``centre``.
        told: weight of a further part, what captions tell of and nobody boxed (``Telling``), from step ``told_after``
            on; 0 = without.
        tokens, phrases: the most of a prompt; more phrases are asked for by chunks.
        score, candidates, overlap, most: the least score of a phrase, the most answers of a prompt before doubles go,
            by how much two of one phrase may overlap, and the most objects of a picture; published 0.05, 1,000 for
            each level, 0.6 and 100.
    """

    sentences = True

    def __init__(
        self, spec: ModelSpec, classes: Sequence[str] = (), ids: Sequence[int] = (), *, width: int = 256,
        depth: int = 6, read: int | None = None, heads: int = 8, text_heads: int = 4,
        scales: Sequence[float] = (2.0, 1.0, 0.5), anchor: float = 4.0, scale: float | None = None,
        dynamic: bool = False, dropout: float = 0.0, nearest: int = 9,
        weights: tuple[float, float, float] = (1.0, 2.0, 1.0), told: float = 0.0, told_after: int = 300,
        tokens: int = 256, phrases: int = 40, score: float = 0.0,
        candidates: int = 1000, overlap: float = 0.6, most: int = 100,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(phrases, nearest, candidates, most) < 1 or depth < 0 or tokens < 4 or anchor <= 0:
            raise UserError(
                f"GLIP: phrases={phrases}, nearest={nearest}, candidates={candidates} and most={most} must be at least "
                f"1, depth={depth} at least 0, tokens={tokens} at least 4, anchor={anchor} above 0"
            )
        if not spec.text_width:
            raise UserError("GLIP: this model reads pictures alone; take one that reads prompts")
        self.classes, self.ids = tuple(classes), tuple(ids) or tuple(range(1, len(classes) + 1))
        self.prompt_tokens, self.prompt_phrases = tokens, phrases
        self.anchor, self.nearest, self.weights = anchor, nearest, weights
        self.told, self.told_after = told, told_after
        self.score, self.candidates, self.overlap, self.most = score, candidates, overlap, most
        self.levels = Levels(spec, width, scales)
        if dynamic and any(a != 2 * b for a, b in pairwise(self.levels.scales)):
            raise UserError(f"GLIP dynamic=True: scales={tuple(scales)}: each must be a half of the one before")
        self.fusion = nn.ModuleList(
            FusionLayer(
                width, spec.text_width, read or 2 * width, heads, text_heads, dropout, scale or 1 / max(1, depth),
                dynamic,
            )
            for _ in range(depth)
        )  # fmt: skip
        self.align = Alignment(width, spec.text_width)
        self.box, self.centre = nn.Linear(width, 4), nn.Linear(width, 1)
        self.size = nn.Parameter(torch.ones(len(self.levels.scales)))
        self.coder = BoxCoder(CODER)
        for part in (self.box, self.centre):
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.bias)

    # ---- what is seen ------------------------------------------------------------------------------------------

    def words_of(self, f: Features, prompt: Prompt) -> Words:
        """The words of prompts (B, L, D) before they have read the picture."""
        return Words(f.model.encode_prompt(prompt).x, prompt.mask, prompt.reads, prompt.positions)

    def find(self, f: Features, prompt: Prompt) -> Dense:
        """What all cells say. One prompt may be for all pictures."""
        seen, text = f.memo(("glip maps", id(self)), lambda f: self.levels(f)), self.words_of(f, prompt)
        for layer in self.fusion:
            seen, text = layer(seen, text)
        counts = self._counts(f)
        sizes = torch.cat([size.expand(count) for size, count in zip(self.size, counts, strict=True)])[:, None]
        with torch.autocast(seen.x.device.type, enabled=False):
            x = seen.x.float()
            return Dense(
                self.align(x, text.x), self.box(x) * sizes, self.centre(x)[..., 0], self.anchors(f), self.real(f)
            )

    def anchors(self, f: Features) -> Tensor:
        """(A, 4) corners of the squares of all cells, in pixels of the batch's pictures."""
        shapes = self.levels.shapes(f.batch.pixels.shape[2:])
        return anchors_of(shapes, self.levels.strides, self.anchor, f.batch.pixels.device)

    def real(self, f: Features) -> Tensor:
        """(B, A) bool: which cells are picture."""
        real = self.levels.real(f)
        if real is not None:
            return real
        return torch.ones(len(f.batch), sum(self._counts(f)), dtype=torch.bool, device=f.batch.pixels.device)

    def _counts(self, f: Features) -> list[int]:
        """The cells of each level."""
        return [high * wide for high, wide in self.levels.shapes(f.batch.pixels.shape[2:])]

    def boxes(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Codes (T, 4) of anchors (T, 4) -> corners (T, 4)."""
        return self.coder.decode_single(codes, anchors)

    # ---- what is found -----------------------------------------------------------------------------------------

    def asked(self, prompts: Sequence[Prompt], classes: Sequence[str], ids: Sequence[int] = ()) -> Asked:
        """A detector of these phrases. prompts: of one row each, whose phrases are numbered through."""
        return Asked(self, prompts, classes, ids)

    def locate(self, f: Features, prompt: Prompt) -> Detections:
        """The boxes of each phrase of each picture's own prompt, best first."""
        return located(self, f, prompt)

    def predict(self, f: Features) -> Detections:
        """Always a UserError: it has to be asked for something."""
        raise UserError("this head finds what words ask for: say what, by --text or --classes")

    def said(self, f: Features, prompt: Prompt, spells: Tensor, seen: Dense | None = None) -> list[Said]:
        """What one prompt, for all pictures, finds in each: the root of phrase score times centrality (``Asked``)."""
        dense = self.find(f, prompt) if seen is None else seen
        phrases = phrase_scores(dense.logits, spells) * dense.real[..., None]
        scores = (phrases * dense.central.sigmoid()[..., None]).sqrt().masked_fill(phrases <= self.score, 0.0)
        return [self._said(*one, dense.anchors) for one in zip(scores, dense.codes, strict=True)]

    def _said(self, scores: Tensor, codes: Tensor, anchors: Tensor) -> Said:
        """Of one picture and prompt: scores (A, F), 0 for what is not said, and codes (A, 4)."""
        best, at = scores.flatten().topk(min(self.candidates, scores.numel()))
        at = at[best > 0]
        cell, phrase = at // scores.shape[1], at % scores.shape[1]
        boxes = self.boxes(codes[cell], anchors[cell])
        kept = batched_nms(boxes, best[: len(at)], phrase, self.overlap)[: self.most]
        return Said(boxes[kept], best[kept], phrase[kept])

    # ---- what is learned ---------------------------------------------------------------------------------------

    def forward(self, f: Features) -> HeadOutput:
        """Parts: ``label``, focal loss over words, by anchors that answer for a box, of which a picture without any has
        one; ``box``, GIoU by centrality; ``centre``, cross-entropy over anchors that answer; ``told``, see there.
        """
        prompt, objects = Prompt(*f.target("prompt")), objects_of(f)
        dense = self.find(f, prompt)
        with torch.autocast(dense.codes.device.type, enabled=False):
            owner = self.owners(f, objects)
            picture, cell = (owner >= 0).nonzero().unbind(1)
            box = owner[picture, cell]
            true = torch.zeros_like(dense.logits)
            true[picture, cell] = wanted(f, prompt, objects)[box].float()
            boxes, anchors = objects.boxes[box], dense.anchors[cell]
            share = centerness(boxes, anchors)
            away = 1 - giou_pairs(self.boxes(dense.codes[picture, cell], anchors), boxes)
            sums = {
                "label": dense.logits.new_zeros(()),
                "box": (away * share).sum(),
                "centre": F.binary_cross_entropy_with_logits(dense.central[picture, cell], share, reduction="sum"),
            }
            counted = (prompt.mask[:, None] & dense.real[..., None]).float()
            weights = dict(zip(sums, self.weights, strict=True))
            if self.told:
                guesses = self._guesses(f, dense, prompt, objects, owner)
                sums["told"] = (focal(dense.logits, (guesses > 0).float()) * guesses).sum()
                weights["told"] = self.told if f.step >= self.told_after else 0.0
                counted = counted * (guesses == 0)
            sums["label"] = (focal(dense.logits, true) * counted).sum()
            counts = self._count(f, owner, share)
        parts = {name: (weights[name] * sums[name] / counts[name].clamp(min=1e-6), counts[name]) for name in sums}
        missed = len(objects.boxes) - len(box.unique())
        return HeadOutput(parts=parts, logs={"missed": (missed / max(1, len(objects.boxes)), len(objects.boxes))})

    @torch.no_grad()
    def _guesses(self, f: Features, dense: Dense, prompt: Prompt, objects: Objects, owner: Tensor) -> Tensor:
        """(B, A, L): where the words of phrases are that captions tell of and nobody boxed, as the head has it; each
        phrase counts 1, split among the anchors that answer for it.
        """
        of, phrase = f.target("told").unbind(1)
        spells = spelled(f, prompt, of, phrase).float()
        said = (dense.logits[of].sigmoid() @ spells[..., None])[..., 0] / spells.sum(-1, keepdim=True).clamp(min=1)
        boxes = self.boxes(dense.codes.flatten(0, 1), dense.anchors.repeat(len(owner), 1)).view_as(dense.codes)
        taken = ~dense.real | (owner >= 0) | near_any(boxes, objects.boxes, objects.of)
        cells = guessed(said * dense.central[of].sigmoid(), of, boxes, taken)
        rows = (cells >= 0).nonzero()[:, 0]
        guess = assigned(
            boxes[of[rows], cells[rows]], of[rows], dense.anchors, self._counts(f), dense.real, self.nearest
        )
        picture, cell = ((guess >= 0) & (owner < 0)).nonzero().unbind(1)
        own = guess[picture, cell]
        share = 1 / torch.bincount(own, minlength=len(rows)).clamp(min=1)[own]
        made = torch.zeros_like(dense.logits)
        made[picture, cell] = spells[rows[own]] * share[:, None]
        return made

    def owners(self, f: Features, objects: Objects) -> Tensor:
        """(B, A) int64: which of the objects each anchor answers for, -1 for none."""
        return assigned(objects.boxes, objects.of, self.anchors(f), self._counts(f), self.real(f), self.nearest)

    def counts(self, f: Features) -> Mapping[str, Count]:
        """Anchors that answer, and their centrality; see ``forward``."""
        objects = objects_of(f)
        owner = self.owners(f, objects)
        picture, cell = (owner >= 0).nonzero().unbind(1)
        return self._count(f, owner, centerness(objects.boxes[owner[picture, cell]], self.anchors(f)[cell]))

    def _count(self, f: Features, owner: Tensor, share: Tensor) -> dict[str, Tensor]:
        each = (owner >= 0).sum(1)
        found = {"label": each.clamp(min=1).sum().float(), "box": share.sum(), "centre": each.sum().float()}
        return found | ({"told": share.new_tensor(len(f.target("told")))} if self.told else {})


def spelled(f: Features, prompt: Prompt, of: Tensor, phrases: Tensor) -> Tensor:
    """(N, L) bool: which tokens of the prompts of pictures ``of`` (N,) spell these of their phrases (N,)."""
    spells: Tensor | None = f.batch.targets.get("spells")
    return prompt.phrase[of] == phrases[:, None] if spells is None else spells[of, phrases]


def wanted(f: Features, prompt: Prompt, objects: Objects) -> Tensor:
    """(N, L) bool: which tokens spell each object; where a box stands under several phrases, those of all."""
    own = spelled(f, prompt, objects.of, objects.labels)
    same = (objects.boxes[:, None] == objects.boxes).all(-1) & (objects.of[:, None] == objects.of)
    return (same.float() @ own.float()) > 0
