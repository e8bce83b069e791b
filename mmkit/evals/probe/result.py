"""What probes found: rates by kind of head and by token, with what was chosen and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkit.evals.intervals import wilson
from mmkit.files import nested

if TYPE_CHECKING:
    from rich.table import Table

KIND = {"knn": "nearest neighbours", "linear": "linear", "attentive": "attentive"}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was chosen for one token, and its rate on the training pictures held out for choosing.

    k: neighbours; rate, standard: of a linear head, and whether its features were standardised; loss: of it, there too.
    """

    held_out: float
    loss: float = 0.0
    k: int | None = None
    rate: float = 0.0
    standard: bool = False

    def order(self) -> tuple[float, float]:
        """By which the best is chosen: the rate, then the loss."""
        return self.held_out, -self.loss

    def told(self) -> dict[str, float | bool]:
        """The same as plain values, by name."""
        own = {"rate": self.rate, "standardised": self.standard} if self.k is None else {"k": self.k}
        return {"held_out": self.held_out, **own}


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """labels: (n,) int64, those of the test. by: kind -> token -> what was chosen, and the classes that it says (n,).

    attentive: the classes by the head that reads all tokens; None = it was left out. trained_on: how many pictures.
    shown: "pictures" or "clips", for the title.
    """

    classes: tuple[str, ...]
    labels: Tensor
    trained_on: int
    by: Mapping[str, Mapping[str, tuple[Reading, Tensor]]]
    attentive: Tensor | None
    shown: str = "pictures"

    def best(self, kind: str) -> tuple[str, Reading, Tensor]:
        """The token whose head was better on the pictures held out for choosing; of equals the first by name."""
        name = max(sorted(self.by[kind]), key=lambda name: self.by[kind][name][0].order())
        return name, *self.by[kind][name]

    def metrics(self) -> dict[str, float]:
        """``knn.top1``, ``linear.top1``, ``attentive.top1`` with intervals, each token's own; ``n``, ``classes``.

        chance: of always saying the most frequent class of the test.
        """
        out: dict[str, float] = {}
        for kind, tokens in self.by.items():
            out |= self._rate(kind, self.best(kind)[2])
            for name, (_, found) in tokens.items():
                out |= {f"{kind}.{name}.top1": self._hits(found).mean().item()}
        if self.attentive is not None:
            out |= self._rate("attentive", self.attentive)
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        return out | {
            "n": float(len(self.labels)), "classes": float(len(self.classes)), "trained_on": float(self.trained_on),
            "chance": counts.max().item() / len(self.labels),
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The metrics nested, and what was chosen; ``attentive`` is null where it was left out."""
        out: dict[str, Any] = nested(self.metrics())
        out |= {name: int(out[name]) for name in ("n", "classes", "trained_on")}
        for kind, tokens in self.by.items():
            out[kind] |= {"token": self.best(kind)[0]}
            for name, (reading, _) in tokens.items():
                out[kind][name] |= reading.told()
        return {"attentive": None} | out

    def table(self) -> Table:
        """A row for each kind of head, and below it one for each token."""
        from rich.table import Table

        title = f"probe: {len(self.labels)} {self.shown} of {len(self.classes)} classes, trained on {self.trained_on}"
        table = Table(title=title, title_justify="left")
        for column in ("", "top-1", "95 % interval", "chosen on held-out training pictures"):
            table.add_column(column, justify="right" if column == "top-1" else "left")
        rates = self.metrics()
        for kind in (*self.by, *(() if self.attentive is None else ("attentive",))):
            low, high = rates[f"{kind}.interval_low"], rates[f"{kind}.interval_high"]
            token = f"token {self.best(kind)[0]}" if kind in self.by else "nothing: reads all tokens"
            table.add_row(KIND[kind], f"{rates[f'{kind}.top1']:.1%}", f"{low:.1%} to {high:.1%}", token)
            for name, (reading, _) in self.by[kind].items() if kind in self.by else ():
                told = ", ".join(f"{key} {value:.3g}" for key, value in reading.told().items())
                table.add_row(f"  {name}", f"{rates[f'{kind}.{name}.top1']:.1%}", "", told)
        table.add_row("chance", f"{rates['chance']:.1%}", "", "the most frequent class")
        return table

    def _hits(self, found: Tensor) -> Tensor:
        return (found == self.labels).double()

    def _rate(self, kind: str, found: Tensor) -> dict[str, float]:
        hits = self._hits(found)
        low, high = wilson(hits.sum().item(), len(hits))
        return {f"{kind}.top1": hits.mean().item(), f"{kind}.interval_low": low, f"{kind}.interval_high": high}
