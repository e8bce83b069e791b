"""A step on shapes alone: what it keeps in memory, and how much it multiplies. Nothing is computed, nothing allocated.

The task is built on PyTorch's meta device and passed forward and backward under ``FakeTensorMode``; each storage is
counted from its first operation until nothing holds it any more. It agrees with what a GPU reported to a percent
(benchmarks/RESULTS.md). A step that depends on values, as where boxes are matched, is taken in numbers with a few
samples on this machine, and counted the same way; of more samples it is a straight line. Left out: what several
processes send each other, and the memory that kernels take for a moment inside themselves.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mmkit.config import Experiment
from mmkit.errors import UserError
from mmkit.nn.kernels import as_on_a_gpu
from mmkit.task import Task
from mmkit.train.build import make_task
from mmkit.train.needs.samples import make_batch
from mmkit.train.optim import make_optimizer
from mmkit.train.rng import undisturbed

log = logging.getLogger("mmkit.train")

FEW = (2, 4)
"""Samples of a step that is taken in numbers."""

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a model is told of its tokenizer."""

    vocab_size: int
    pad_id: int = 0


@dataclass(frozen=True, kw_only=True)
class Passed:
    """Of one forward and backward pass over ``size`` samples.

    bytes: the most that it holds beside weights, teacher and buffers; the gradients come in its course. flops: of
    products, forward and back.
    """

    size: int
    bytes: int
    flops: int


def make_shapes(exp: Experiment, words: Words | None, steps_per_epoch: int = 1) -> Task:
    """The task of a run without its numbers; what ``optim.rules`` freeze has no gradient. UserError as of the run."""
    with undisturbed(), torch.device("meta"):
        task = make_task(exp, words, steps_per_epoch)
        make_optimizer(task, exp.optim)
    return task


def passed(
    task: Task, exp: Experiment, size: int, *, gpu: bool, precision: str, words: Words | None = None
) -> Passed:  # fmt: skip
    """Take a step of ``size`` samples. gpu: with the operations of a GPU. precision: "no", "bf16" or "fp16". words: of
    prompts.

    UserError for a head that no such batch can be made for.
    """
    with ExitStack() as stack:
        stack.enter_context(undisturbed())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        if gpu:
            stack.enter_context(_fused())
        live = stack.enter_context(_Live())
        stack.enter_context(_placed(task))
        return _counted(task, exp, size, live, precision, words)


def in_numbers(
    exp: Experiment, words: Words | None, sizes: Sequence[int], *, gpu: bool, precision: str
) -> list[Passed]:  # fmt: skip
    """The same for each of ``sizes``, with weights at random and every value computed, on this machine's CPU."""
    found = []
    for size in sizes:
        with ExitStack() as stack:
            stack.enter_context(undisturbed())
            task = make_task(exp, words, 1)
            make_optimizer(task, exp.optim)
            if gpu:
                stack.enter_context(_fused())
            live = stack.enter_context(_Live())
            live.know([*task.parameters(), *task.buffers()])
            found.append(_counted(task, exp, size, live, precision, words))
    return found


def _counted(
    task: Task, exp: Experiment, size: int, live: _Live, precision: str, words: Words | None
) -> Passed:  # fmt: skip
    half, reads = HALF.get(precision), bool(task.model.spec.vocab_size)  # type: ignore[union-attr]
    live.most = before = live.now
    batch = make_batch(exp, dict(task.heads.items()), size, reads, None if words is None else words.vocab_size)
    with nullcontext() if half is None else torch.autocast("cpu", half):
        loss = task(batch, 1).loss
    loss.backward()
    return Passed(size=size, bytes=live.most - before, flops=live.flops)


