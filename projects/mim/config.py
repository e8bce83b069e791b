r"""Pictures teach themselves: MAE, SimMIM and BEiT on the built-in scenes, on your pictures, and beside ALBEF.

    mmkit train projects/mim/config.py:mae --out runs/mae
    mmkit train projects/mim/config.py:simmim --out runs/simmim
    mmkit train projects/mim/config.py:beit --out runs/beit
    mmkit train projects/mim/config.py:beside_albef --out runs/mae-albef
    mmkit train "projects/mim/config.py:mae(pictures='pictures')" --out runs/mine
    accelerate launch --multi_gpu --num_processes 64 scripts/pretrain.py \
        "projects/mim/config.py:mae_base(pictures='imagenet/train')" --out runs/mae-base

Papers: MAE (He et al. 2022, https://arxiv.org/abs/2111.06377), SimMIM (Xie et al. 2022,
https://arxiv.org/abs/2111.09886), BEiT (Bao et al. 2022, https://arxiv.org/abs/2106.08254). ``pictures``: a folder, or
a list of pictures in any form that mmkit reads; what is written beside them is not read. ``test``: more of them, kept
out of training, on which the error is measured. Time and result: see README.md and docs/sight.md.
The ``_base`` recipes are the published ones, and not measured here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Run, load_experiment, mmkit_rules, official_rules
from mmkit.config.projects import ROOT
from mmkit.data.images.transforms import IMAGENET_MEAN, IMAGENET_STD, TrainTransform
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.sources.open import open_records
from mmkit.errors import UserError
from projects.mim.beit import BEiT
from projects.mim.held_out import HeldOut
from projects.mim.mae import MAE
from projects.mim.model import sight_base, sight_mini
from projects.mim.recipe import lr_of
from projects.mim.relative import relative_sight
from projects.mim.simmim import SimMIM

SEEN = partial(TrainTransform, randaugment=None, mean=IMAGENET_MEAN, std=IMAGENET_STD)
MAE_MINI = partial(MAE, depth=2, width=128, heads=4)
"""Its decoder in the mini run alone."""
MAE_BESIDE = partial(MAE, depth=1, width=64, heads=2)
"""Beside ALBEF, where a step may not cost much more."""
RELATIVE_MINI = partial(relative_sight, patch=12, depth=4, width=128, heads=4, drop_path=0.0, scale=0.0)
"""The size of ``sight_mini``."""


def mae(
    pictures: str | None = None,
    test: str | None = None,
    steps: int = 1400,
    size: int = 96,
    kinds: int = 200,
    norm_pix: bool = True,
    seed: int = 42,
) -> Experiment:
    """MAE on two CPU cores: ViT 4 x 128, three quarters of its 64 patches left out, a decoder of 2 x 128."""
    return _mini(
        "mae", partial(sight_mini, image_size=size), {"mae": partial(MAE_MINI, norm_pix=norm_pix)}, pictures, test,
        steps, size, kinds, seed, scale=(0.5, 1.0),
    )  # fmt: skip


def simmim(
    pictures: str | None = None, test: str | None = None, steps: int = 1400, size: int = 96, kinds: int = 200,
    cell: int = 12, squared: float = 0.5, relative: bool = True, lr: float = 2e-3, seed: int = 42,
) -> Experiment:  # fmt: skip
    """SimMIM on two CPU cores: 39 of 64 cells of one patch, relative positions as published, half of the squared error.

    By the absolute error alone it stands still: on white grounds it paints white, the median of a hidden pixel, and its
    tower learns next to nothing. The squared error has a slope there, and relative positions tell what is beside a
    patch from the first steps on. Cells are an eighth of a side, as the published 32 of 224 pixels are a seventh; in
    cells of a quarter the nearest seen pixel is further from the truth than white is. ``relative=False``: the tower of
    the other objectives, which starts an ALBEF or a classifier.
    """
    run = _mini(
        "simmim", partial(RELATIVE_MINI if relative else sight_mini, image_size=size),
        {"simmim": partial(SimMIM, cell=cell, squared=squared)}, pictures, test, steps, size, kinds, seed,
        scale=(0.67, 1.0),
    )  # fmt: skip
    return replace(run, optim=replace(run.optim, lr=lr))


def beit(
    pictures: str | None = None, test: str | None = None, steps: int = 1400, size: int = 96, kinds: int = 200,
    codes: int = 512, seed: int = 42,
) -> Experiment:  # fmt: skip
    """BEiT on two CPU cores: up to 24 of 64 patches in blocks, ids of 512 from k-means on the first 16 steps.

    Its scenes have grounds of all colours: on white ones more than half of the patches have one id, and for hundreds of
    steps it learns no more than that.
    """
    head = partial(BEiT, codes=codes, sample=32_768)
    return _mini(
        "beit", partial(sight_mini, image_size=size), {"beit": head}, pictures, test, steps, size, kinds,
        seed, scale=(0.5, 1.0), plain=False,
    )  # fmt: skip


def beside_albef(
    steps: int = 1400, size: int = 96, kinds: int = 200, weight: float = 1.0, norm_pix: bool = True, seed: int = 42
) -> Experiment:
    """The quickstart's ALBEF under AdamW, with MAE on its image tower, whose decoder has 1 x 64; ITC, ITM and MLM see
    whole pictures.
    """
    alone = f"pretrain(steps={steps}, size={size}, kinds={kinds}, muon=None)"
    same = load_experiment(f"{ROOT}/configs/quickstart.py:{alone}")
    return replace(
        same,
        name="mae-beside-albef",
        heads={**same.heads, "mae": partial(MAE_BESIDE, norm_pix=norm_pix)},
        weights={**same.weights, "mae": weight},
        run=replace(same.run, seed=seed),
        report=None,
    )


def mae_base(pictures: str, res: int = 224, epochs: float = 800, batch: int = 4096) -> Experiment:
    """The published pre-training of ViT-B/16: 4,096 pictures a step, 1.5e-4 for each 256, 40 epochs of warm-up."""
    return _published(
        "mae-base", partial(sight_base, image_size=res), {"mae": partial(MAE, norm_pix=True)}, pictures, res, batch,
        partial(SEEN, scale=(0.2, 1.0)),
        Optim(
            lr=lr_of(1.5e-4, batch, 256), min_lr=0.0, warmup_epochs=40, betas=(0.9, 0.95), weight_decay=0.05,
            clip_norm=None, rules=official_rules(),
        ),
        epochs,
    )  # fmt: skip


def simmim_base(pictures: str, res: int = 224, epochs: float = 800, batch: int = 2048) -> Experiment:
    """The published pre-training of ViT-B/16, with a cosine in place of the step at epoch 700: 1e-4 for each 512."""
    return _published(
        "simmim-base", partial(relative_sight, image_size=res), {"simmim": partial(SimMIM)}, pictures, res,
        batch, partial(SEEN, scale=(0.67, 1.0)),
        Optim(
            lr=lr_of(1e-4, batch, 512), min_lr=lr_of(5e-6, batch, 512), warmup_lr=lr_of(5e-7, batch, 512),
            warmup_epochs=10, weight_decay=0.05, clip_norm=5.0, rules=mmkit_rules(),
        ),
        epochs,
    )  # fmt: skip


def beit_base(pictures: str, res: int = 224, epochs: float = 800, batch: int = 2048) -> Experiment:
    """The published pre-training of ViT-B/16 but for its tokeniser and colour jitter."""
    half = (0.5, 0.5, 0.5)
    return _published(
        "beit-base", partial(relative_sight, image_size=res), {"beit": partial(BEiT)}, pictures, res, batch,
        partial(SEEN, scale=(0.08, 1.0), mean=half, std=half),
        Optim(
            lr=1.5e-3, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=10, weight_decay=0.05, clip_norm=3.0,
            rules=mmkit_rules(),
        ),
        epochs,
    )  # fmt: skip


def _mini(
    name: str, model: partial[Any], heads: dict[str, partial[Any]], pictures: str | None, test: str | None, steps: int,
    size: int, kinds: int, seed: int, scale: tuple[float, float], plain: bool = True,
) -> Experiment:  # fmt: skip
    scenes = partial(Scenes, kinds=kinds, size=size, plain=plain)
    train: partial[Any] = partial(scenes, split="train", n=60_000, people=0.05, counts=(2, 1, 1))
    held_out: partial[Any] | None = partial(scenes, split="test", n=500)
    if pictures is not None:
        train = partial(open_records, path=pictures, needs=())
        held_out = None if test is None else partial(open_records, path=test, needs=())
    elif test is not None:
        raise UserError(f"test={test!r}: pictures to be measured on, of those that you train on: give pictures= too")
    return Experiment(
        name=name,
        model=model,
        heads=heads,
        data=Data(
            train=train,
            image_size=size,
            transform=partial(SEEN, scale=scale),
            global_batch=64,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_frac=0.06, betas=(0.9, 0.95), weight_decay=0.05),
        run=Run(steps=steps, seed=seed, save_every_steps=500, log_every_steps=50),
        evals={} if held_out is None else {"held_out": partial(HeldOut, source=held_out, head=next(iter(heads)))},
    )


def _published(
    name: str, model: partial[Any], heads: dict[str, partial[Any]], pictures: str, res: int, batch: int,
    transform: partial[Any], optim: Optim, epochs: float,
) -> Experiment:  # fmt: skip
    return Experiment(
        name=name,
        model=model,
        heads=heads,
        data=Data(
            train=partial(open_records, path=pictures, needs=()), image_size=res, transform=transform,
            global_batch=batch, workers=8,
        ),
        optim=optim,
        run=Run(epochs=epochs, save_every_steps=5000, log_every_steps=50),
    )  # fmt: skip
