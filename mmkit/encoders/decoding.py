"""Which words a decoder writes: the likeliest, the best of several beams, or drawn ones.

The rules are those of transformers' generation (version 5), to the token, tests hold them equal: repetition, shortest
length, temperature, top-k and top-p in this order; beams whose finished texts are scored by their mean log-probability,
to the power of ``length_penalty``. Left out: groups of beams, drawn beams, constraints, several texts for one source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from mmkit.draws import Draws
from mmkit.errors import UserError

USUAL_LENGTH = 30
_NEVER = -1e9  # the log-probability of what is not to be chosen, as in transformers


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to write.

    max_new_tokens, min_new_tokens: of a text without its prompt, the token that ends it included; before the least
    number no text ends. None = 30, or as many as a head has room for where those are fewer. beams: 1 = one word
    after the other, more = so many texts are tried side by side. sample: draw the words, from ``seed``, by their
    probabilities at this ``temperature``, among the ``top_k`` likeliest (0 = all) and those that make up ``top_p``
    of the mass together. length_penalty: finished texts of n tokens compare by their log-probability / n **
    length_penalty. early_stopping: True = a search ends with so many finished texts as beams; False = when the best
    unfinished one, at its length, is no better than the worst finished; "never" = not before it could not become so
    either. repetition_penalty: above 1, tokens that were there already get unlikelier.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    repetition_penalty: float = 1.0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = (
            ("max_new_tokens", self.longest >= 1, "at least 1"),
            ("min_new_tokens", 0 <= self.min_new_tokens <= self.longest, f"from 0 to max_new_tokens = {self.longest}"),
            ("beams", self.beams >= 1, "at least 1"),
            ("early_stopping", self.early_stopping in (True, False, "never"), "True, False or 'never'"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("temperature", self.temperature > 0, "above 0"),
            ("top_k", self.top_k >= 0, "at least 0, which is all"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
        )
        for name, fine, wanted in wrong:
            if not fine:
                raise UserError(f"{name} = {getattr(self, name)!r}: {wanted}")
        if self.sample and self.beams > 1:
            raise UserError("beams search for the best text, and sample draws one: give one of them")
        plain = Decoding.__dataclass_fields__
        for name in () if self.sample else ("temperature", "top_k", "top_p"):
            if getattr(self, name) != plain[name].default:
                raise UserError(f"{name} = {getattr(self, name)!r} is about drawn words: give sample as well")

    @property
    def longest(self) -> int:
        """``max_new_tokens``, or what it is where nobody gave it."""
        return USUAL_LENGTH if self.max_new_tokens is None else self.max_new_tokens


class Writer(Protocol):
    """What knows the next word: a decoder with its vocabulary and what it reads."""

    def read(self, ids_RN: Tensor, past: Any) -> tuple[Tensor, Any]:
        """N tokens (int64) of R texts after those in ``past`` (None at the start) -> logits (R, V) of what comes next.

        And the past with them.
        """
        ...

    def chosen(self, past: Any, rows_R: Tensor) -> Any:
        """The past of texts ``rows_R`` (int64), in this order."""
        ...

    def repeated(self, times: int) -> Writer:
        """One for ``times`` texts about each source: texts i, i + B, i + 2 B, ... are about source i."""
        ...


class Text(NamedTuple):
    """ids: (B, n) int64 without the prompt, the last token fills rows up. log: (B,) float32, their log-probability.

    Of beams, ``log`` is divided by the length to the power of ``length_penalty``.
    """

    ids: Tensor
    log: Tensor


@torch.no_grad()
def write(writer: Writer, prompt_BP: Tensor, last: int, how: Decoding) -> Text:
    """Texts that go on from a prompt (B, P) int64 of at least one token, until each ends with the token ``last``."""
    return _one_by_one(writer, prompt_BP, last, how) if how.beams == 1 else _beams(writer, prompt_BP, last, how)


def _one_by_one(writer: Writer, prompt_BP: Tensor, last: int, how: Decoding) -> Text:
    size, device = len(prompt_BP), prompt_BP.device
    draws = Draws((how.seed, "words"), torch.arange(size, device=device))
    ids_BL, fresh_BN, past = prompt_BP, prompt_BP, None
    ended_B = torch.zeros(size, dtype=torch.bool, device=device)
    total_B = torch.zeros(size, device=device)
    for written in range(how.longest):
        logits_BV, past = writer.read(fresh_BN, past)
        scores_BV = ruled(logits_BV.float(), ids_BL, last, written, how)
        if how.sample:
            scores_BV = kept(scores_BV / how.temperature, how.top_k, how.top_p)
            # in proportion to the probabilities: the largest after noise (Gumbel 1954)
            ids_B = (scores_BV + draws.gumbel(scores_BV.shape[1])).argmax(-1)
        else:
            ids_B = scores_BV.argmax(-1)
        log_B = scores_BV.log_softmax(-1).gather(1, ids_B[:, None])[:, 0]
        ids_B = ids_B.masked_fill(ended_B, last)
        total_B = total_B + log_B.masked_fill(ended_B, 0.0)
        fresh_BN = ids_B[:, None]
        ids_BL = torch.cat([ids_BL, fresh_BN], dim=1)
        ended_B = ended_B | (ids_B == last)
        if bool(ended_B.all()):
            break
    return Text(ids_BL[:, prompt_BP.shape[1] :], total_B)


def ruled(scores_RV: Tensor, ids_RL: Tensor, last: int, written: int, how: Decoding) -> Tensor:
    """Logits or log-probabilities after the rules about repetition and the shortest length; float32."""
    if how.repetition_penalty != 1:
        there = scores_RV.gather(1, ids_RL)
        there = torch.where(there < 0, there * how.repetition_penalty, there / how.repetition_penalty)
        scores_RV = scores_RV.scatter(1, ids_RL, there)
    if written < how.min_new_tokens:
        scores_RV = scores_RV.clone()
        scores_RV[:, last] = -torch.inf
    return scores_RV


def kept(scores_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits with -inf for all but the ``top_k`` likeliest, and then but the fewest that hold ``top_p`` of the mass."""
    if 0 < top_k < scores_BV.shape[1]:
        least_B1 = scores_BV.topk(top_k).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, -torch.inf)
    if top_p < 1:
        sorted_BV, order_BV = scores_BV.sort()
        drop_BV = sorted_BV.softmax(-1).cumsum(-1) <= 1 - top_p
        drop_BV[:, -1] = False
        scores_BV = scores_BV.masked_fill(drop_BV.scatter(1, order_BV, drop_BV), -torch.inf)
    return scores_BV


