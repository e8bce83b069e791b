"""The one module that is trained, wrapped and saved: a model, its heads, and the momentum teacher.

``forward`` computes the weighted sum of the heads' losses and changes nothing. ``after_step`` runs once per optimizer
step, whatever the accumulation: bounds on the temperature, the teacher's average, the heads' queues. (The official code
updates its teacher at the start of a forward pass; at the end of the step before, it is the same teacher.)

A step over several micro-batches, on several ranks, is the step of one process with the joined batch: each loss is the
mean over all items that it counts anywhere in the step. Gradients are wanted before the last micro-batch is read, so
``count`` finds the totals first (see ``Head.counts``), and ``forward`` is given them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from mmkit.chunks import check_chunks
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Head
from mmkit.nn.block import PostNormBlock, PreNormBlock
from mmkit.nn.ema import EMA
from mmkit.nn.temperature import Temperature
from mmkit.protocol import Model, check_layers
from mmkit.ranks import sum_over_ranks, world_size
from mmkit.seeds import check_seed
from mmkit.types import Batch, Count, HeadOutput, TaskOutput

Schedule = Callable[[int], float]
Carry = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class StepCounts:
    """What the losses count in one step.

    own: of this rank's micro-batches (micro-batches, losses) float32. totals: over all of them and all ranks, by name.
    """

    own: Tensor
    totals: dict[str, Tensor]

    def differ(self, counts: Sequence[Mapping[str, Count]]) -> dict[str, Tensor]:
        """By loss, whether the micro-batches then counted otherwise: bool scalars, on the device."""
        then = torch.stack([_stacked([one[name] for name in self.totals], self.own.device) for one in counts])
        wrong = ((then - self.own).abs() > 1e-3 * self.own.abs().clamp(min=1)).any(0)
        return dict(zip(self.totals, wrong.unbind(), strict=True))


class Task(nn.Module):
    """A model with objectives.

    Args:
        model: anything with the model protocol of ``protocol.py``.
        heads: objectives by the name under which they are logged and saved.
        weights: what each loss counts, a number or a function of the step; 1.0 where none is given.
        momentum: of the teacher's average; None for no teacher.
        alpha: the weight of the teacher's soft targets, a number or a function of the step.
        seed: of the draws that heads make through ``Features.random``.
        chunks: in how many a micro-batch passes the model, see ``chunks.py``.
        change: what becomes of a batch in training before any head sees it: (batch, seed, step, before) -> batch.
    """

    def __init__(
        self, model: nn.Module, heads: Mapping[str, Head], *, weights: Mapping[str, float | Schedule] | None = None,
        momentum: float | None = 0.995, alpha: float | Schedule = 0.4, seed: int = 0, chunks: int = 1,
        change: Callable[[Batch, int, int, int], Batch] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_seed(seed, "seed")
        check_chunks(model, chunks)
        self.model = model
        self.heads = nn.ModuleDict(heads)
        self.weights: dict[str, float | Schedule] = {**dict.fromkeys(heads, 1.0), **(weights or {})}
        if unknown := self.weights.keys() - heads.keys():
            raise UserError(f"weights for heads that do not exist: {', '.join(sorted(unknown))}")
        self.alpha = alpha
        self.seed = seed
        self.chunks = chunks
        self.change = change
        self.layers = frozenset(name for head in heads.values() for name in head.reads_layers)
        if self.layers:
            check_layers(cast(Model, model).spec, self.layers)
        self.ema: EMA | None = None
        self.constrain()
        if momentum is not None:
            distilled = {f"heads_{name}": head for name, head in heads.items() if head.distilled}
            self.ema = EMA({"model": model, **distilled}, momentum)

    def forward(
        self, batch: Batch, step: int, before: int = 0, totals: Mapping[str, Count] | None = None
    ) -> TaskOutput:
        """The sum of weight * loss over one rank's micro-batch of one optimizer step.

        before: samples of the step, of all ranks, in the micro-batches before this one. totals: what each loss counts
        in the whole step, as ``count`` says; None where this is the only micro-batch. The sum over the micro-batches of
        the mean over the ranks of ``loss`` is the loss of one process with the joined batch.
        """
        f = self.features(batch, step, before, any(head.needs_masking for head in self._heads().values()))
        outputs = {name: head(f) for name, head in self._heads().items()}
        parts = {_joined(name, part): value for name, out in outputs.items() for part, value in out.parts.items()}
        counts = {name: count for name, (_, count) in parts.items()}
        shares = self._shares(counts, totals, batch.pixels.device)
        losses = {
            name: torch.stack([shares[_joined(name, part)] * loss for part, (loss, _) in out.parts.items()]).sum()
            for name, out in outputs.items()
        }
        total = torch.stack([_at(self.weights[name], step) * loss for name, loss in losses.items()]).sum()
        several = {name: shares[name] * loss for name, (loss, _) in parts.items() if name not in losses}
        return TaskOutput(
            loss=total,
            losses={name: loss.detach() for name, loss in (losses | several).items()},
            logs={
                f"{name}/{key}": value[0] if isinstance(value, tuple) else value
                for name, out in outputs.items()
                for key, value in out.logs.items()
            },
            counts=counts,
            means={f"losses.{name}": (loss.detach(), count) for name, (loss, count) in parts.items()}
            | {
                f"{name}.{key}": value
                for name, out in outputs.items()
                for key, value in _logged(out, len(batch)).items()
            },
            carry={name: out.carry for name, out in outputs.items()},
        )

    @torch.no_grad()
    def count(self, batches: Sequence[Batch], step: int, device: torch.device) -> StepCounts:
        """What each loss counts in the micro-batches of a step, which may still be on the CPU.

        From the batches alone for the heads that can tell; the others run once more, without gradient or dropout.
        """
        before, names, found = 0, [], []
        for batch in batches:
            counts = self._counts(batch, step, before, device)
            names = list(counts)
            found.append(_stacked(list(counts.values()), device))
            before += len(batch) * world_size()
        own = torch.stack(found)
        return StepCounts(own=own, totals=dict(zip(names, sum_over_ranks(own.sum(0)).unbind(), strict=True)))

    def _counts(self, batch: Batch, step: int, before: int, device: torch.device) -> dict[str, Count]:
        told = replace(batch, pixels=batch.pixels[:, :0], normalise=None).to(device, non_blocking=True)
        f = Features(_Absent(), told, step, seed=self.seed, before=before)
        found = {name: head.counts(f) for name, head in self._heads().items()}
        unknown = [name for name, count in found.items() if count is None]
        if unknown:
            mode = self.training
            self.eval()
            f = self.features(batch.to(device, non_blocking=True), step, before)
            for name in unknown:
                found[name] = {part: count for part, (_, count) in self._heads()[name](f).parts.items()}
            self.train(mode)
        each = {name: count if isinstance(count, Mapping) else {"": count} for name, count in found.items()}
        return {_joined(name, part): n for name, parts in each.items() for part, n in parts.items() if n is not None}

    def features(self, batch: Batch, step: int, before: int = 0, hides: bool = False) -> Features:
        """The views of a batch through the model and, where there is one, through its teacher.

        In training of what ``change`` makes of it; both see the same. hides: whether a head reads the masked text.
        """
        if self.change is not None and self.training:
            batch = self.change(batch, self.seed, step, before)
        made = partial(
            Features, batch=batch, step=step, seed=self.seed, before=before, layers=self.layers, chunks=self.chunks
        )
        if self.ema is None:
            return made(self.model, hides=hides)
        twins: dict[nn.Module, nn.Module] = {
            head: self.ema[f"heads_{name}"] for name, head in self._heads().items() if head.distilled
        }
        alpha = _at(self.alpha, step)
        teacher = made(self.ema["model"], hides=hides and alpha != 0)
        return made(self.model, alpha=alpha, teacher=teacher, twins=twins, hides=hides)

    @torch.no_grad()
    def after_step(self, carries: Sequence[Carry]) -> None:
        """All that changes between optimizer steps; ``carries`` of every micro-batch of the step, in order.

        Bounds come first: the teacher follows only values that are allowed.
        """
        self.constrain()
        if self.ema is not None:
            self.ema.update()
        for name, head in self._heads().items():
            head.after_step([carry[name] for carry in carries])

    def constrain(self) -> None:
        """Brings bounded parameters back within their bounds; also to be called after loading foreign weights."""
        for module in self.model.modules():
            if isinstance(module, Temperature):
                module.constrain()

    def compile_blocks(self, within: bool = False) -> None:
        """Compiles every transformer block, of the teacher too, where most of the time goes; the rest stays eager.

        within: only what a block's attention and MLP compute, where an engine does something before and after each.

        torch keeps compiled code on disk and finds it again by its settings. ``ATEN_CPU_CAPABILITY`` is none of them,
        so that code made for vectors of another width would be taken, and write beyond its arrays or leave parts of
        them unwritten: the width becomes a setting here. On a GPU torch 2.11 fails at an analysis of fused reductions
        whose shapes vary, which is not meant for them: it is left out.
        """
        from torch._inductor import config
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        config.cpp.simdlen = pick_vec_isa().bit_width()
        config.triton.coalesce_tiling_analysis = False
        for module in self.modules():
            if isinstance(module, PreNormBlock | PostNormBlock):
                for part in (module.attn, getattr(module, "cross", None), module.mlp) if within else ():
                    if part is not None:
                        vars(part)["forward"] = torch.compile(part.forward, dynamic=True)
                if not within:
                    module.compile(dynamic=True)

    def _heads(self) -> Mapping[str, Head]:
        return cast(Mapping[str, Head], self.heads)

    def _shares(
        self, counts: Mapping[str, Count], totals: Mapping[str, Count] | None, device: torch.device
    ) -> dict[str, Tensor]:
        """What this micro-batch's mean counts in the mean over all items of the step, times the number of ranks."""
        own = _stacked(list(counts.values()), device)
        if totals is None:
            all_N = sum_over_ranks(own)
        elif totals.keys() == counts.keys():
            all_N = _stacked([totals[name] for name in counts], device)
        else:
            said, told = (", ".join(sorted(names)) for names in (counts, totals))
            raise UserError(
                f"the heads count {said}; before the step they said {told}: give each head's `counts` the names of the "
                "parts that its `forward` gives, always the same"
            )
        shares = own * world_size() / torch.where(all_N > 0, all_N, 1.0)
        return dict(zip(counts, shares.unbind(), strict=True))


class _Absent:
    """In the place of a model, for what must do without."""

    def __getattr__(self, name: str) -> None:
        raise UserError(
            f"a head's `counts` asked the model for {name!r}: it must tell from the batch alone, or return None"
        )


def _logged(out: HeadOutput, samples: int) -> dict[str, tuple[Tensor | float, Count]]:
    """What a head logs, with the number of items that each is a mean over."""
    usual = samples if out.count is None else out.count
    return {key: value if isinstance(value, tuple) else (value, usual) for key, value in out.logs.items()}


def _joined(head: str, part: str) -> str:
    return f"{head}.{part}" if part else head


def _stacked(values: Sequence[Count], device: torch.device) -> Tensor:
    """(N,) float32 of numbers and scalars on the device; numbers travel together, and nothing waits for the device."""
    if not any(isinstance(value, Tensor) for value in values):
        return torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True)
    return torch.stack(
        [
            value.detach().to(device, torch.float32)
            if isinstance(value, Tensor)
            else torch.full((), float(value), device=device)
            for value in values
        ]
    )


def _at(value: float | Schedule, step: int) -> float:
    return value(step) if callable(value) else value
