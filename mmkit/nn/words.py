"""The vectors of words, whose gradient on a CPU is that of the words that were read.

PyTorch's is a whole matrix for each time that some are looked up: zeros but for a few hundred of 30,000 rows, which
takes longer than a layer. Where the same matrix judges the guesses of hidden words, its gradient is whole already, and
rows are added to it. Where it does not, it is made whole once, before anything else sees it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmkit.nn.kernels import written_out

FEW = 8
"""A matrix of less than so many rows for each one that is looked up has PyTorch's own gradient."""


class Words(nn.Embedding):
    """An embedding; the numbers are those of ``nn.Embedding``, forward and back."""

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape -> (..., D)."""
        weight = self.weight
        many = self.num_embeddings >= FEW * ids.numel() > 0
        if not many or not weight.requires_grad or not torch.is_grad_enabled() or not written_out(weight):
            return super().forward(ids)
        if type(weight) is not nn.Parameter or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().forward(ids)
        if _made_whole not in (weight._post_accumulate_grad_hooks or {}).values():
            weight.register_post_accumulate_grad_hook(_made_whole)
        return _Rows.apply(weight, ids)


def _made_whole(weight: Tensor) -> None:
    if weight.grad is not None and weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()


class _Rows(torch.autograd.Function):
    """Rows of a matrix, with a sparse gradient in which each row stands once."""

    @staticmethod
    def forward(ctx: Any, weight_VD: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.size = weight_VD.shape
        return F.embedding(ids, weight_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows_R, row_N = ctx.saved_tensors[0].unique(return_inverse=True)
        found_RD = grad.new_zeros(len(rows_R), ctx.size[1]).index_add_(0, row_N.flatten(), grad.flatten(0, -2))
        with torch.sparse.check_sparse_tensor_invariants(False):  # PyTorch 2.12 warns where it is said in the call
            return torch.sparse_coo_tensor(rows_R[None], found_RD, ctx.size, is_coalesced=True), None
