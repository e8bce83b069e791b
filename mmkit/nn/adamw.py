"""PyTorch's AdamW without PyTorch's compiler beside it.

There each method first imports ``torch._dynamo``, to tell a compiler to leave the method alone: a second, and 150 MB
that a process then keeps. Below that the methods are as they are here; no optimizer is compiled.
"""

from __future__ import annotations

from inspect import unwrap

import torch


class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW`` to the bit, without ``differentiable``."""

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
