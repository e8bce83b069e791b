"""Image-text retrieval both ways, by the joint space alone and with re-ranking by the matching head.

ALBEF, section 5. A picture may have many captions, all relevant to it. Two rules are measured side by side: as it is
published for Flickr30k and COCO, a caption's own picture alone is right; and by ours, captions that are equal after
lower-casing and joining of white space are relevant to each other's pictures too, because no model can tell them apart.
Records with one ``image_id`` are one picture. Re-ranking takes each query's best k by the joint space and orders these
by the matching head (ours by the odds of a match, the official code by the logit of the class "match" alone); the
others keep their places behind.

Each picture is read and encoded once. Similarities are made in chunks, so nothing of size pictures x texts is held,
except for a model without a joint space: it judges every pair by its matching head, which costs pictures x texts passes
and holds their scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mmkit.data.records import Source, described
from mmkit.errors import UserError
from mmkit.evals.evaluator import (
    Evaluator,
    Passed,
    encode_texts,
    finite,
    gather_by_index,
    needs_of,
    own_units,
    pixels_of,
    together,
)
from mmkit.evals.intervals import clustered
from mmkit.evals.predictions import save_predictions
from mmkit.evals.recall import KS, Relevance, answered, chance_at, places, recall_of, sorted_top, top_k
from mmkit.evals.results.reranking import Reranking
from mmkit.evals.results.retrieval import NAMES, SHOWN, Found, RetrievalResult, rows_of
from mmkit.inference.predictor import Predictor
from mmkit.inference.tokens import HeldTokens, Hold, TokenBank
from mmkit.ranks import gather

__all__ = ["Pairs", "Retrieval", "RetrievalResult"]


@dataclass(frozen=True)
class Pairs:
    """The pictures and texts of a source. rows, names: the record and image_id of each picture; image_of: the picture
    of each text.
    """

    rows: list[int]
    texts: list[str]
    image_of: list[int]
    names: list[str]

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
        return cls(rows, texts, image_of, list(images))

    def without(self, pictures: Sequence[int]) -> Pairs:
        """Those of the other pictures; UserError where none are left."""
        gone = set(pictures)
        kept = [image for image in range(len(self.rows)) if image not in gone]
        number = {image: i for i, image in enumerate(kept)}
        texts = [(text, number[i]) for text, i in zip(self.texts, self.image_of, strict=True) if i in number]
        return Pairs(
            rows=[self.rows[i] for i in kept], names=[self.names[i] for i in kept],
            texts=[text for text, _ in texts], image_of=[i for _, i in texts],
        )  # fmt: skip

    def own(self) -> dict[str, Relevance]:
        """As published: for "t2i" the picture of each text alone, for "i2t" the texts of each picture alone."""
        texts_of: list[list[int]] = [[] for _ in self.rows]
        for text, image in enumerate(self.image_of):
            texts_of[image].append(text)
        t2i = Relevance.of([[image] for image in self.image_of], len(self.rows))
        return {"t2i": t2i, "i2t": Relevance.of(texts_of, len(self.texts))}

    def relevance(self) -> dict[str, Relevance]:
        """For "t2i" the pictures relevant to each text, for "i2t" the texts relevant to each picture: equal words."""
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
class Retrieval(Evaluator):
    """Evaluates retrieval over the records of ``source``.

    rerank_top: how many candidates of each query the matching head re-orders (published: 128 on Flickr30k, 256 on
    COCO); None = not at all. score: what it orders by, see ``Predictor.match_pairs``; "match_logit" is the official
    code's, which the published numbers have in any case. chunk: queries per block of similarities.
    hold: how image tokens wait for re-ranking, on the CPU; "auto" is float32, or half where all of them would be more
    than 2 GiB. predictions: a file for the ranks of each query, see ``rows_of``. With ``bad``, the texts
    of a picture that cannot be read are left out with it.
    """

    needs_words: ClassVar[bool] = True

    rerank_top: int | None = None
    pair_batch: int = 256
    chunk: int = 512
    score: Literal["log_odds", "match_logit"] = "log_odds"
    hold: Hold = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rerank_top is not None and self.rerank_top < 1:
            raise UserError(f"rerank_top={self.rerank_top}: must be at least 1, or None for no re-ranking")

    def check(self, predictor: Predictor) -> None:
        """UserError where the source is missing or the model lacks what this needs: what is known before training."""
        self._source(predictor)

    def _source(self, predictor: Predictor) -> Source:
        needs_of(predictor, self.rerank_top)
        return self.opened()

    def evaluate(self, predictor: Predictor) -> RetrievalResult:
        """UserError where a picture cannot be read, or the model lacks what re-ranking needs."""
        source = self._source(predictor)
        pairs = Pairs.read(source)
        with predictor.encoder.counting(pairs.texts):
            return self._evaluate(predictor, source, pairs)

    def _evaluate(self, predictor: Predictor, source: Source, pairs: Pairs) -> RetrievalResult:
        joint = bool(predictor.model.spec.embed_dim)
        keep = not joint or self.rerank_top is not None
        held, images, passed = self._encode_images(predictor, source, pairs.rows, keep)
        if passed.bad:
            pairs = pairs.without(passed.bad)
        relevance, own = pairs.relevance(), pairs.own()
        if joint:
            texts = encode_texts(predictor, pairs.texts, 4 * self.batch_size)
            ways = {"t2i": (texts, images), "i2t": (images, texts)}
            found = {w: self._search(predictor, *ways[w], relevance[w], own[w]) for w in NAMES}
            if self.rerank_top is not None:
                found = self._rerank(predictor, held, pairs, found, relevance, own)
        else:
            found = self._judge_all(predictor, held, pairs, relevance, own)
        judged = [] if self.rerank_top is None else [_judged(w, found[w], relevance[w]) for w in NAMES]
        for one in judged:
            one.tell()
        odds = {w: self._odds(one.match) for w, one in found.items() if one.match is not None}
        save_predictions(self.predictions, lambda: rows_of(found, pairs.names, pairs.texts, pairs.image_of, odds))
        again = {w: one for w, one in found.items() if one.ours_again is not None}
        rates = {
            "": {w: one.ours for w, one in found.items()}, "published": {w: one.published for w, one in found.items()},
            "rerank": {w: _there(one.ours_again) for w, one in again.items()},
            "published.rerank": {w: _there(one.published_again) for w, one in again.items()},
        }  # fmt: skip
        recall = {rule: {w: recall_of(at) for w, at in ways.items()} for rule, ways in rates.items()}
        return RetrievalResult(
            images=len(pairs.rows), texts=len(pairs.texts), rerank_top=self.rerank_top, judged=judged,
            by="joint space" if joint else "matching head", held_bytes=total(held.nbytes, predictor),
            recall=recall[""], published=recall["published"], rerank=recall["rerank"],
            published_rerank=recall["published.rerank"], left_out=passed.left_out,
            intervals={rule: {w: _intervals(at, w, pairs) for w, at in ways.items()} for rule, ways in rates.items()},
            chance={w: chance_at(r.counts(), r.candidates) for w, r in relevance.items()},
            published_chance={w: chance_at(r.counts(), r.candidates) for w, r in own.items()},
        )  # fmt: skip

    def _odds(self, logits: Tensor) -> Tensor:
        """What candidates are ordered by, of the matching head's two logits (..., 2)."""
        return logits[..., 1] - logits[..., 0] if self.score == "log_odds" else logits[..., 1]

    def _judge_all(
        self, predictor: Predictor, held: HeldTokens, pairs: Pairs, relevance: Mapping[str, Relevance],
        own: Mapping[str, Relevance],
    ) -> dict[str, Found]:  # fmt: skip
        """Both ways by the matching scores of all pairs; there is nothing to re-rank."""
        images, texts = len(pairs.rows), len(pairs.texts)
        tops = {"t2i": torch.arange(images).repeat(texts, 1), "i2t": torch.arange(texts).repeat(images, 1)}
        logits = self._match(predictor, held, pairs.texts, tops, images)
        found = {}
        for way in NAMES:
            odds, every = self._odds(logits[way]), range(len(tops[way]))
            best = sorted_top(odds, SHOWN)
            found[way] = Found(
                ours=places(odds, relevance[way].mask(every)), best=best, scores=odds.gather(1, best),
                published=places(logits[way][..., 1], own[way].mask(every)),
            )  # fmt: skip
        return found

    def _rerank(
        self, predictor: Predictor, held: HeldTokens, pairs: Pairs, found: Mapping[str, Found],
        relevance: Mapping[str, Relevance], own: Mapping[str, Relevance],
    ) -> dict[str, Found]:  # fmt: skip
        tops = {w: _there(one.top) for w, one in found.items()}
        logits = self._match(predictor, held, pairs.texts, tops, len(pairs.rows))
        return {
            w: replace(
                one, match=logits[w], ours_again=reranked(one.ours, tops[w], self._odds(logits[w]), relevance[w]),
                published_again=reranked(one.published, tops[w], logits[w][..., 1], own[w]),
            )
            for w, one in found.items()
        }  # fmt: skip

    def _encode_images(
        self, predictor: Predictor, source: Source, rows: Sequence[int], keep: bool
    ) -> tuple[HeldTokens, Tensor, Passed[Tensor]]:
        """The image tokens of this rank (kept for matching alone, on the CPU), and the embeddings of all pictures."""
        joint = bool(predictor.model.spec.embed_dim)
        held, opens = HeldTokens(len(rows), self.hold, predictor.precision == "bf16"), pixels_of(predictor, source)

        def work(pictures: Sequence[int], made: Sequence[Tensor]) -> Tensor:
            tokens = predictor.encode_pixels(made)
            if keep:
                held.put(pictures[0], tokens)
            return predictor.embed_image(tokens) if joint else torch.empty(len(pictures), 0)

        passed = self.passed(predictor, len(rows), lambda picture: opens(rows[picture]), work)
        held.renumber(passed.rows)
        return held, finite(torch.cat(passed.found), "picture embeddings"), passed

    def _search(
        self, predictor: Predictor, query: Tensor, candidate: Tensor, relevance: Relevance, own: Relevance
    ) -> Found:
        """Where the right candidates of each query stand, and the best ones, as far as these are wanted."""
        k, shown = min(self.rerank_top or 0, len(candidate)), min(SHOWN, len(candidate)) if self.predictions else 0
        device = predictor.device
        candidate = candidate.to(device)
        rows = [torch.empty(0, 8 + k + shown, dtype=torch.int64)]
        values = [torch.empty(0, shown)]
        numbers: list[int] = []
        for _, items in own_units(len(query), self.chunk):
            with torch.autocast(device.type, enabled=False):
                scores = query[items.start : items.stop].to(device) @ candidate.T
            row = [places(scores, which.mask(items).to(device)) for which in (relevance, own)]
            row += [top_k(scores, k)] if k else []
            if shown:
                row.append(sorted_top(scores, shown))
                values.append(scores.gather(1, row[-1]).cpu())
            rows.append(torch.cat(row, 1).cpu())
            numbers += items
        index = torch.tensor(numbers, dtype=torch.int64)
        found = gather_by_index(torch.cat(rows), index, len(query), device)
        ours, published, top, best = found.split([4, 4, k, shown], 1)
        scores = gather_by_index(torch.cat(values), index, len(query), device) if shown else torch.empty(len(query), 0)
        return Found(ours=ours, published=published, best=best, scores=scores, top=top if k else None)

    def _match(
        self,
        predictor: Predictor,
        held: HeldTokens,
        texts: Sequence[str],
        tops: Mapping[str, Tensor],
        images: int,
    ) -> dict[str, Tensor]:
        """The matching head's logits (..., 2) of each way's candidates ``tops``; each pair is judged once for both."""
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
        bounds = (torch.searchsorted(image, torch.tensor([first, first + held.pictures(first)])) for first in held)
        own = [torch.arange(int(low), int(high)) for low, high in bounds]
        index = torch.cat([torch.empty(0, dtype=torch.int64), *own])
        size = 4 * self.batch_size  # whole batches of texts, so that each is encoded in the same company on any rank
        units = (text[index] // size).unique()
        needed = [i for unit in units.tolist() for i in range(unit * size, min(len(words), (unit + 1) * size))]
        bank = TokenBank(predictor.text_tokens([words[i] for i in needed], size))
        row = torch.searchsorted(units, text[index] // size) * size + text[index] % size
        scores, done = [torch.empty(0, 2)], 0
        for first, part in zip(held, own, strict=True):
            pairs = torch.stack([image[part] - first, row[done : done + len(part)]], 1)
            tokens = held.take(first, predictor.device)
            scores.append(predictor.match_pairs(tokens, bank, pairs, pair_batch=self.pair_batch, score="logits"))
            done += len(part)
            predictor.progress("matching pairs", done, len(index))
        return torch.cat(scores), index


def total(number: int, predictor: Predictor) -> int:
    """The sum over the processes."""
    return int(gather(torch.tensor([number], device=predictor.device)).sum())


def reranked(found: Tensor, top: Tensor, scores: Tensor, relevance: Relevance) -> Tensor:
    """``places`` (Q, 4) after the candidates ``top`` (Q, k), in ascending order, were sorted by ``scores`` (Q, k)."""
    out = found.clone()
    for start in range(0, len(found), 1024):
        rows = range(start, min(len(found), start + 1024))
        part = slice(rows.start, rows.stop)
        relevant = relevance.mask(rows).gather(1, top[part])
        rank, above, equal, right = found[part].unbind(1)
        inside = (top.shape[1] - above).clamp(min=0)  # of those with the same score, all of them not relevant
        behind = torch.stack([rank, above + inside, equal - inside, right], 1)
        out[part] = torch.where(relevant.any(1, keepdim=True), places(scores[part], relevant), behind)
    return out


def _intervals(found: Tensor, way: str, pairs: Pairs) -> dict[int, tuple[float, float]]:
    """Of R@k; the texts of one picture are a group, a picture stands for itself."""
    group = torch.tensor(pairs.image_of) if way == "t2i" else torch.arange(len(found))
    return {k: clustered(answered(found, k), group) for k in KS}


def _judged(way: str, found: Found, relevance: Relevance) -> Reranking:
    """What re-ranking did to R@k, and what a random order of the candidates would give for R@1."""
    top = _there(found.top)
    right = torch.cat([
        relevance.mask(range(start, min(len(top), start + 1024))).gather(1, top[start : start + 1024]).sum(1)
        for start in range(0, len(top), 1024)
    ])  # fmt: skip
    return Reranking(
        what=f"R@1, {NAMES[way]}", before=recall_of(found.ours), after=recall_of(_there(found.ours_again)),
        chance=(right / top.shape[1]).mean().item(), candidates=top.shape[1], n=len(top),
    )  # fmt: skip


def _there(value: Tensor | None) -> Tensor:
    """What is there after re-ranking."""
    assert value is not None  # re-ranking made it
    return value
