"""Examples of what a model does: the nearest captions of some pictures, the nearest pictures of some captions.

On one process alone; nothing here waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from PIL import Image
from torch import Tensor

from mmkit.data.image_io import load_image
from mmkit.data.records import Source
from mmkit.errors import UserError
from mmkit.evals.retrieval import Pairs
from mmkit.evals.zeroshot import ZeroShotResult, sorted_top
from mmkit.predictor import Predictor, TokenBank, moved

THUMBNAIL = 160
"""The longer side of a picture in the report, at most, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One answer. similarity: cosine; probability: of the matching head, where there is one; right: relevant."""

    text: str
    image: Image.Image | None
    similarity: float
    probability: float | None
    right: bool


@dataclass(frozen=True, kw_only=True)
class Query:
    """A picture or a text and its nearest answers, best first. place: of the first right answer, from 1."""

    text: str
    image: Image.Image | None
    place: int
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """images, texts: among how many the nearest were sought. rerank_top: how many the matching head re-ordered."""

    images: int
    texts: int
    rerank_top: int | None
    by_picture: tuple[Query, ...]
    by_text: tuple[Query, ...]


@dataclass(frozen=True, kw_only=True)
class Classified:
    """A picture, its class, and the classes it was taken for, best first."""

    image: Image.Image
    label: str
    best: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the first is its class."""
        return self.best[0] == self.label


def collect_examples(
    predictor: Predictor, source: Source, *, shown: int = 6, top: int = 5, pool: int = 500, rerank_top: int = 16,
    seed: int = 0,
) -> Examples:  # fmt: skip
    """The ``top`` nearest captions of ``shown`` pictures and the other way, among the first ``pool`` records.

    Where the model can match, the best ``rerank_top`` are re-ordered by it. ``seed`` decides which are shown.
    """
    pairs = Pairs.read(_First(source, pool))
    if not pairs.rows:
        raise UserError("the report's source holds no records")
    relevance = pairs.relevance()
    held = [moved(t, "cpu") for t in predictor.image_tokens((source[row] for row in pairs.rows), 64)]
    images = torch.cat([predictor.embed_image(moved(tokens, predictor.device)) for tokens in held])
    texts = predictor.encode_text(pairs.texts)
    bank = TokenBank(predictor.text_tokens(pairs.texts)) if predictor.can_match() else None

    def score(image: Sequence[int], text: Tensor) -> Tensor:
        assert bank is not None
        rows = torch.arange(len(image))
        tokens = [moved(type(held[0])(*(x if x is None else x[i % 64][None] for x in held[i // 64])), "cpu") for i in image]
        return torch.cat(
            [
                predictor.match_pairs(moved(one, predictor.device), bank, torch.stack([torch.zeros(1).long(), text[i : i + 1]], 1))
                for i, one in zip(rows.tolist(), tokens, strict=True)
            ]
        )

    raise NotImplementedError


@dataclass(frozen=True)
class _First:
    source: Source
    count: int
