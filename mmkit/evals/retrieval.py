"""Image-text retrieval both ways, by the joint space alone and with re-ranking by the matching head.

ALBEF, section 5 (the usual R@k of Flickr30k and COCO). A picture may have many captions, all relevant to it; captions
that are equal after lower-casing and joining of white space are relevant to each other's pictures too, because no
model can tell them apart. Records with one ``image_id`` are one picture. Re-ranking takes each query's best k by the
joint space and orders these by the matching head; the others keep their places behind.

A model without a joint space judges every pair by its matching head, which costs pictures x texts passes.

Each picture is read and encoded once. Similarities are made in chunks; nothing of size pictures x texts is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mmkit.data.records import Source, described
from mmkit.errors import UserError
from mmkit.evals.common import (
    encode_texts,
    finite,
    gather_by_index,
    make_source,
    needs_of,
    nested,
    own_records,
    own_units,
    together,
)
from mmkit.evals.held import HeldTokens, Hold
from mmkit.evals.recall import KS, Relevance, chance_at, first_relevant_rank, recall_at, top_k
from mmkit.nn.gather import gather
from mmkit.predictor import Predictor, TokenBank

if TYPE_CHECKING:
    from rich.table import Table

Ways = Literal["t2i", "i2t"]
NAMES = {"t2i": "text to image", "i2t": "image to text"}
WORDS = {"joint space": "joint space", "matching head": "matching head, every pair"}


@dataclass(frozen=True)
class Pairs:
    """The pictures and texts of a source. rows: the record of each picture; image_of: the picture of each text."""

    rows: list[int]
    texts: list[str]
    image_of: list[int]

    @classmethod
    def read(cls, source: Source) -> Pairs:
        """Goes through the records once; UserError for one without a caption."""
        images: dict[str, int] = {}
        rows: list[int] = []
        texts: list[str] = []
        image_of: list[int] = []
        for row, (key, image_id, captions) in enumerate(described(source)):
            if not captions:
                raise UserError(f"{key}: no caption; retrieval needs at least one for each picture")
            image = images.setdefault(image_id, len(rows))
            if image == len(rows):
                rows.append(row)
            texts += captions
            image_of += [image] * len(captions)
        return cls(rows, texts, image_of)

    def relevance(self) -> dict[str, Relevance]:
        """For "t2i" the pictures relevant to each text, for "i2t" the texts relevant to each picture."""
        images_of: dict[str, dict[int, None]] = {}
        texts_of: dict[str, list[int]] = {}
        words_of: list[dict[str, None]] = [{} for _ in self.rows]
        words = [" ".join(text.lower().split()) for text in self.texts]
        for text, (word, image) in enumerate(zip(words, self.image_of, strict=True)):
            images_of.setdefault(word, {})[image] = None
            texts_of.setdefault(word, []).append(text)
            words_of[image][word] = None
        t2i = [list(images_of[word]) for word in words]
        i2t = [[text for word in own for text in texts_of[word]] for own in words_of]
        return {"t2i": Relevance.of(t2i, len(self.rows)), "i2t": Relevance.of(i2t, len(self.texts))}


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """recall, rerank: R@k as {"t2i": {1: ...}, "i2t": ...}; chance: of a random order. Rates are 0 to 1.

    by: what ``recall`` was sorted by. held_bytes: image tokens that waited for matching, of all processes.
    """

    images: int
    texts: int
    recall: Mapping[str, Mapping[int, float]]
    chance: Mapping[str, Mapping[int, float]]
    rerank: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    rerank_top: int | None = None
    held_bytes: int = 0
    by: Literal["joint space", "matching head"] = "joint space"

    def metrics(self) -> dict[str, float]:
        """``t2i_r1``, ..., ``i2t_r10``, their mean ``r_mean``, ``rerank.*``, ``images``, ``texts``, ``chance_r1``.

        ``chance_r1`` is that of text to image, ``chance_i2t_r1`` of image to text.
        """
        out = _flat(self.recall) | {f"rerank.{name}": value for name, value in _flat(self.rerank).items()}
        chance = {"chance_r1": self.chance["t2i"][1], "chance_i2t_r1": self.chance["i2t"][1]}
        return out | {"images": self.images, "texts": self.texts} | chance

    def to_json(self) -> dict[str, Any]:
        """The same, nested; ``by``; ``chance`` of every rate; what relevance means."""
        found = nested(self.metrics()) | {"by": self.by, "chance": _flat(self.chance)}
        if "rerank" in found:
            found["rerank"]["top"] = self.rerank_top
            found["held_gib"] = self.held_bytes / 2**30
        note = "a query is answered at k when any relevant candidate is among the first k; equal captions are relevant "
        return found | {"relevance": note + "to each other's pictures"}

    def table(self) -> Table:
        """R@k of both ways, with re-ranking and chance below."""
        from rich.table import Table

        table = Table(title=f"retrieval: {self.images} pictures, {self.texts} texts", title_justify="left")
        table.add_column("")
        for k in KS:
            table.add_column(f"R@{k}", justify="right")
        rows = {WORDS[self.by]: self.recall, f"re-ranked top {self.rerank_top}": self.rerank, "chance": self.chance}
        for way, words in NAMES.items():
            for name, values in rows.items():
                if values:
                    rates = (f"{values[way][k]:.1%}" for k in KS)
                    table.add_row(f"{words}, {name}", *rates, end_section=name == "chance")
        return table


def _flat(values: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    out = {f"{way}_r{k}": value for way, at in values.items() for k, value in at.items()}
    return out | {"r_mean": sum(out.values()) / len(out)} if out else out


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Evaluates retrieval over the records of ``source`` (a Source, or a partial that makes one).

    rerank_top: how many candidates of each query the matching head re-orders (published: 128 on Flickr30k, 256 on
    COCO); None = not at all. score: what it orders by, see ``Predictor.match_pairs``; "match_logit" is the official
    code's. batch_size: pictures per forward; chunk: queries per block of similarities. hold: how image tokens
    wait for re-ranking, on the CPU; "auto" is float32, or half where all of them would be more than 2 GiB.
    """

    source: partial[Any] | Source
    rerank_top: int | None = None
    batch_size: int = 64
    pair_batch: int = 256
    chunk: int = 512
    score: Literal["log_odds", "match_logit"] = "log_odds"
    hold: Hold = "auto"

    def __post_init__(self) -> None:
        if self.rerank_top is not None and self.rerank_top < 1:
            raise UserError(f"rerank_top={self.rerank_top}: must be at least 1, or None for no re-ranking")

    def check(self, predictor: Predictor) -> None:
        """UserError where the source is missing or the model lacks what this needs: what is known before training."""
        self._source(predictor)

    def _source(self, predictor: Predictor) -> Source:
        needs_of(predictor, self.rerank_top)
        return make_source(self.source)

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        """The metrics by dotted name, the same on every process."""
        return self.evaluate(predictor).metrics()

    def evaluate(self, predictor: Predictor) -> RetrievalResult:
        """UserError where a picture cannot be read, or the model lacks what re-ranking needs."""
        source = self._source(predictor)
        pairs = Pairs.read(source)
        with predictor.encoder.counting(pairs.texts):
            return self._evaluate(predictor, source, pairs)

    def _evaluate(self, predictor: Predictor, source: Source, pairs: Pairs) -> RetrievalResult:
        relevance = pairs.relevance()
        if not predictor.model.spec.embed_dim:
            return self._judge_all(predictor, source, pairs, relevance)
        held, images = self._encode_images(predictor, source, pairs.rows, keep=self.rerank_top is not None)
        texts = encode_texts(predictor, pairs.texts, 4 * self.batch_size)
        ranks, tops = {}, {}
        for way, query, candidate in (("t2i", texts, images), ("i2t", images, texts)):
            ranks[way], tops[way] = self._search(predictor, query, candidate, relevance[way])
        rerank = {}
        if self.rerank_top is not None:
            scores = self._match(predictor, held, pairs.texts, tops, len(pairs.rows))
            rerank = {w: recall_at(reranked(ranks[w], tops[w], scores[w], relevance[w])) for w in NAMES}
        return RetrievalResult(
            images=len(pairs.rows), texts=len(pairs.texts), rerank=rerank, rerank_top=self.rerank_top,
            held_bytes=total(held.nbytes, predictor),
            recall={w: recall_at(ranks[w]) for w in NAMES},
            chance={w: chance_at(r.counts(), r.candidates) for w, r in relevance.items()},
        )  # fmt: skip

    def _judge_all(
        self, predictor: Predictor, source: Source, pairs: Pairs, relevance: Mapping[str, Relevance]
    ) -> RetrievalResult:
        """Both ways by the matching scores of all pairs; there is nothing to re-rank."""
        held, _ = self._encode_images(predictor, source, pairs.rows, keep=True)
        images, texts = len(pairs.rows), len(pairs.texts)
        tops = {"t2i": torch.arange(images).repeat(texts, 1), "i2t": torch.arange(texts).repeat(images, 1)}
        scores = self._match(predictor, held, pairs.texts, tops, images)
        ranks = {w: first_relevant_rank(scores[w], relevance[w].mask(range(len(tops[w])))) for w in NAMES}
        return RetrievalResult(
            images=images, texts=texts, by="matching head", recall={w: recall_at(ranks[w]) for w in NAMES},
            held_bytes=total(held.nbytes, predictor),
            chance={w: chance_at(r.counts(), r.candidates) for w, r in relevance.items()},
        )  # fmt: skip

    def _encode_images(
        self, predictor: Predictor, source: Source, rows: Sequence[int], keep: bool
    ) -> tuple[HeldTokens, Tensor]:
        """The image tokens of this rank by unit (kept for matching alone, on the CPU), and the embeddings of all."""
        joint = bool(predictor.model.spec.embed_dim)

        def share() -> tuple[HeldTokens, Tensor, Tensor]:
            held = HeldTokens(len(rows), self.hold, predictor.precision == "bf16")
            numbers: list[int] = []
            parts = [torch.empty(0, predictor.model.spec.embed_dim)]
            tokens_of = predictor.image_tokens(own_records(source, rows, self.batch_size), self.batch_size)
            for (unit, items), tokens in zip(own_units(len(rows), self.batch_size), tokens_of, strict=True):
                parts.append(predictor.embed_image(tokens) if joint else torch.empty(len(items), 0))
                numbers += items
                if keep:
                    held.put(unit, tokens)
                predictor.progress("pictures", min(len(rows), (unit + 1) * self.batch_size), len(rows))
            return held, torch.cat(parts), torch.tensor(numbers, dtype=torch.int64)

        held, embeddings, numbers = together(share)
        return held, finite(gather_by_index(embeddings, numbers, len(rows), predictor.device), "picture embeddings")

    def _search(
        self, predictor: Predictor, query: Tensor, candidate: Tensor, relevance: Relevance
    ) -> tuple[Tensor, Tensor]:
        """Each query's rank of its first relevant candidate (Q,), and its best candidates (Q, rerank_top)."""
        k = min(self.rerank_top or 0, len(candidate))
        device = predictor.device
        candidate = candidate.to(device)
        ranks, tops = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, k, dtype=torch.int64)]
        numbers: list[int] = []
        for _, items in own_units(len(query), self.chunk):
            with torch.autocast(device.type, enabled=False):
                scores = query[items.start : items.stop].to(device) @ candidate.T
            ranks.append(first_relevant_rank(scores, relevance.mask(items).to(device)).cpu())
            if k:
                tops.append(top_k(scores, k).cpu())
            numbers += items
        index = torch.tensor(numbers, dtype=torch.int64)
        rank_of = gather_by_index(torch.cat(ranks), index, len(query), device)
        return rank_of, gather_by_index(torch.cat(tops), index, len(query), device) if k else rank_of.new_empty(0, 0)

    def _match(
        self,
        predictor: Predictor,
        held: HeldTokens,
        texts: Sequence[str],
        tops: Mapping[str, Tensor],
        images: int,
    ) -> dict[str, Tensor]:
        """The matching scores of each way's candidates, shaped like ``tops``; each pair is judged once for both."""
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        word = torch.tensor([number[text] for text in texts])
        keys = {
            "t2i": tops["t2i"] * len(number) + word[:, None],
            "i2t": torch.arange(images)[:, None] * len(number) + word[tops["i2t"]],
        }
        pairs = torch.cat([key.flatten() for key in keys.values()]).unique()
        image = pairs // len(number)
        scores, index = together(lambda: self._match_share(predictor, held, list(number), image, pairs % len(number)))
        found = finite(gather_by_index(scores, index, len(pairs), predictor.device), "matching scores")
        return {way: found[torch.searchsorted(pairs, key)] for way, key in keys.items()}

    def _match_share(
        self, predictor: Predictor, held: HeldTokens, words: Sequence[str], image: Tensor, text: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The scores of the pairs whose pictures are this rank's, and their numbers."""
        bounds = {unit: torch.searchsorted(image, torch.tensor([unit, unit + 1]) * self.batch_size) for unit in held}
        own = [torch.arange(int(low), int(high)) for low, high in bounds.values()]
        index = torch.cat([torch.empty(0, dtype=torch.int64), *own])
        size = 4 * self.batch_size  # whole batches of texts, so that each is encoded in the same company on any rank
        units = (text[index] // size).unique()
        needed = [i for unit in units.tolist() for i in range(unit * size, min(len(words), (unit + 1) * size))]
        bank = TokenBank(predictor.text_tokens([words[i] for i in needed], size))
        row = torch.searchsorted(units, text[index] // size) * size + text[index] % size
        scores, done = [torch.empty(0)], 0
        for unit, part in zip(held, own, strict=True):
            pairs = torch.stack([image[part] - unit * self.batch_size, row[done : done + len(part)]], 1)
            tokens = held.take(unit, predictor.device)
            scores.append(predictor.match_pairs(tokens, bank, pairs, pair_batch=self.pair_batch, score=self.score))
            done += len(part)
            predictor.progress("matching pairs", done, len(index))
        return torch.cat(scores), index


def total(number: int, predictor: Predictor) -> int:
    """The sum over the processes."""
    return int(gather(torch.tensor([number], device=predictor.device)).sum())


def reranked(ranks: Tensor, top: Tensor, scores: Tensor, relevance: Relevance) -> Tensor:
    """The ranks (Q,) after the candidates ``top`` (Q, k), in ascending order, were sorted by ``scores`` (Q, k)."""
    out = ranks.clone()
    for start in range(0, len(ranks), 1024):
        rows = range(start, min(len(ranks), start + 1024))
        part = slice(rows.start, rows.stop)
        relevant = relevance.mask(rows).gather(1, top[part])
        place = first_relevant_rank(scores[part], relevant)
        out[part] = place.where(relevant.any(1), ranks[part])
    return out
