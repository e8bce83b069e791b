"""What a head that reads pictures alone says of pictures that no training showed: its loss, and what it logs beside it.

For masked image modelling, where the last batches of a run would tell what it has learned of pictures that it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkit.data.collate import Sample
from mmkit.data.records import Source
from mmkit.errors import UserError
from mmkit.evals.evaluator import Evaluator, pixels_of
from mmkit.evals.metrics import Measured
from mmkit.heads.base import reads_words
from mmkit.inference.finite import finite
from mmkit.inference.predictor import Predictor
from mmkit.types import Pixels


@dataclass(frozen=True, kw_only=True)
class HeldOut(Evaluator):
    """The loss of the head named ``head`` (``error``) and its logs over the pictures of ``source``.

    Each is a mean over what the head counts (pictures, hidden patches); what a head says of a batch, such as the share
    of codes in use, is of batches of ``batch_size``. What is hidden is drawn anew for each place in a batch, and the
    same at each call.
    """

    head: str

    def needs(self, predictor: Predictor) -> tuple[Any, Source]:
        """The head and the source; UserError for a model that has no such head, and for one that reads words."""
        able = [name for name, head in predictor.heads.items() if not reads_words(head)]
        if self.head not in able:
            raise UserError(
                f"this model has no head {self.head!r} that reads pictures alone; such heads: "
                f"{', '.join(able) or 'none'}"
            )
        return predictor.heads[self.head], self.opened()

    def evaluate(self, predictor: Predictor) -> Measured:
        """UserError where the head counts nothing, as BEiT before its codes are found."""
        head, source = self.needs(predictor)

        def work(rows: Sequence[int], made: Sequence[Pixels]) -> tuple[int, Mapping[str, float]]:
            samples = [Sample(pixels=pixels, image_id=row, key="") for row, pixels in zip(rows, made, strict=True)]
            with predictor.inference():
                out = head(predictor.features(samples))
            logs = {name: float(log[0] if isinstance(log, tuple) else log) for name, log in out.logs.items()}
            return int(out.count), {"error": finite(out.loss, "losses").item(), **logs}

        passed = self.passed(self.parts(predictor, len(source), pixels_of(predictor, source), work))
        total = sum(count for count, _ in passed.found)
        if not total:
            raise UserError(f"the head {self.head!r} counts nothing in these pictures; it has not begun to learn")
        names = passed.found[0][1]
        means = {name: sum(count * said[name] for count, said in passed.found) / total for name in names}
        return Measured(values=means, n=len(passed.rows), left_out=passed.left_out)
