"""Where are objects, and what are they? Built-in scenes on a CPU, and data of your own.

    mmkit train "projects/detection/config.py:openmoji(start='runs/quickstart')" --out runs/detr
    mmkit train projects/detection/config.py:openmoji --out runs/detr-scratch
    mmkit detect --model runs/detr --data openmoji --json detr.json
    mmkit detect --model runs/detr --image scene.png --out found.png

Papers: DETR (Carion et al. 2020, https://arxiv.org/abs/2005.12872) and its relatives, see README.md. Built-in scenes:
one to three of 200 kinds of emoji on white, 96 pixels; 500 scenes of combinations that were never shown are measured.
Time and result: see README.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Rule, Run, mmkit_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.objects import Objects
from mmkit.data.openmoji.kinds import emoji_names, first_kinds
from mmkit.data.openmoji.scenes import Scenes
from mmkit.evals.detection.evaluate import Detection
from mmkit.models.sizes.vision import vision_mini
from mmkit.train.inherit import image_tower
from projects.detection.head import DETR

PLAIN = partial(TrainTransform, scale=(1.0, 1.0), randaugment=None)  # the whole picture, mirrored or not
SMALL_DETR = partial(DETR, width=128, heads=4, hidden=256, decoder=3, queries=12, groups=3, denoising=3)


def openmoji(
    start: str | None = None, seed: int = 42, steps: int = 3000, size: int = 96, kinds: int = 200, lr: float = 1e-3
) -> Experiment:
    """DETR on built-in scenes. start: a run whose image tower it starts from, the quickstart's; None = nothing."""
    scenes = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0)
    classes = tuple(emoji_names(first_kinds(kinds)))
    return small(
        "detection-openmoji", SMALL_DETR, classes, train=partial(scenes, split="train", n=60_000, counts=(2, 1, 1)),
        test=partial(scenes, split="test", n=500), start=start, seed=seed, steps=steps, size=size, lr=lr,
    )  # fmt: skip


def small(
    name: str, head: partial[Any], classes: tuple[str, ...], *, train: partial[Any], test: partial[Any] | None,
    start: str | None, seed: int, steps: int, size: int, lr: float, batch: int = 32, ids: tuple[int, ...] = (),
    transform: partial[Any] = PLAIN,
) -> Experiment:  # fmt: skip
    """What fits two CPU cores: a ViT of 4 x 128, or that of ``start``, at half of the head's rate."""
    model = partial(vision_mini, image_size=size) if start is None else image_tower(start, size)
    return Experiment(
        name=name,
        model=model,
        heads={"detect": partial(head, classes=classes, ids=ids)},
        init={} if start is None else {"image": start},
        data=Data(
            train=train,
            image_size=size,
            transform=transform,
            targets=partial(Objects, classes=classes),
            global_batch=batch,
        ),
        optim=Optim(
            lr=lr, min_lr=lr / 100, warmup_frac=0.06, betas=(0.9, 0.98),
            rules=(*tower_rules(0.5 if start is not None else 1.0), *mmkit_rules()),
        ),
        run=Run(steps=steps, seed=seed, save_every_steps=500, log_every_steps=50),
        evals={} if test is None else {"detection": partial(Detection, source=test)},
    )  # fmt: skip


def tower_rules(scale: float) -> tuple[Rule, ...]:
    """The rules of the image tower, whose rate is ``scale`` times the others'."""
    return (
        Rule(pattern=r"^model\.image\.", max_rank=1, lr_scale=scale, weight_decay=0.0),
        Rule(pattern=r"^model\.image\.(cls|positions\.)", lr_scale=scale, weight_decay=0.0, optional=True),
        Rule(pattern=r"^model\.image\.", lr_scale=scale),
    )
