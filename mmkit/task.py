"""The one module that is trained, wrapped and saved: a model, its heads, and the momentum teacher.

``forward`` computes the weighted sum of the heads' losses and changes nothing. ``after_step`` runs once per optimizer
step, whatever the accumulation: bounds on the temperature, the teacher's average, the heads' queues. (The official code
updates its teacher at the start of a forward pass; at the end of the step before, it is the same teacher.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.base import Head
from mmkit.nn.block import PostNormBlock, PreNormBlock
from mmkit.nn.ema import EMA
from mmkit.nn.gather import sum_over_ranks, world_size
from mmkit.nn.temperature import Temperature
from mmkit.types import Batch, TaskOutput

Schedule = Callable[[int], float]
Carry = Mapping[str, Mapping[str, Tensor]]


class Task(nn.Module):
    """A model with objectives.

    Args:
        model: anything with the model protocol of ``features.py``.
        heads: objectives by the name under which they are logged and saved.
        weights: what each loss counts, a number or a function of the step; 1.0 where none is given.
        momentum: of the teacher's average; None for no teacher.
        alpha: the weight of the teacher's soft targets, a number or a function of the step.
        seed: of the draws that heads make through ``Features.gumbel``.
    """

    def __init__(
        self, model: nn.Module, heads: Mapping[str, Head], *, weights: Mapping[str, float | Schedule] | None = None,
        momentum: float | None = 0.995, alpha: float | Schedule = 0.4, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict(heads)
        self.weights: dict[str, float | Schedule] = {**dict.fromkeys(heads, 1.0), **(weights or {})}
        if unknown := self.weights.keys() - heads.keys():
            raise UserError(f"weights for heads that do not exist: {', '.join(sorted(unknown))}")
        self.alpha = alpha
        self.seed = seed
        self.ema: EMA | None = None
        if momentum is not None:
            distilled = {f"heads_{name}": head for name, head in heads.items() if head.distilled}
            self.ema = EMA({"model": model, **distilled}, momentum)
        self.constrain()

    def forward(self, batch: Batch, step: int) -> TaskOutput:
        """The sum of weight * loss over one rank's batch at one optimizer step.

        The mean over ranks of ``loss`` is the loss of one process with the joined batch, also where the ranks count
        different numbers of items.
        """
        f = self.features(batch, step)
        outputs = {name: head(f) for name, head in self._heads().items()}
        shares = self._shares({name: out.count for name, out in outputs.items()}, batch.pixels.device)
        total = torch.zeros((), device=batch.pixels.device)
        for name, out in outputs.items():
            total = total + _at(self.weights[name], step) * shares[name] * out.loss
        logs = {f"{name}/{key}": value for name, out in outputs.items() for key, value in out.logs.items()}
        return TaskOutput(
            loss=total,
            losses={name: (shares[name] * out.loss).detach() for name, out in outputs.items()},
            logs=logs,
            carry={name: out.carry for name, out in outputs.items()},
        )

    def features(self, batch: Batch, step: int) -> Features:
        """The views of a batch through the model and, where there is one, through its teacher."""
        alpha = _at(self.alpha, step) if self.ema is not None else 0.0
        teacher: Features | None = None
        twins: dict[nn.Module, nn.Module] = {}
        if self.ema is not None:
            teacher = Features(self.ema["model"], batch, step)
            twins = {head: self.ema[f"heads_{name}"] for name, head in self._heads().items() if head.distilled}
        return Features(self.model, batch, step, alpha=alpha, teacher=teacher, twins=twins, seed=self.seed)

    @torch.no_grad()
    def after_step(self, carries: Sequence[Carry]) -> None:
        """All that changes between optimizer steps; ``carries`` of every micro-batch of the step, in order."""
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

    def compile_blocks(self) -> None:
        """Compiles every transformer block, of the teacher too, where most of the time goes; the rest stays eager."""
        for module in self.modules():
            if isinstance(module, PreNormBlock | PostNormBlock):
                module.compile(dynamic=True)

    def _heads(self) -> Mapping[str, Head]:
        return cast(Mapping[str, Head], self.heads)

    def _shares(self, counts: Mapping[str, int | Tensor], device: torch.device) -> dict[str, float | Tensor]:
        """What this rank's mean counts in the mean over all items of all ranks, times the number of ranks."""
        if world_size() == 1:
            return dict.fromkeys(counts, 1.0)
        own = torch.stack([torch.as_tensor(count, dtype=torch.float32, device=device) for count in counts.values()])
        shares = own * world_size() / sum_over_ranks(own).clamp(min=1)
        return dict(zip(counts, shares.unbind(), strict=True))


def _at(value: float | Schedule, step: int) -> float:
    return value(step) if callable(value) else value
