"""An evaluator for tests, and a run that has it."""

from dataclasses import dataclass
from functools import partial

from PIL import Image

from mmkit.config import Experiment
from mmkit.ranks import rank
from tests.train.fakes import COLOURS, change, plain

TEXTS = [f"a {colour} square" for colour in COLOURS]


@dataclass(frozen=True, kw_only=True)
class Similar:
    """Similarities of pictures and texts, and a match; the second process asks more often than the first."""

    def __call__(self, predictor) -> dict[str, float]:
        pictures = [Image.new("RGB", (24, 24), colour) for colour in COLOURS]
        for _ in range(1 + rank()):
            similar = predictor.encode_image(pictures) @ predictor.encode_text(TEXTS).T
        return {"own": float(similar.diag().sum()), "match": float(predictor.match(pictures[:1], TEXTS[:1]))}


def small() -> Experiment:
    """Four steps without dropout, an evaluation after the second and after the last."""
    run = dict(eval_every_steps=2, log_every_steps=1, best="similar.own")
    return change(plain(4), run=run, evals={"similar": partial(Similar)})
