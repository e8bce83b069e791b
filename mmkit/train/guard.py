"""Stops a run on a non-finite loss or gradient, a miscount, or too many unreadable pictures, on all processes at once.

Each step's flags travel in one small vector: summed over the processes, and read without waiting for the device. On
the CPU they are read before the optimizer's step, on a GPU one step later (and always before anything is saved), so
the message still names the step and the samples where it happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from mmkit.errors import UserError, shortened
from mmkit.ranks import gather_objects, rank, world_size

FEW = 100
"""Of fewer samples than this, a share of bad ones says nothing yet."""


@dataclass
class _Watched:
    step: int
    names: list[str]
    flags: Tensor
    copy: Tensor
    ready: torch.cuda.Event | None
    keys: list[tuple[str, ...]]
    per_micro: list[Tensor] = field(default_factory=list)
    counted: tuple[str, ...] = ()


class Guard:
    """One instance watches one run. ``gradients``: whether a non-finite gradient is an error (not under fp16)."""

    def __init__(self, device: torch.device, *, max_bad_fraction: float, gradients: bool = True) -> None:
        self.device = device
        self.max_bad_fraction = max_bad_fraction
        self.gradients = gradients
        self.stop_asked = self.save_asked = self.save_failed = False
        self.seen = 0
        self.bad = 0
        self._bad_names: list[str] = []
        self._pending: _Watched | None = None

    def watch(
        self, step: int, losses: Sequence[Mapping[str, Tensor]], norm: Tensor, keys: Sequence[tuple[str, ...]],
        skipped: Sequence[str], stop: bool, miscounted: Mapping[str, Tensor] | None = None, *, save: bool = False,
        failed: bool = False,
    ) -> None:  # fmt: skip
        """Take note of step ``step`` (from 1): the losses and sample names of each micro-batch, the gradient's norm.

        miscounted: by loss, whether its head counted otherwise than it had said before the step. What one process asks
        or tells (``stop``, ``save``, ``failed``: a save in the background has), all then know (``stop_asked``, ...).
        """
        names = list(losses[0])
        per_micro = [torch.stack([part[n].float() for n in names]).isfinite().logical_not() for part in losses]
        gradient = norm.isfinite().logical_not() if self.gradients else torch.zeros_like(norm, dtype=torch.bool)
        wrong = dict(miscounted or {})
        found = torch.cat([torch.stack(per_micro).any(0), torch.stack([gradient, *wrong.values()])]).float()
        facts = torch.tensor([stop, save, failed, len(skipped), sum(len(k) for k in keys)], dtype=torch.float32)
        flags = torch.cat([found, facts.to(self.device, non_blocking=True)])
        if world_size() > 1:
            dist.all_reduce(flags)
        self._bad_names = (self._bad_names + list(skipped))[:5]
        copy, ready = flags, None
        if self.device.type == "cuda":
            copy = flags.to("cpu", non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        pending = self._pending
        self._pending = _Watched(step, names, flags, copy, ready, list(keys), per_micro, tuple(wrong))
        if self.device.type != "cuda":
            self.check()
        elif pending is not None:
            self._read(pending)

    def check(self) -> None:
        """Read what is still unread; before a save, an evaluation and the end."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._read(pending)

    def _read(self, watched: _Watched) -> None:
        if watched.ready is not None:
            watched.ready.synchronize()
        *flags, stop, save, failed, bad, seen = watched.copy.tolist()
        found, wrong = flags[: len(watched.names) + 1], flags[len(watched.names) + 1 :]
        self.stop_asked = self.stop_asked or stop > 0
        self.save_asked = self.save_asked or save > 0
        self.save_failed = self.save_failed or failed > 0
        self.bad += round(bad)
        self.seen += round(seen)
        if any(found):
            raise UserError(self._message(watched, found))
        if any(wrong):
            names = [name for name, flag in zip(watched.counted, wrong, strict=True) if flag]
            raise UserError(
                f"step {watched.step}: the loss {', '.join(map(repr, names))} was over another number of items than "
                "`counts` of its head had said, so the micro-batches of the step were weighed wrongly; correct "
                "`counts`, or let it return None"
            )
        if self.bad > self.max_bad_fraction * max(self.seen, FEW):
            names = [name for part in gather_objects(self._bad_names) for name in part]
            raise UserError(
                f"{self.bad} of {self.seen} pictures could not be read, more than data.max_bad_fraction = "
                f"{self.max_bad_fraction}; first: {'; '.join(names[:5])}. `mmkit data check` lists them all"
            )

    def _message(self, watched: _Watched, found: Sequence[float]) -> str:
        wrong = [name for name, flag in zip([*watched.names, "gradient"], found, strict=True) if flag]
        names = [name for name in wrong if name not in ("loss", "gradient")] or wrong[:1]
        own = []
        for flags, keys in zip(watched.per_micro, watched.keys, strict=True):
            if flags.any() or not any(found[:-1]):
                own += [f"{key} (rank {rank()})" if world_size() > 1 else key for key in keys]
        samples = [name for part in gather_objects(own) for name in part]
        titles = {"loss": "the weighted loss", "gradient": "the gradient"}
        what = ", ".join(titles.get(name, f"loss {name!r}") for name in names)
        return (
            f"step {watched.step}: {what} is not finite; nothing was saved after it. Samples: "
            f"{shortened(samples, 64)}. Try a lower optim.lr, a longer warm-up, or run.precision=no"
        )
