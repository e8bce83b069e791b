"""What words ask for, found in pictures: built-in scenes on a CPU.

    mmkit train "projects/grounding/config.py:openmoji(start='runs/quickstart')" --out runs/grounding
    mmkit detect --model runs/grounding --image scene.png --text "a dog. a canoe." --out found.png
    mmkit detect --model runs/grounding --data openmoji --json grounding.json

Paper: Grounding DINO (Liu et al. 2023, https://arxiv.org/abs/2303.05499), see README.md. Built-in scenes: one to three
of 200 kinds of emoji on white, 96 pixels; every picture is asked for some of the names in training, and for all 200, in
chunks, when it is measured. Time and result: see README.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Rule, Run, mmkit_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.openmoji.expressions import Expressions
from mmkit.data.openmoji.kinds import emoji_names, first_kinds, pool_of, unboxed_kinds
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.sources.joined import Joined
from mmkit.data.texts.tokenizers import reuse, train_sentencepiece
from mmkit.evals.detection.evaluate import Detection
from mmkit.evals.detection.phrases import Phrases as Phrased
from projects.grounding.head import GroundingDINO
from projects.grounding.model import towers_mini
from projects.grounding.referring import Referring as Expressed
from projects.grounding.targets import Asking
from projects.grounding.telling import Telling

PLAIN = partial(TrainTransform, scale=(1.0, 1.0), randaugment=None)
SMALL = partial(
    GroundingDINO, width=128, heads=4, hidden=256, enhancer=2, decoder=3, queries=12, side=0.2, phrases=40
)  # fmt: skip


def openmoji(
    start: str | None = None, seed: int = 42, steps: int = 3000, size: int = 96, kinds: int = 200, lr: float = 1e-3,
    batch: int = 32, phrases: int = 40, captions: float = 0.0, told: bool = True, tower: float = 0.5,
) -> Experiment:  # fmt: skip
    """Grounding DINO on built-in scenes. start: a run whose towers it starts from, the quickstart's; None = nothing.

    A fifth of the kinds is never boxed (``unboxed_kinds``). told: whether half of the pictures show these too, and
    their captions say so; else what it knows of them is the pre-training's. captions: the share of pictures that are
    asked for by their caption. tower: what the towers' rate is of the head's.
    """
    scenes = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, counts=(2, 1, 1))
    boxed, every = (partial(scenes, split="train", n=60_000, pool=pool) for pool in ("boxed", "all"))
    classes = tuple(emoji_names(first_kinds(kinds)))
    groups = {"boxed": tuple(emoji_names(pool_of(kinds, "boxed"))), "unboxed": tuple(emoji_names(unboxed_kinds(kinds)))}
    asking = (
        partial(Telling, classes=classes, phrases=phrases, captions=captions, unknown=groups["unboxed"]) if told
        else partial(Asking, classes=classes, phrases=phrases, unknown=groups["unboxed"])
    )  # fmt: skip
    return _small(
        "grounding-openmoji", partial(SMALL, classes=classes, told=told),
        partial(Joined, parts=(boxed, every), weights=(1, 1)) if told else boxed, asking,
        partial(Detection, source=partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, split="test", n=500),
                groups=groups),
        start=start, seed=seed, steps=steps, size=size, lr=lr, batch=batch, tower=tower,
    )  # fmt: skip


def referring(
    start: str | None = None, seed: int = 42, steps: int = 3000, size: int = 96, kinds: int = 200, lr: float = 1e-3,
    batch: int = 32, tower: float = 0.5,
) -> Experiment:  # fmt: skip
    """One of two of a kind by an expression, "the dog left of the canoe": each picture is asked for by its own.

    Every fifth has it without its relation, so that a name alone is known too, of which either is right as often.
    """
    scenes = partial(Expressions, kinds=kinds, size=size, plain=True)
    train = (partial(scenes, split="train", n=60_000), partial(scenes, split="train", n=60_000, seed=1, bare=True))
    return _small(
        "grounding-referring", SMALL, partial(Joined, parts=train, weights=(4, 1)), partial(Expressed),
        partial(Phrased, source=partial(scenes, split="test", n=500), rounds=200), start=start, seed=seed, steps=steps,
        size=size, lr=lr, batch=batch, tower=tower,
    )  # fmt: skip


def _small(
    name: str, head: partial[Any], train: partial[Any], targets: partial[Any], measured: partial[Any], *,
    start: str | None, seed: int, steps: int, size: int, lr: float, batch: int, tower: float,
) -> Experiment:  # fmt: skip
    """What fits two CPU cores, from the towers of ``start`` or from nothing."""
    begins: dict[str, Any] = (
        {"tokenizer": partial(train_sentencepiece, vocab_size=1000)} if start is None
        else {"init": {"model": start}, "tokenizer": partial(reuse, path=f"{start}/tokenizer")}
    )  # fmt: skip
    scale = 1.0 if start is None else tower
    return Experiment(
        name=name,
        model=partial(towers_mini, image_size=size, max_tokens=32),
        heads={"ground": head},
        data=Data(
            train=train, image_size=size, max_tokens=32, transform=PLAIN, targets=targets, global_batch=batch
        ),
        optim=Optim(
            lr=lr, min_lr=lr / 100, warmup_frac=0.06, betas=(0.9, 0.98),
            rules=(
                Rule(pattern=r"^model\.", max_rank=1, lr_scale=scale, weight_decay=0.0),
                Rule(pattern=r"^model\.(image\.(cls|positions\.)|text\.embeddings\.)", lr_scale=scale, weight_decay=0.0,
                     optional=True),
                Rule(pattern=r"^model\.", lr_scale=scale), *mmkit_rules(),
            ),
        ),
        run=Run(steps=steps, seed=seed, save_every_steps=500, log_every_steps=50),
        evals={"detection": measured},
        **begins,
    )  # fmt: skip