@contextmanager
def _placed(task: Task) -> Iterator[None]:
    """Inside, the meta tensors of the task are fake ones, with gradients of their own; after, what they were."""
    kept: list[tuple[nn.Module, str, Tensor]] = []
    made: dict[int, Any] = {}
    for module in task.modules():
        for place in (module._parameters, module._buffers):
            for name, value in place.items():
                if value is not None:
                    kept.append((module, name, value))
                    if id(value) not in made:
                        fake = torch.zeros(value.shape, dtype=value.dtype)
                        made[id(value)] = (
                            nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake
                        )
                    place[name] = made[id(value)]
    try:
        yield
    finally:
        for module, name, value in kept:
            place = module._parameters if name in module._parameters else module._buffers
            place[name] = value  # type: ignore[assignment]


class _Live(TorchDispatchMode):
    """now, most: bytes of all storages that operations made and something still holds. flops: of their products.

    torch's own counter of these is a mode that follows modules, and so holds what checkpoints would let go.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.flops = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return out

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Tensors that were there before."""
        for tensor in tensors:
            self._note(tensor.untyped_storage())

    def _note(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


@contextmanager
def _fused() -> Iterator[None]:
    """Attention and dropout as a GPU keeps them: of attention the output alone, of dropout a byte for each value.

    Names are replaced, and no mode is entered: what checkpoints recompute in the backward pass must find the same.
    """

    def attention(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        mask = attn_mask
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype)
        more, width = q.shape[-1] - v.shape[-1], v.shape[-1]
        v = F.pad(v, (0, more)) if more > 0 else v  # this kernel wants one width, those of a GPU do not
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, is_causal, attn_mask=mask
        )[0]
        return out[..., :width] if more > 0 else out

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return torch.native_dropout(x, p, training)[0]

    with (
        as_on_a_gpu(), patch.object(F, "scaled_dot_product_attention", attention), patch.object(F, "dropout", dropout)
    ):  # fmt: skip
        yield


def tried(
    exp: Experiment, task: Task, size: int, *, gpu: bool, precision: str, words: Words | None = None
) -> Passed:  # fmt: skip
    """``passed``, and UserError in place of what else a part of somebody's own raises on shapes alone."""
    try:
        return passed(task, exp, size, gpu=gpu, precision=precision, words=words)
    except UserError:
        raise
    except Exception as error:  # whatever a head of one's own does
        raise Valued(
            f"a step of {', '.join(task.heads)} cannot be taken on shapes alone ({type(error).__name__}: "
            f"{str(error)[:200]})"
        ) from error


class Valued(UserError):
    """A step that depends on values."""


@dataclass
class Trial:
    """Steps of one task. valued: of ``FEW`` samples in numbers, where shapes alone do not do; then all follow these."""

    exp: Experiment
    words: Words | None
    task: Task
    gpu: bool
    precision: str
    valued: list[Passed] | None = None

    def step(self, size: int) -> Passed:
        """Of so many samples. UserError in place of what a part of somebody's own raises both ways."""
        if self.valued is None:
            try:
                return tried(
                    self.exp, self.task, size, gpu=self.gpu, precision=self.precision, words=self.words
                )  # fmt: skip
            except Valued as error:
                self.valued = self._in_numbers(str(error))
        one, other = self.valued
        grown = (size - one.size) / (other.size - one.size)
        return Passed(
            size=size, bytes=round(one.bytes + grown * (other.bytes - one.bytes)),
            flops=round(one.flops + grown * (other.flops - one.flops)),
        )  # fmt: skip

    def _in_numbers(self, why: str) -> list[Passed]:
        log.info("%s: a step depends on values; it is taken in numbers, with %d samples", self.exp.name, FEW[-1])
        try:
            return in_numbers(self.exp, self.words, FEW, gpu=self.gpu, precision=self.precision)
        except UserError:
            raise
        except Exception as error:  # a head of one's own that learns from what nobody can make up
            raise UserError(
                f"{why}, nor in numbers ({type(error).__name__}: {str(error)[:200]}); leave the head out for the plan "
                "(--set heads.NAME=null), and allow for it"
            ) from error
