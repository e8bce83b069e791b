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

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mmkit.data.records import Source
from mmkit.data.video.opening import shown_as
from mmkit.evals.evaluator import Passed, Reranks, encode_texts, joined, own_units, pixels_of, together
from mmkit.evals.intervals import clustered
from mmkit.evals.pairs import Pairs
from mmkit.evals.predictions import save_predictions
from mmkit.evals.protocols import protocol_named
from mmkit.evals.recall import KS, Relevance, answered, places, ranks_of, recall_of, sorted_top, top_k
from mmkit.evals.results.reranking import Reranking
from mmkit.evals.results.retrieval import AGAIN, NAMES, SHOWN, Found, RetrievalResult, rows_of
from mmkit.inference.finite import finite
from mmkit.inference.predictor import Predictor
from mmkit.inference.tokens import HeldTokens, Hold, TokenBank
from mmkit.ranks import gather_objects, rank
from mmkit.types import Pixels

log = logging.getLogger(__name__)

__all__ = ["Pairs", "Retrieval", "RetrievalResult"]

R1_ENDS = ("r1_low", "r1_high")
ByRule = Mapping[str, Relevance]
"""What is relevant by our rule, "", and as it is "published"."""


@dataclass(frozen=True, kw_only=True)
class Retrieval(Reranks):
    """Evaluates retrieval over the records of ``source``.

    rerank_top: how many candidates of each query the matching head re-orders (published: 128 on Flickr30k, 256 on
    COCO); None = not at all. score: what it orders by, see ``Predictor.match_pairs``; "match_logit" is the official
    code's, which the published numbers have in any case. chunk: queries per block of similarities.
    hold: how image tokens wait for re-ranking, on the CPU; "auto" is float32, or half where all of them would be more
    than 2 GiB. protocol: of video-text retrieval, one of ``PROTOCOLS``, whose name stands with each number, and ranks
    beside. predictions: a file for the ranks of each query, see ``rows_of``. With ``bad``, the texts
    of a picture that cannot be read are left out with it.
    """

    pair_batch: int = 256
    chunk: int = 512
    score: Literal["log_odds", "match_logit"] = "log_odds"
    hold: Hold = "auto"
    protocol: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol is not None:
            protocol_named(self.protocol)

    def names(self) -> tuple[str, ...]:
        """R@k, its mean and intervals by both rules, again after re-ranking, and ranks with a protocol."""
        again = () if self.rerank_top is None else ("rerank.", "published.rerank.")
        of_ranks = () if self.protocol is None else ("median_rank", "mean_rank")
        ways = ("r_mean", *(f"{w}_{name}" for w in NAMES for name in (*(f"r{k}" for k in KS), *R1_ENDS, *of_ranks)))
        return tuple(rule + name for rule in ("", "published.", *again) for name in ways)

    def needs(self, predictor: Predictor) -> Source:
        """The source; UserError where the model cannot do what is asked."""
        self.check_model(predictor)
        return self.opened()

    def evaluate(self, predictor: Predictor) -> RetrievalResult:
        """UserError where a picture cannot be read, or the model lacks what re-ranking needs."""
        source = self.needs(predictor)
        pairs = Pairs.read(source)
        with predictor.encoder.counting(pairs.texts):
            return self._evaluate(predictor, source, pairs)

    def _evaluate(self, predictor: Predictor, source: Source, pairs: Pairs) -> RetrievalResult:
        joint = bool(predictor.model.spec.embed_dim)
        keep = not joint or self.rerank_top is not None
        held, images, passed = self._encode_images(predictor, source, pairs.rows, keep)
        if passed.bad:
            pairs = pairs.without(passed.bad)
        ours, own = pairs.relevance(), pairs.own()
        relevant = {w: {"": ours[w], "published": own[w]} for w in NAMES}
        if joint:
            texts = encode_texts(predictor, pairs.texts, 4 * self.batch_size)
            ways = {"t2i": (texts, images), "i2t": (images, texts)}
            found = {w: self._search(predictor, *ways[w], relevant[w]) for w in NAMES}
            if self.rerank_top is not None:
                found = self._rerank(predictor, held, pairs, found, relevant)
        else:
            found = self._judge_all(predictor, held, pairs, relevant)
        judged = [] if self.rerank_top is None else [_judged(w, found[w], ours[w]) for w in NAMES]
        for one in judged:
            one.tell()
        _tell_draws(found)
        save_predictions(self.predictions, lambda: rows_of(found, pairs))

        def of_each(rate: Callable[[Tensor, str], Any]) -> dict[str, Any]:
            return {rule: {w: rate(found[w].places[rule], w) for w in NAMES} for rule in found["t2i"].places}

        return RetrievalResult(
            images=len(pairs.rows), texts=len(pairs.texts), rerank_top=self.rerank_top, judged=judged,
            by="joint space" if joint else "matching head", held_bytes=sum(gather_objects(held.nbytes)),
            rates=of_each(lambda at, _: recall_of(at)), intervals=of_each(lambda at, w: _intervals(at, w, pairs)),
            chance={rule: {w: relevant[w][rule].chance() for w in NAMES} for rule in AGAIN}, left_out=passed.left_out,
            protocol=self._told(pairs), ranks={} if self.protocol is None else of_each(lambda at, _: ranks_of(at)),
            shown=shown_as(predictor.transform),
        )  # fmt: skip

    def _told(self, pairs: Pairs) -> str:
        """The protocol's name, with what is other in these data; "" without one."""
        return "" if self.protocol is None else protocol_named(self.protocol).told(len(pairs.rows), len(pairs.texts))

    def _scores(self, logits: Tensor) -> dict[str, Tensor]:
        """What candidates are ordered by under each rule, of the matching head's two logits (..., 2)."""
        match = logits[..., 1]
        return {"": match - logits[..., 0] if self.score == "log_odds" else match, "published": match}

    def _judge_all(
        self, predictor: Predictor, held: HeldTokens, pairs: Pairs, relevant: Mapping[str, ByRule]
    ) -> dict[str, Found]:
        """Both ways by the matching scores of all pairs; there is nothing to re-rank."""
        images, texts = len(pairs.rows), len(pairs.texts)
        tops = {"t2i": torch.arange(images).repeat(texts, 1), "i2t": torch.arange(texts).repeat(images, 1)}
        logits = self._match(predictor, held, pairs.texts, tops, images)
        found = {}
        for way in NAMES:
            scores, every = self._scores(logits[way]), range(len(tops[way]))
            found[way] = Found(
                places={rule: places(scores[rule], one.mask(every)) for rule, one in relevant[way].items()},
                best={"": _best(tops[way], scores[""])},
            )
        return found

    def _rerank(
        self, predictor: Predictor, held: HeldTokens, pairs: Pairs, found: Mapping[str, Found],
        relevant: Mapping[str, ByRule],
    ) -> dict[str, Found]:  # fmt: skip
        logits = self._match(predictor, held, pairs.texts, {w: one.top for w, one in found.items()}, len(pairs.rows))
        out = {}
        for w, one in found.items():
            scores, at = self._scores(logits[w]), dict(one.places)
            for rule, again in AGAIN.items():
                at[again] = reranked(one.places[rule], one.top, scores[rule], relevant[w][rule])
            out[w] = replace(one, places=at, best={**one.best, "rerank": _best(one.top, scores[""])})
        return out

    def _encode_images(
        self, predictor: Predictor, source: Source, rows: Sequence[int], keep: bool
    ) -> tuple[HeldTokens, Tensor, Passed[Tensor]]:
        """The image tokens of this rank (kept for matching alone, on the CPU), and the embeddings of all pictures."""
        joint = bool(predictor.model.spec.embed_dim)
        held, opens = HeldTokens(len(rows), self.hold, predictor.precision == "bf16"), pixels_of(predictor, source)

        def work(pictures: Sequence[int], made: Sequence[Pixels]) -> Tensor:
            tokens = predictor.encode_pixels(made)
            if keep:
                held.put(pictures[0], tokens)
            return predictor.embed_image(tokens) if joint else torch.empty(len(pictures), 0)

        passed = self.passed(self.parts(predictor, len(rows), lambda picture: opens(rows[picture]), work))
        held.renumber(passed.rows)
        return held, finite(torch.cat(passed.found), "picture embeddings"), passed

    def _search(self, predictor: Predictor, query: Tensor, candidate: Tensor, relevant: ByRule) -> Found:
        """Where the right candidates of each query stand, and the best ones, as far as these are wanted."""
        device, candidate = predictor.device, candidate.to(predictor.device)
        own = []
        for unit, items in own_units(len(query), self.chunk):
            with torch.autocast(device.type, enabled=False):
                scores = query[items.start : items.stop].to(device) @ candidate.T
            at = [places(scores, which.mask(items).to(device)) for which in relevant.values()]
            top, best = top_k(scores, self.rerank_top or 0), sorted_top(scores, SHOWN if self.predictions else 0)
            own.append((unit, tuple(part.cpu() for part in (*at, top, best, scores.gather(1, best)))))
        *at, top, best, scores = joined(own, len(query))
        return Found(places=dict(zip(relevant, at, strict=True)), best={"": (best, scores)}, top=top)

    def _match(
        self, predictor: Predictor, held: HeldTokens, texts: Sequence[str], tops: Mapping[str, Tensor], images: int
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
        own = together(lambda: self._match_share(predictor, held, list(number), image, pairs % len(number)))
        (logits,) = joined(own, len(pairs))
        finite(logits, "matching scores")
        return {way: logits[torch.searchsorted(pairs, key)] for way, key in keys.items()}

    def _match_share(
        self, predictor: Predictor, held: HeldTokens, words: Sequence[str], image: Tensor, text: Tensor
    ) -> list[tuple[int, tuple[Tensor]]]:
        """For ``joined``: the scores of the pairs whose pictures this rank holds, by the first picture of a batch."""
        bounds = [torch.tensor([first, first + held.pictures(first)]) for first in held]
        spans = [torch.searchsorted(image, ends).tolist() for ends in bounds]
        own = torch.cat([text[:0], *(text[low:high] for low, high in spans)])
        size = 4 * self.batch_size  # whole batches of texts, so that each is encoded in the same company on any rank
        units, unit = (own // size).unique(return_inverse=True)
        needed = [i for u in units.tolist() for i in range(u * size, min(len(words), (u + 1) * size))]
        bank = TokenBank(predictor.text_tokens([words[i] for i in needed], size))
        rows = (unit * size + own % size).split([high - low for low, high in spans])
        scores: list[tuple[int, tuple[Tensor]]] = []
        done = 0
        for first, (low, high), row in zip(held, spans, rows, strict=True):
            pairs = torch.stack([image[low:high] - first, row], 1)
            tokens = held.take(first, predictor.device)
            logits = predictor.match_pairs(tokens, bank, pairs, pair_batch=self.pair_batch, score="logits")
            scores.append((first, (logits,)))
            done += len(pairs)
            predictor.progress("matching pairs", done, len(own))
        return scores


def reranked(found: Tensor, top: Tensor, scores: Tensor, relevance: Relevance) -> Tensor:
    """``places`` (Q, 4) after the candidates ``top`` (Q, k), in ascending order, were sorted by ``scores`` (Q, k)."""
    relevant = relevance.among(top)
    rank, above, equal, right = found.unbind(1)
    inside = (top.shape[1] - above).clamp(min=0)  # of those with the same score, all of them not relevant
    behind = torch.stack([rank, above + inside, equal - inside, right], 1)
    return torch.where(relevant.any(1, keepdim=True), places(scores, relevant), behind)


def _best(candidates: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The first ``SHOWN`` of the candidates (Q, k) by their scores, with these."""
    order = sorted_top(scores, SHOWN)
    return candidates.gather(1, order), scores.gather(1, order)


def _tell_draws(found: Mapping[str, Found]) -> None:
    """How many queries are answered by the chance of a draw."""
    for way, name in NAMES.items():
        hits = answered(found[way].places[""], 1)
        if (shared := int(((hits > 0) & (hits < 1)).sum())) and rank() == 0:
            log.warning(
                "%s: %d of %d: others have the same score as the right one, the best; each counts with the chance of a "
                "draw. Does a picture stand under two names, or are texts cut to the same tokens?",
                name, shared, len(hits),
            )  # fmt: skip


def _intervals(found: Tensor, way: str, pairs: Pairs) -> dict[int, tuple[float, float]]:
    """Of R@k; the texts of one picture are a group, a picture stands for itself."""
    group = torch.tensor(pairs.image_of) if way == "t2i" else torch.arange(len(found))
    return {k: clustered(answered(found, k), group) for k in KS}


def _judged(way: str, found: Found, relevance: Relevance) -> Reranking:
    """What re-ranking did to R@k, and what a random order of the candidates would give for R@1."""
    right = relevance.among(found.top)
    return Reranking(
        what=f"R@1, {NAMES[way]}", before=recall_of(found.places[""]), after=recall_of(found.places["rerank"]),
        chance=right.double().mean().item(), candidates=right.shape[1], n=len(right),
    )  # fmt: skip
