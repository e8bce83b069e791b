"""Where are objects, and what are they? Built-in scenes on a CPU, and data of your own.

    mmkit train "projects/detection/config.py:openmoji(start='runs/quickstart')" --out runs/detr
    mmkit train projects/detection/config.py:openmoji --out runs/detr-scratch
    mmkit detect --model runs/detr --data openmoji --json detr.json
    mmkit detect --model runs/detr --image scene.png --out found.png
    mmkit train "projects/detection/config.py:few(train='data/coco', n=8)" --out runs/few
    mmkit train "projects/detection/config.py:own(train='data/train', test='data/val')" --out runs/mine
    mmkit detect --model runs/mine --data data/val --predictions found.json

Papers: DETR (Carion et al. 2020, https://arxiv.org/abs/2005.12872) and its relatives, see README.md. Built-in scenes:
one to three of 200 kinds of emoji on white, 96 pixels; 500 scenes of combinations that were never shown are measured.
Time and result: see README.md.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Rule, Run, mmkit_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.objects import Objects, classes_in
from mmkit.data.openmoji.crowded import Crowded
from mmkit.data.openmoji.kinds import emoji_names, first_kinds
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.sources.open import Want, open_source
from mmkit.errors import UserError
from mmkit.evals.detection.evaluate import Detection
from mmkit.models.sizes.vision import vision_mini
from mmkit.train.inherit import image_tower
from projects.detection.data import Few
from projects.detection.head import DETR
from projects.detection.ssd import SSD
from projects.detection.two_stage import FasterRCNN

PLAIN = partial(TrainTransform, scale=(1.0, 1.0), randaugment=None)  # the whole picture, mirrored or not
WANTED: tuple[Want, ...] = ("boxes",)
SMALL_DETR = partial(DETR, width=128, heads=4, hidden=256, decoder=3, queries=12, groups=3, denoising=3)
SCENES: dict[str, tuple[partial[Any], int]] = {
    "detr": (SMALL_DETR, 1000),
    "faster_rcnn": (
        partial(
            FasterRCNN, width=64, hidden=256, scales=(2.0, 1.0, 0.5), anchor=7.0, sampled=(64, 32), proposed=(100, 100)
        ),
        1000,
    ),
    "ssd": (partial(SSD, width=64), 1000),
}
"""For the built-in scenes, whose one to three objects are about 40 of 96 pixels: each head, and for how many steps."""
HEADS: dict[str, partial[Any]] = {
    "detr": partial(SMALL_DETR, queries=40),
    "faster_rcnn": partial(FasterRCNN, width=64, hidden=256, anchor=4.0, sampled=(128, 64), proposed=(300, 200)),
    "ssd": partial(SSD, width=64),
}


def openmoji(
    start: str | None = None, head: str = "detr", seed: int = 42, steps: int | None = None, size: int = 96,
    kinds: int = 200, lr: float = 1e-3, crowded: bool = False,
) -> Experiment:  # fmt: skip
    """A detector of built-in scenes. start: a run whose image tower it starts from, the quickstart's; None = nothing.

    head: "detr", "faster_rcnn", or "ssd". steps: None = as ``SCENES`` says of the head. crowded: it learns scenes of
    four to ten small emoji, with the heads for pictures of one's own. Either is measured on both kinds of scenes.
    """
    made, usual = SCENES[checked(head)]
    plain = partial(Scenes, kinds=kinds, size=size, plain=True, people=0.0)
    crowds = partial(Crowded, kinds=kinds, size=size)
    sources: dict[str, partial[Any]] = {
        "detection": partial(plain, split="test", n=500),
        "crowded": partial(crowds, split="test", n=500),
    }
    train = (
        partial(crowds, split="train", n=60_000)
        if crowded
        else partial(plain, split="train", n=60_000, counts=(2, 1, 1))
    )
    exp = small(
        "detection-openmoji", HEADS[head] if crowded else made, tuple(emoji_names(first_kinds(kinds))),
        train=train, test=None, start=start, seed=seed, steps=usual if steps is None else steps, size=size, lr=lr,
    )  # fmt: skip
    return replace(exp, evals={name: partial(Detection, source=one, rounds=200) for name, one in sources.items()})


def own(
    train: str, test: str | None = None, *, images: str | None = None, split: str | None = None,
    test_images: str | None = None, test_split: str | None = None, head: str = "detr", start: str | None = None,
    steps: int = 3000, size: int = 240, batch: int = 16, lr: float = 5e-4, seed: int = 42,
) -> Experiment:  # fmt: skip
    """A detector of your own pictures: a COCO file, a YOLO or VOC folder, JSON lines with boxes; on two CPU cores.

    images, split: of the data, as for ``mmkit detect --data``. head: "detr", "faster_rcnn", or "ssd". size: pixels of
    the squashed picture, a multiple of 12. Classes and their published numbers are those of ``train``.
    """
    source = partial(open_source, spec=train, wants=WANTED, images=images, split=split)
    measured = (
        None if test is None else partial(open_source, spec=test, wants=WANTED, images=test_images, split=test_split)
    )
    names, ids = classes_in(source(), train)
    return small(
        "detection-own", HEADS[checked(head)], names, ids=ids, train=source, test=measured,
        start=start, seed=seed, steps=steps, size=size, lr=lr, batch=batch,
    )  # fmt: skip


def few(
    train: str, n: int = 8, *, images: str | None = None, split: str | None = None, head: str = "detr",
    start: str | None = None, steps: int = 1500, size: int = 240, lr: float = 1e-3, seed: int = 42,
) -> Experiment:  # fmt: skip
    """The first ``n`` annotated pictures learned by heart and measured on themselves: AP50 must come near 1.

    What does not learn these has a fault, in the data or the head: run it first. Nothing is mirrored, crowds are out.
    """
    whole = partial(open_source, spec=train, wants=WANTED, images=images, split=split)
    names, ids = classes_in(whole(), train)
    source = partial(Few, source=whole, n=n)
    return small(
        "detection-few", HEADS[checked(head)], names, ids=ids, train=source, test=source, start=start, seed=seed,
        steps=steps, size=size, lr=lr, batch=n, transform=partial(PLAIN, flip=0.0),
    )  # fmt: skip


def checked(head: str) -> str:
    """The name of one of ``HEADS``; UserError for any other."""
    if head not in HEADS:
        raise UserError(f"head={head!r}: there are {', '.join(HEADS)}")
    return head


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
            rules=(*tower_rules(0.5 if start is not None else 1.0, head.func is DETR), *mmkit_rules()),
        ),
        run=Run(steps=steps, seed=seed, save_every_steps=500, log_every_steps=50),
        evals={} if test is None else {"detection": partial(Detection, source=test)},
    )  # fmt: skip


def tower_rules(scale: float, norm: bool) -> tuple[Rule, ...]:
    """The rules of the image tower, whose rate is ``scale`` times the others'. norm: whether its last one is read."""
    return (
        *(() if norm else (Rule(pattern=r"^model\.image\.norm\.", freeze=True, optional=True),)),
        Rule(pattern=r"^model\.image\.", max_rank=1, lr_scale=scale, weight_decay=0.0),
        Rule(pattern=r"^model\.image\.(cls|positions\.)", lr_scale=scale, weight_decay=0.0, optional=True),
        Rule(pattern=r"^model\.image\.", lr_scale=scale),
    )
