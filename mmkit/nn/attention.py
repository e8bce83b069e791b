"""Multi-head attention (Vaswani et al. 2017, section 3.2) over the fused kernel of the device.

Self-attention keeps one fused projection; cross-attention projects keys and values apart from the queries, so
that an image's are made once and read by every text that looks at it. Not here: relative positions, and attention
weights as an output (``mmkit.explain`` sets ``watch`` where they are wanted; nothing is kept otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.nn.dropout import dropout
from mmkit.nn.kernels import written_out
from mmkit.nn.packing import Packing, packed, spread
from mmkit.nn.plain_attention import Heads, PlainAttention

LONG = 128
"""Tokens from which a CPU's fused kernel serves for training in float32."""
READ = 64
"""Those from which it serves where there is no gradient."""


class KeyValues(NamedTuple):
    """What cross-attention reads of B inputs: ``k``, ``v`` (B, H, N, D/H); ``mask`` (B, N) bool or None."""

    k: Tensor
    v: Tensor
    mask: Tensor | None = None

    def rows(self, index: Tensor) -> KeyValues:
        """Those of the inputs ``index`` (int64), in that order; on a CPU by what takes half the time there."""
        k, v = (x.index_select(0, index) if written_out(x) else x[index] for x in (self.k, self.v))
        return KeyValues(k, v, None if self.mask is None else self.mask[index])


def take(x_BND: Tensor, positions_BM: Tensor | None, packing: Packing | None = None) -> Tensor:
    """The tokens of each row at ``positions_BM`` (int64); all of them when it is None. packing: of ``x``, if it is."""
    if positions_BM is None:
        return x_BND
    if packing is not None:
        return packing.take(x_BND, positions_BM)
    return x_BND.gather(1, positions_BM.unsqueeze(-1).expand(-1, -1, x_BND.shape[-1]))


def _key_mask(mask: Tensor | None, keep_BM: Tensor | None = None) -> Tensor | None:
    """Of keys (B, N), or for each query those that it reads (B, N, N): what ``attend`` broadcasts."""
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask[:, None, None, :]
    if keep_BM is not None:
        mask = mask.gather(1, keep_BM[..., None].expand(-1, -1, mask.shape[-1]))
    return mask[:, None]


class _Attention(nn.Module):
    """``watch``: None, or what is given the attention weights (B, H, N, N) of each call, on their way to the output."""

    watch: Callable[[Tensor], None] | None = None

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UserError(f"width {width} cannot be split into {heads} heads: choose a number that divides it")
        self.heads = heads
        self.dropout = dropout
        self.proj = nn.Linear(width, width)

    def _split(self, x_BND: Tensor) -> Tensor:
        return self._split_parts(x_BND, 1)[0]

    def _split_parts(self, x_BNE: Tensor, parts: int) -> Sequence[Tensor]:
        """(B, N, parts x D) -> for each part (B, H, N, D/H)."""
        fused = parts == 3 and self.watch is None and _fused(x_BNE, x_BNE, self.dropout if self.training else 0.0)
        if not fused and written_out(x_BNE) and not torch.jit.is_tracing():  # the fused kernel needs no copies
            return Heads.apply(x_BNE, self.heads, parts)
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x_BNE.chunk(parts, dim=-1)]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        rate = self.dropout if self.training else 0.0
        if self.watch is None:
            out = attend(q, k, v, mask, rate=rate, causal=causal)
        else:
            weights = attention_weights(q, k, mask, causal)
            self.watch(weights)
            out = dropout(weights, rate) @ v
        return out.transpose(1, 2).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, rate: float = 0.0, causal: bool = False) -> Tensor:
    """softmax(q k / sqrt(D)) v for (B, H, N, D/H), ``mask`` bool broadcastable to (B, H, N, N), dropout at ``rate``.

    On a GPU this is the fused kernel; on a CPU too where it takes less time than what is written out, see ``_fused``.
    """
    if _fused(q, k, rate):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate, is_causal=causal)
    if torch.jit.is_tracing():
        return dropout(attention_weights(q, k, mask, causal), rate) @ v
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
    return PlainAttention.apply(q, k, v, mask, rate)


