"""Whether re-ranking by the matching head helped: said, because a head that has learned little only spoils the order.

The joint space finds candidates; a matching head that puts them in a random order leaves, of the queries with a right
candidate among them, one in as many right as there are candidates.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from mmkit.evals.intervals import wilson
from mmkit.ranks import rank

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """Rates at k before and after. chance: of the first place, were the candidates of each query in a random order.

    what: what the rate is called, and for which direction. candidates: of each query; n: queries.
    """

    what: str
    before: Mapping[int, float]
    after: Mapping[int, float]
    chance: float
    candidates: int
    n: int

    @property
    def lowers(self) -> bool:
        """Whether the rate fell at any k."""
        return any(self.after[k] < rate for k, rate in self.before.items())

    @property
    def at_chance(self) -> bool:
        """Whether the first place is no better than a random order of the candidates could give."""
        return self.candidates > 1 and self.after[1] <= wilson(self.chance * self.n, self.n)[1]

    def flags(self) -> dict[str, bool]:
        """Both, for JSON."""
        return {"lowers": self.lowers, "at_chance": self.at_chance}

    def tell(self) -> None:
        """A warning with the numbers, on the first process, where re-ranking does harm or the head is at chance."""
        if rank() or not (self.lowers or self.at_chance):
            return
        parts = []
        if self.lowers:
            fallen = {k: rate for k, rate in self.before.items() if self.after[k] < rate}
            k = max(fallen, key=lambda k: fallen[k] - self.after[k])
            name = self.what.replace("@1", f"@{k}")
            parts.append(f"re-ranking lowers {name} from {self.before[k]:.1%} to {self.after[k]:.1%}")
        if self.at_chance:
            name = "" if self.lowers else f"{self.what}: "
            parts.append(
                f"{name}the matching head orders the {self.candidates} candidates no better than chance "
                f"({self.after[1]:.1%} where a random order gives {self.chance:.1%})"
            )
        log.warning("%s. Leave re-ranking out, or train the matching head (ITM) further", "; ".join(parts))
