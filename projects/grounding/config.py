"""What words ask for, found in pictures: built-in scenes on a CPU.

    mmkit train "projects/grounding/config.py:openmoji(start='runs/quickstart')" --out runs/grounding
    mmkit detect --model runs/grounding --image scene.png --text "a dog. a canoe." --out found.png
    mmkit detect --model runs/grounding --data openmoji --json grounding.json
    mmkit train "projects/grounding/config.py:referring(start='runs/quickstart')" --out runs/referring
    mmkit detect --model runs/referring --data openmoji-expressions:test --rule referring --json referring.json

Paper: Grounding DINO (Liu et al. 2023, https://arxiv.org/abs/2303.05499), see README.md. Built-in scenes: one to three
of 200 kinds of emoji on white, 96 pixels; every picture is asked for some of the names in training, and for all 200, in
chunks, when it is measured. Time and result: see README.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Run
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.openmoji.expressions import Expressions
from mmkit.data.openmoji.kinds import emoji_names, first_kinds
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import Want, open_source
from mmkit.evals.detection.evaluate import Detection
from mmkit.evals.detection.phrases import Phrases as Phrased
from projects.grounding.head import GroundingDINO
from projects.grounding.model import towers_mini
from projects.grounding.recipe import begins, groups_of, optim
from projects.grounding.referring import Referring as Expressed
from projects.grounding.targets import Asking
from projects.grounding.telling import Telling

WANTED: tuple[Want, ...] = ("boxes", "caption")
PLAIN = partial(TrainTransform, scale=(1.0, 1.0), randaugment=None)
SMALL = partial(
    GroundingDINO, width=128, heads=4, hidden=256, enhancer=2, decoder=3, queries=12, groups=3, side=0.4, phrases=40
)  # fmt: skip
ONE_GROUP = partial(SMALL, groups=1, side=0.2)
"""What expressions are learned with."""


def openmoji(
    start: str | None = None, seed: int = 42, steps: int = 1250, size: int = 96, kinds: int = 200, lr: float = 1.5e-3,
    batch: int = 64, phrases: int = 40, captions: float = 0.0, told: bool = True, tower: float = 0.5,
) -> Experiment:  # fmt: skip
    """Grounding DINO on built-in scenes. start: a run whose towers it starts from, the quickstart's; None = nothing.

    A fifth of the kinds is never boxed (``unboxed_kinds``). told: whether half of the pictures show these too, and
    their captions say so; else what it knows of them is the pre-training's. captions: the share of pictures that are
    asked for by their caption. tower: what the towers' rate is of the head's.
    """
    scenes = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, counts=(2, 1, 1))
    boxed, every = (partial(scenes, split="train", n=60_000, pool=pool) for pool in ("boxed", "all"))
    classes = tuple(emoji_names(first_kinds(kinds)))
    groups = groups_of(kinds)
    asking = (
        partial(Telling, classes=classes, phrases=phrases, captions=captions, unknown=groups["unboxed"]) if told
        else partial(Asking, classes=classes, phrases=phrases, unknown=groups["unboxed"])
    )  # fmt: skip
    return _small(
        "grounding-openmoji", partial(SMALL, classes=classes, told=told, sentences=captions > 0),
        partial(Joined, parts=(boxed, every), weights=(1, 1)) if told else boxed, asking,
        partial(Detection, source=partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, split="test", n=500),
                groups=groups, rounds=100),
        start=start, seed=seed, steps=steps, size=size, lr=lr, batch=batch, tower=tower,
    )  # fmt: skip


def referring(
    start: str | None = None, seed: int = 42, steps: int = 1500, size: int = 96, kinds: int = 200, lr: float = 1e-3,
    batch: int = 64, tower: float = 0.5, bare: float = 0.0,
) -> Experiment:  # fmt: skip
    """One of two of a kind by an expression, "the dog left of the canoe": each picture is asked for by its own.

    bare: the share of pictures whose expression has lost its relation, "the dog", which is either of the two as often.
    """
    scenes = partial(Expressions, kinds=kinds, size=size, plain=True)
    whole = partial(scenes, split="train", n=60_000)
    parts = (whole, partial(whole, seed=1, bare=True))
    return _small(
        "grounding-referring", ONE_GROUP, partial(Joined, parts=parts, weights=(1 - bare, bare)) if bare else whole,
        partial(Expressed), partial(Phrased, source=partial(scenes, split="test", n=500), rounds=200), start=start,
        seed=seed, steps=steps, size=size, lr=lr, batch=batch, tower=tower,
    )  # fmt: skip


def expressions(
    train: str, test: str | None = None, *, images: str | None = None, split: str | None = None,
    test_images: str | None = None, test_split: str | None = None, start: str | None = None, steps: int = 3000,
    size: int = 240, batch: int = 16, lr: float = 5e-4, seed: int = 42, tower: float = 0.5,
) -> Experiment:  # fmt: skip
    """Referring expressions of your own, or RefCOCO's: a picture, a caption that is one phrase, and the box it means.

    images, split: of the data, as for ``mmkit detect --data``. size: pixels of the squashed picture, a multiple of 12.
    A mirrored picture has its left and right exchanged in words too.
    """
    source = partial(open_source, spec=train, wants=WANTED, images=images, split=split)
    measured = (
        None if test is None else partial(open_source, spec=test, wants=WANTED, images=test_images, split=test_split)
    )
    return _small(
        "grounding-expressions", partial(ONE_GROUP, queries=30), source, partial(Expressed),
        None if measured is None else partial(Phrased, source=measured, rounds=200), start=start, seed=seed,
        steps=steps, size=size, lr=lr, batch=batch, tower=tower,
    )  # fmt: skip


def _small(
    name: str, head: partial[Any], train: partial[Any], targets: partial[Any], measured: partial[Any] | None, *,
    start: str | None, seed: int, steps: int, size: int, lr: float, batch: int, tower: float,
) -> Experiment:  # fmt: skip
    """What fits two CPU cores, from the towers of ``start`` or from nothing."""
    return Experiment(
        name=name,
        model=partial(towers_mini, image_size=size, max_tokens=32),
        heads={"ground": head},
        data=Data(
            train=train, image_size=size, max_tokens=32, transform=PLAIN, targets=targets, global_batch=batch
        ),
        optim=optim(lr, 1.0 if start is None else tower),
        run=Run(steps=steps, seed=seed, save_every_steps=500, log_every_steps=50),
        evals={} if measured is None else {"detection": measured},
        **begins(start),
    )  # fmt: skip
