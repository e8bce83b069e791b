"""A few steps of tiny tasks under an engine, on this process or on several with a share of each batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.distributed.tensor import DTensor

from mmkit.config import Optim, Rule, Run, mmkit_rules, muon_rules, official_rules
from mmkit.heads.base import EachSample
from mmkit.heads.captioning import Captioner, PrefixCaptioner
from mmkit.ranks import rank, sum_over_ranks, world_size
from mmkit.task import Task
from mmkit.train.engines.choose import make_engine
from mmkit.train.setup import make_accelerator
from mmkit.types import HeadOutput
from tests.examples import HEADS, VOCAB, batch, task
from tests.sizes import albef_tiny, lit_tiny, siglip_tiny, vilt_tiny
from tests.test_accumulation import ShortOnes, rows

SAMPLES = 8
RATE = 1e-4


class Scaled(EachSample):
    """A head of somebody's own: a parameter without axes that it bounds after a step, and a log that is a parameter."""

    def __init__(self, spec) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.shift = nn.Parameter(torch.ones(3))

    def forward(self, f):
        value = (f.image_embed * f.text_embed).sum(1)
        loss = (self.scale * value + self.shift.sum()).square().mean()
        return HeadOutput(
            loss=loss, count=len(f.batch), logs={"scale": self.scale.detach(), "shift": self.shift.detach()[1]}
        )

    @torch.no_grad()
    def after_step(self, carries):
        self.scale.clamp_(1.497, 1.499)


class Borrows(EachSample):
    """A head that reads a module of the model's too: its parameters have two names."""

    def __init__(self, model) -> None:
        super().__init__()
        self.mlp = model.text.blocks[0].mlp

    def forward(self, f):
        return HeadOutput(loss=self.mlp(f.text.x[:, 0]).square().mean(), count=len(f.batch))


def borrowing(**options) -> Task:
    torch.manual_seed(0)
    model = albef_tiny(VOCAB)
    return Task(
        model, {"itc": HEADS["itc"](model.spec), "itm": HEADS["itm"](model.spec), "own": Borrows(model)}, **options
    )


def owning(**options) -> Task:
    torch.manual_seed(0)
    model = albef_tiny(VOCAB)
    return Task(
        model, {"itc": HEADS["itc"](model.spec), "itm": HEADS["itm"](model.spec), "own": Scaled(model.spec)}, **options
    )


def accumulating() -> Task:
    """One head that tells its counts beforehand, and one that must pass the batch to know them."""
    torch.manual_seed(0)
    model = albef_tiny(VOCAB)
    return Task(model, {"mlm": HEADS["mlm"](model.spec), "short": ShortOnes(model.spec)})


def odd(vocab_size):
    """Widths that neither two nor four processes divide, and activations that are made again."""
    return albef_tiny(
        vocab_size + 1,
        image_width=30,
        text_width=18,
        embed_dim=7,
        image_heads=3,
        text_heads=3,
        fusion_depth=2,
    )


def captioning() -> Task:
    """Two decoders; the second one's blocks read the picture before the words, by a method of their own."""
    torch.manual_seed(0)
    model, sizes = albef_tiny(VOCAB), {"depth": 1, "heads": 2, "max_tokens": 16, "dropout": 0.0}
    heads = {"itc": HEADS["itc"](model.spec), "itm": HEADS["itm"](model.spec)}
    return Task(model, heads | {"own": Captioner(model.spec, **sizes), "prefix": PrefixCaptioner(model.spec, **sizes)})


def captioned(b):
    """With its texts as captions."""
    index = torch.arange(len(b) * 4) // 4 * b.ids.shape[1] + torch.arange(len(b) * 4) % 4
    targets = {"caption_ids": b.ids, "caption_index": index, "caption_labels": b.ids[:, 1:5].flatten()}
    return replace(b, targets={**b.targets, **targets})


def apart() -> Task:
    """A model that begins with other weights on each process, one of them turned in memory."""
    made = task(("itc",), seed=rank(), model=lit_tiny)
    weight = made.model.text_proj.weight
    weight.data = weight.detach().t().contiguous().t()
    return made


FROZEN = (Rule(pattern=r"^model\.image\.blocks\.0", freeze=True), Rule(pattern=r"^heads", lr_scale=3.0), *mmkit_rules())


@dataclass(frozen=True, kw_only=True)
class Case:
    make: Callable[..., Task]
    micro: int = 1
    precision: str = "no"
    rules: tuple[Rule, ...] = field(default_factory=mmkit_rules)
    steps: int = 4
    run: dict[str, Any] = field(default_factory=dict)


CASES = {
    "albef": Case(make=task, rules=FROZEN, run={"reshard": True}),
    "odd": Case(make=lambda: task(model=odd)),
    "own head": Case(make=lambda: owning(momentum=None), rules=official_rules(), steps=2),
    "accumulated": Case(make=accumulating, micro=2, rules=muon_rules(2.0), steps=2),
    "shared": Case(make=borrowing, steps=2),
    "vilt": Case(make=lambda: task(("itm_mixed", "mlm_untied"), model=vilt_tiny, chunks=2), steps=2),
    "siglip": Case(make=lambda: task(("sigmoid",), model=siglip_tiny), steps=2),
    "lit": Case(make=apart, steps=2),
    "captions": Case(make=captioning, steps=2),
}


def take(case: Case, engine: str, look: Callable[[Any, Any], Any] | None = None) -> dict[str, Any]:
    """The steps of a case; losses and norms, the state at the end on the first process, and what ``look`` saw."""
    run = Run(steps=case.steps, engine=engine, **case.run)
    PartialState(cpu=True)
    accelerator = make_accelerator(run, case.precision)
    made = case.make().train()
    optim = Optim(lr=RATE, eps=1e-4, weight_decay=0.5, rules=case.rules)
    its = make_engine(run, accelerator)
    optimizer = its.prepare(made, optim, False)
    found: dict[str, Any] = {"losses": [], "norms": [], "logs": []}
    for step in range(case.steps):
        joined, count = batch(SAMPLES, seed=step), SAMPLES // world_size() // case.micro
        starts = [(m * world_size() + rank()) * count for m in range(case.micro)]
        micro = [captioned(rows(joined, start, start + count)) for start in starts]
        totals = its.count(micro, step).totals if case.micro > 1 else None
        total, carries = torch.zeros(()), []
        for number, part in enumerate(micro):
            with its.micro_batch(number == case.micro - 1):
                output = its.forward(part, step, number * count * world_size(), totals)
                accelerator.backward(output.loss)
            total += sum_over_ranks(output.loss.detach()) / world_size()
            carries.append(output.carry)
        found["logs"].append({name: float(value) for name, value in output.logs.items()})
        found["norms"].append(its.clip(0.5).item())
        found["losses"].append(total.item())
        for group in optimizer.param_groups:
            group["lr"] = RATE * group["lr_scale"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        its.check()
        made.after_step(carries)
    own = [p.to_local() if isinstance(p, DTensor) else p for p in made.parameters()]
    found["local"] = sum(p.numel() for p in own) / sum(p.numel() for p in made.parameters())
    found["looked"] = None if look is None else look(its, made)
    state = its.full_state()
    if state is not None:
        found["task"] = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in state.task.items()}
        found["optimizer"] = state.optimizer
    return found


def join(rank: int, world: int) -> None:
    """What a launcher tells a process."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world),
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