def _fused(q: Tensor, k: Tensor, rate: float) -> bool:
    """Whether ``attend`` takes the fused kernel, for queries and keys (..., N, D).

    On a CPU its backward pass takes five to ten times as long in bfloat16 (measured at 25 to 257 tokens), so there it
    is taken without gradients, from 64 tokens on in 0.7 of the time, or in float32, from 128 tokens on in 0.7 too.
    """
    if not written_out(q):
        return True
    tokens = min(q.shape[-2], k.shape[-2])
    if rate or tokens < READ or not torch.is_grad_enabled():
        return not rate and tokens >= READ
    return tokens >= LONG and q.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """softmax(q k / sqrt(D)): (B, H, N, N), each row of it summing to one; masks as in ``attend``.

    Of bfloat16 the softmax is in float32 inside and rounded once, to the type in which the weights are multiplied. To
    ask for ``dtype=torch.float32`` and round afterwards gives the same bits, and took up to 1.4 times as long.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1)


class SelfAttention(_Attention):
    """Each token reads the real tokens of its own sequence, or those that a mask of its own gives it."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__(width, heads, dropout)
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)

    def forward(
        self, x_BND: Tensor, mask_BN: Tensor | None = None, keep_BM: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:  # fmt: skip
        """(B, N, D) -> (B, N, D), or (B, M, D) for the queries at ``keep_BM`` alone; (real tokens, D) where packed.

        mask: which tokens are real, (B, N) bool; or which each of them reads, (B, N, N) bool, at least one each.
        """
        if keep_BM is None:
            q, k, v = self._split_parts(spread(self.qkv(x_BND), packing), 3)
        else:
            width = x_BND.shape[-1]
            (q_weight, weight), (q_bias, bias) = (p.split((width, 2 * width)) for p in self.qkv.parameters())
            q = self._split(F.linear(take(x_BND, keep_BM, packing), q_weight, q_bias))
            k, v = self._split_parts(spread(F.linear(x_BND, weight, bias), packing), 2)
        mask = _key_mask(mask_BN, keep_BM)
        if self.causal and (mask is not None or keep_BM is not None):
            at_N = torch.arange(k.shape[2], device=x_BND.device)
            earlier = at_N <= (at_N[None] if keep_BM is None else keep_BM)[:, None, :, None]
            mask = earlier if mask is None else mask & earlier
        attended = self._attend(q, k, v, mask, causal=self.causal and mask is None)
        return self.proj(attended if keep_BM is not None else packed(attended, packing))

    def read(
        self, x_BND: Tensor, past: KeyValues | None, mask_BN: Tensor | None = None, causal: bool = True
    ) -> tuple[Tensor, KeyValues]:
        """N tokens after those whose keys and values are ``past`` -> their output (B, N, D), and theirs with its own.

        For decoding token by token; equal to the last rows of a causal ``forward`` on the whole sequence. mask: which
        of the N are real; None = all. causal=False: they see each other both ways, as tokens of a picture do.
        """
        q, k, v = self._split_parts(self.qkv(x_BND), 3)
        if past is not None:
            k, v = torch.cat([past.k, k], dim=2), torch.cat([past.v, v], dim=2)
            if past.mask is not None or mask_BN is not None:
                mask_BN = torch.cat([_real(past.mask, past.k), _real(mask_BN, x_BND[:, None])], dim=1)
        mask, new, seen = _key_mask(mask_BN), q.shape[2], k.shape[2]
        if causal and new > 1:
            earlier = torch.ones(new, seen, dtype=torch.bool, device=k.device).tril(seen - new)
            mask = earlier if mask is None else mask & earlier
        return self.proj(self._attend(q, k, v, mask)), KeyValues(k, v, mask_BN)


def _real(mask_BN: Tensor | None, x_BHND: Tensor) -> Tensor:
    """The mask as a tensor (B, N), also where it is None."""
    size, length = x_BHND.shape[0], x_BHND.shape[2]
    return x_BHND.new_ones(size, length, dtype=torch.bool) if mask_BN is None else mask_BN


class CrossAttention(_Attention):
    """Each token of one sequence reads the tokens of another, of its own width."""

    def __init__(self, width: int, heads: int, source_width: int, dropout: float = 0.0) -> None:
        super().__init__(width, heads, dropout)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(source_width, 2 * width)

    def project(self, source_BND: Tensor, mask_BN: Tensor | None = None) -> KeyValues:
        """The keys and values of a source (B, N, source width)."""
        k, v = self._split_parts(self.kv(source_BND), 2)
        return KeyValues(k, v, mask_BN)

    def forward(
        self, x_BND: Tensor, sources: Sequence[KeyValues], folds: Sequence[int], packing: Packing | None = None
    ) -> Tensor:
        """(B, N, D) -> (B, N, D). The rows of ``x`` belong to the sources in turn, ``fold`` times over each.

        Rows that read the same source become one row with more queries, so that keys and values are never copied.
        """
        q = self._split(spread(self.q(x_BND), packing))
        rows = [source.k.shape[0] * fold for source, fold in zip(sources, folds, strict=True)]
        parts = [
            self._read(part, source, fold) for part, source, fold in zip(q.split(rows), sources, folds, strict=True)
        ]
        return self.proj(packed(parts[0] if len(parts) == 1 else torch.cat(parts), packing))

    def _read(self, q: Tensor, source: KeyValues, fold: int) -> Tensor:
        n = q.shape[2]
        q = q.unflatten(0, (fold, -1)).permute(1, 2, 0, 3, 4).flatten(2, 3)  # (B, H, fold x N, D/H)
        out = self._attend(q, source.k, source.v, _key_mask(source.mask))
        return out.unflatten(1, (fold, n)).transpose(0, 1).flatten(0, 1)