@dataclass
class _Finished:
    """The best finished texts so far of each source: ids (B, k, L), scores (B, k), which are there (B, k) bool."""

    ids: Tensor
    scores: Tensor
    there: Tensor

    def take(self, ids_BKL: Tensor, scores_BK: Tensor, ended_BK: Tensor) -> None:
        """Keep the best of these and of what there was."""
        k = self.scores.shape[1]
        best = torch.cat([self.scores, scores_BK], 1).topk(k)
        ids = torch.cat([self.ids, ids_BKL], 1)
        self.ids = ids.gather(1, best.indices[..., None].expand(-1, -1, ids.shape[2]))
        self.there = torch.cat([self.there, ended_BK], 1).gather(1, best.indices)
        self.scores = best.values


def _beams(writer: Writer, prompt_BP: Tensor, last: int, how: Decoding) -> Text:
    """Beam search; texts stand as (k, B) in the decoder, so that a source is read by its k texts without copies."""
    (size, start), k, device = prompt_BP.shape, how.beams, prompt_BP.device
    writer = writer.repeated(k)
    ids_BKL = torch.full((size, k, start + how.longest), last, dtype=torch.int64, device=device)
    ids_BKL[:, :, :start] = prompt_BP[:, None]
    log_BK = torch.full((size, k), _NEVER, device=device)
    log_BK[:, 0] = 0.0  # at first all texts are the same
    done = _Finished(
        ids_BKL.clone(), torch.full_like(log_BK, _NEVER), torch.zeros_like(log_BK, dtype=torch.bool)
    )  # fmt: skip
    open_B1 = torch.ones(size, 1, dtype=torch.bool, device=device)
    fresh_RN, past = _flat(ids_BKL[:, :, :start]), None
    for written in range(how.longest):
        at = start + written
        logits_RV, past = writer.read(fresh_RN, past)
        next_RV = ruled(logits_RV.float().log_softmax(-1), _flat(ids_BKL[:, :, :at]), last, written, how)
        next_BKV = log_BK[..., None] + next_RV.unflatten(0, (k, size)).transpose(0, 1)
        best = next_BKV.flatten(1).topk(2 * k)  # were all of the first k to end, k others go on
        parent_BC = best.indices // next_BKV.shape[2]
        ids_BCL = ids_BKL.gather(1, parent_BC[..., None].expand(-1, -1, ids_BKL.shape[2]))
        ids_BCL[:, :, at] = best.indices % next_BKV.shape[2]
        ended_BC = ids_BCL[:, :, at] == last
        if written == how.longest - 1:
            ended_BC = torch.ones_like(ended_BC)
        on = (best.values + ended_BC * _NEVER).topk(k)
        finished_BC = ended_BC & (torch.arange(2 * k, device=device) < k)
        closed_B1 = ~open_B1 | (done.there.all(1, keepdim=True) & (how.early_stopping is True))
        scores_BC = best.values / (written + 1) ** how.length_penalty + (closed_B1 | ~finished_BC) * _NEVER
        done.take(ids_BCL, scores_BC, finished_BC)
        parent_BK = parent_BC.gather(1, on.indices)
        ids_BKL = ids_BCL.gather(1, on.indices[..., None].expand(-1, -1, ids_BCL.shape[2]))
        log_BK = on.values
        open_B1 = open_B1 & _may_improve(log_BK, done, written + 1, how)
        if bool(ended_BC.all()) or not bool(open_B1.any()) or (how.early_stopping is True and bool(done.there.all())):
            break
        past = writer.chosen(past, _flat(parent_BK * size + torch.arange(size, device=device)[:, None]))
        fresh_RN = _flat(ids_BKL[:, :, at : at + 1])
    return _first(done, start, last)


def _may_improve(log_BK: Tensor, done: _Finished, length: int, how: Decoding) -> Tensor:
    """(B, 1) bool: whether the best unfinished text may still beat the worst of the finished ones."""
    if how.early_stopping == "never" and how.length_penalty > 0:
        length = how.longest
    possible_B1 = log_BK[:, :1] / length**how.length_penalty
    worst_BK = torch.where(done.there, done.scores.min(1, keepdim=True).values, _NEVER)
    return (possible_B1 > worst_BK).any(1, keepdim=True)


def _first(done: _Finished, start: int, last: int) -> Text:
    """The best text of each source, cut where the longest of them ends."""
    ids_BL = done.ids[:, 0, start:]
    longest = int(((ids_BL != last).cumprod(1).sum(1) + 1).clamp(max=ids_BL.shape[1]).max())
    return Text(ids_BL[:, :longest], done.scores[:, 0])


def _flat(x_BK: Tensor) -> Tensor:
    """(B, k, ...) -> (k x B, ...)."""
    return x_BK.transpose(0, 1).flatten(0, 1)
