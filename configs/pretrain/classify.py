"""A ViT that sorts pictures into classes, with no words: on your class folder, and on the 200 kinds of emoji.

    mmkit train configs/pretrain/classify.py:openmoji --out runs/kinds
    mmkit train "configs/pretrain/classify.py:openmoji(start='runs/quickstart')" --out runs/kinds-from-albef
    mmkit train "configs/pretrain/classify.py:folder(train='pictures/train', test='pictures/test')" --out runs/mine
    mmkit train "configs/pretrain/classify.py:openmoji(mixup=0.8, cutmix=1.0)" --out runs/kinds-mixed
    accelerate launch --multi_gpu --num_processes 8 scripts/pretrain.py \
        "configs/pretrain/classify.py:base(train='imagenet/train', test='imagenet/val')" --out runs/deit-base
    accelerate launch --multi_gpu --num_processes 8 scripts/pretrain.py "configs/pretrain/classify.py:fine_tune(\
        train='imagenet/train', test='imagenet/val', start='models/mae')" --out runs/mae-tuned
    mmkit classify --model runs/mine --data pictures/test --json classes.json

`start` is any model that mmkit saved (the quickstart's ALBEF, ViLT, CLIP, ...): its image tower is taken over. `base`
starts from nothing, or with init={"image": "timm:deit_base_patch16_224"} (or a file of DeiT, MAE, timm) from a ViT.

Papers: label smoothing, random erasing, mixup, CutMix and stochastic depth as DeiT (Touvron et al. 2021,
https://arxiv.org/abs/2012.12877, table 9); `fine_tune` as MAE (He et al. 2022, https://arxiv.org/abs/2111.06377,
appendix A.1), with layer-wise decay.
Time and result: `openmoji`, about 7 minutes on two CPU cores: 92.6 % of 1,000 held-out drawings from scratch, 96.4 %
from the quickstart's ViT (one run each; chance 0.5 %). `base` and `fine_tune`
not measured.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Run, layer_decay
from mmkit.data.images.transforms import IMAGENET_MEAN, IMAGENET_STD, TrainTransform
from mmkit.data.openmoji.scenes import Singles
from mmkit.data.sources.classes import class_names
from mmkit.data.sources.open import open_source
from mmkit.data.targets import ClassLabels
from mmkit.evals.image_classes import ImageClasses
from mmkit.heads.image_classify import ImageClassify
from mmkit.models.sizes.vision import vision_base, vision_mini
from mmkit.train.inherit import image_tower
from mmkit.train.mixing import Mixing

HELD_OUT = 1  # the seed of the drawings that are kept out of training


def openmoji(
    steps: int = 2400,
    size: int = 96,
    kinds: int = 200,
    start: str | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> Experiment:
    """Each kind drawn 50 times to train on, and 5 times more, in other colours and places, to be measured on."""
    source = partial(Singles, kinds=kinds, size=size, plain=True)
    return _small(
        "classify-openmoji",
        train=partial(source, variations=50),
        test=partial(source, variations=5, seed=HELD_OUT),
        classes=tuple(source().class_names), steps=steps, size=size, start=start, batch=64,
        mixing=partial(Mixing, mixup=mixup, cutmix=cutmix) if mixup or cutmix else None,
    )  # fmt: skip


def folder(
    train: str, test: str | None = None, steps: int = 2400, size: int = 96, start: str | None = None
) -> Experiment:
    """On pictures in a folder for each class, or a table or JSON lines with image and label; on two CPU cores.

    test: more of them, kept out of training. size: pixels, a multiple of the patch (12 from scratch). Steps are of 64
    pictures, or of all where there are fewer.
    """
    labelled = partial(open_source, wants=("label",))
    return _small(
        "classify", train=partial(labelled, spec=train), test=None if test is None else partial(labelled, spec=test),
        classes=class_names(train), steps=steps, size=size, start=start, batch=min(64, len(labelled(train))),
    )  # fmt: skip


def base(train: str, test: str, epochs: float = 300, res: int = 224) -> Experiment:
    """DeiT's recipe for ViT-B/16, 1,024 pictures a step, without repeated augmentation."""
    return Experiment(
        name="classify-base",
        model=partial(vision_base, image_size=res),
        heads={"class": partial(ImageClassify, classes=class_names(train), smoothing=0.1)},
        data=_mixed(train, res),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=5, weight_decay=0.05, clip_norm=None),
        run=Run(epochs=epochs, save_every_steps=5000, log_every_steps=50),
        evals={"class": partial(ImageClasses, source=partial(open_source, spec=test, wants=("label",)))},
    )


def fine_tune(
    train: str, test: str, start: str, decay: float = 0.65, depth: int = 12, epochs: float = 100, res: int = 224
) -> Experiment:
    """MAE's fine-tuning of ViT-B/16: 5e-4 for each 256, a layer's rate ``decay`` of the next one's, patches' mean.

    start: a model that mmkit saved, or converted from a file of MAE. depth: of its tower. MAE puts a new norm behind
    the mean in place of the pre-trained one before it; here that one stays.
    """
    return Experiment(
        name="classify-fine-tuned",
        model=image_tower(start, res, drop_path=0.1),
        heads={"class": partial(ImageClassify, classes=class_names(train), smoothing=0.1, mean=True)},
        init={"image": start},
        data=_mixed(train, res),
        optim=Optim(
            lr=2e-3, min_lr=1e-6, warmup_epochs=5, weight_decay=0.05, clip_norm=None,
            rules=layer_decay(depth, decay, last_norm="top"),
        ),
        run=Run(epochs=epochs, save_every_steps=5000, log_every_steps=50),
        evals={"class": partial(ImageClasses, source=partial(open_source, spec=test, wants=("label",)))},
    )  # fmt: skip


def _mixed(train: str, res: int) -> Data:
    """Pictures as DeiT and MAE's fine-tuning see them."""
    return Data(
        train=partial(open_source, spec=train, wants=("label",)),
        image_size=res,
        transform=partial(
            TrainTransform, scale=(0.08, 1.0), randaugment=(2, 9), mean=IMAGENET_MEAN, std=IMAGENET_STD
        ),
        targets=partial(ClassLabels, classes=class_names(train)),
        mixing=partial(Mixing, mixup=0.8, cutmix=1.0, erase=0.25),
        global_batch=1024,
        workers=8,
    )  # fmt: skip


def _small(
    name: str, *, train: partial[Any], test: partial[Any] | None, classes: tuple[str, ...], steps: int, size: int,
    start: str | None, batch: int, mixing: partial[Mixing] | None = None,
) -> Experiment:  # fmt: skip
    model = partial(vision_mini, image_size=size) if start is None else image_tower(start, size)
    return Experiment(
        name=name,
        model=model,
        heads={"class": partial(ImageClassify, classes=classes, smoothing=0.1)},
        init={} if start is None else {"image": start},
        data=Data(
            train=train,
            image_size=size,
            transform=partial(TrainTransform, scale=(0.5, 1.0), randaugment=None, erase=0.25),
            targets=partial(ClassLabels, classes=classes),
            mixing=mixing,
            global_batch=batch,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_frac=0.06, weight_decay=0.05),
        run=Run(steps=steps, save_every_steps=500, log_every_steps=50),
        evals={} if test is None else {"class": partial(ImageClasses, source=test)},
    )
