"""GLIP on built-in scenes, on a CPU: detection as grounding, and phrases of captions beside it.

    mmkit train "projects/grounding/glip_config.py:glip(start='runs/quickstart')" --out runs/glip
    mmkit train "projects/grounding/glip_config.py:phrases(start='runs/quickstart')" --out runs/phrases
    mmkit detect --model runs/glip --image scene.png --text "a dog. a canoe." --out found.png
    mmkit detect --model runs/glip --data openmoji --json glip.json

Paper: GLIP (Li et al. 2022, https://arxiv.org/abs/2112.03857), see README.md. Built-in scenes: one to three of 200
kinds of emoji on white, 96 pixels. A fifth of the kinds is never boxed: captions alone tell of these. Time and result:
see README.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Rule, Run, mmkit_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.openmoji.kinds import emoji_names, first_kinds, pool_of, unboxed_kinds
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.sources.joined import Joined
from mmkit.data.texts.tokenizers import reuse, train_sentencepiece
from mmkit.evals.detection.evaluate import Detection
from projects.grounding.glip import GLIP
from projects.grounding.model import towers_mini
from projects.grounding.telling import Telling

PLAIN = partial(TrainTransform, scale=(1.0, 1.0), randaugment=None)
SMALL = partial(GLIP, width=128, depth=2, read=128, heads=4, scales=(1.0,), anchor=4.0, scale=0.1, phrases=40)


def glip(
    start: str | None = None, seed: int = 42, steps: int = 2000, size: int = 96, kinds: int = 200, lr: float = 1e-3,
    batch: int = 32, captions: float = 0.5, told: float = 1.0, tower: float = 0.2,
) -> Experiment:  # fmt: skip
    """GLIP on built-in scenes. start: a run whose towers it starts from, the quickstart's; None = nothing.

    captions: the share of pictures that are asked for by their caption. told: weight of what captions tell of kinds
    that are never boxed; 0 = of these nothing is learned. tower: what the towers' rate is of the head's.
    """
    scenes = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, counts=(2, 1, 1))
    boxed, others = (partial(scenes, split="train", n=60_000, pool=pool) for pool in ("boxed", "all"))
    train = partial(Joined, parts=(boxed, others), weights=(1, 1)) if told else boxed
    return _small("glip-openmoji", train, start, seed, steps, size, kinds, lr, batch, captions, told, tower)


def phrases(
    start: str | None = None, seed: int = 42, steps: int = 1000, size: int = 96, kinds: int = 200, lr: float = 1e-3,
    batch: int = 32, tower: float = 0.2,
) -> Experiment:  # fmt: skip
    """Phrase grounding alone, of captions whose phrases have boxes: what GLIP is pre-trained on beside detection."""
    train = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, split="train", n=60_000, pool="boxed")
    return _small("glip-phrases", train, start, seed, steps, size, kinds, lr, batch, 1.0, 0.0, tower)


def _small(
    name: str, train: partial[Any], start: str | None, seed: int, steps: int, size: int, kinds: int, lr: float,
    batch: int, captions: float, told: float, tower: float,
) -> Experiment:  # fmt: skip
    classes = tuple(emoji_names(first_kinds(kinds)))
    begins: dict[str, Any] = (
        {"tokenizer": partial(train_sentencepiece, vocab_size=1000)} if start is None
        else {"init": {"model": start}, "tokenizer": partial(reuse, path=f"{start}/tokenizer")}
    )  # fmt: skip
    scale = 1.0 if start is None else tower
    groups = {
        "boxed": tuple(emoji_names(pool_of(kinds, "boxed"))),
        "unboxed": tuple(emoji_names(unboxed_kinds(kinds))),
    }  # fmt: skip
    measured = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0, split="test", n=500)
    return Experiment(
        name=name,
        model=partial(towers_mini, image_size=size, max_tokens=32),
        heads={"ground": partial(SMALL, classes=classes, told=told)},
        data=Data(
            train=train,
            image_size=size,
            max_tokens=32,
            transform=PLAIN,
            targets=partial(
                Telling, classes=classes, captions=captions, unknown=groups["unboxed"]
            ),
            global_batch=batch,
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
        evals={"detection": partial(Detection, source=measured, groups=groups)},
        **begins,
    )  # fmt: skip
