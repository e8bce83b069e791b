"""Captions written about pictures, from a pre-trained model: on COCO as published, and in small on drawn scenes.

    mmkit train configs/finetune/captions.py:mini --out runs/captions
    mmkit caption --model runs/captions --image docs/scene.png
    mmkit train "configs/finetune/captions.py:mini(records='train.csv', test='test.csv', start='runs/mine')" --out own
    accelerate launch --multi_gpu --num_processes 8 scripts/pretrain.py \
        "configs/finetune/captions.py:coco(start='runs/albef-base', folder='coco')" --out runs/coco-captions

Paper: BLIP (Li et al. 2022, https://arxiv.org/abs/2201.12086, sections 3.2 and 5.2): a decoder that reads the picture,
label smoothing 0.1, the prompt "a picture of", three beams. The decoder begins as the fusion layers of the start.
``folder`` holds train2014, val2014 and Karpathy's ``dataset_coco.json``; the best by the val split is kept.
Time and result of `mini`: docs/captions.md ("What was measured"); of `coco`: not measured.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Rule, Run, mmkit_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.sources.open import open_source
from mmkit.data.sources.published.karpathy import Karpathy
from mmkit.data.targets import CaptionTokens
from mmkit.encoders.decoding import Decoding
from mmkit.evals.captions.evaluate import WrittenCaptions
from mmkit.heads.captioning import Captioner, PrefixCaptioner

UNUSED = Rule(pattern=r"^model\.(text|fusion|image_proj|text_proj|temperature)\b", freeze=True)
"""A caption is written from the image tokens alone."""


def coco(
    start: str = "runs/albef-base", folder: str = "coco", res: int = 384, prompt: str = "a picture of"
) -> Experiment:
    """Five epochs of 566,747 captions (train and restval); measured on the val split."""
    split = partial(Karpathy, path=f"{folder}/dataset_coco.json", images=folder)
    return Experiment(
        name="captions-coco",
        heads={"caption": partial(Captioner, prompt=prompt, max_tokens=40)},
        init={"model": start},
        data=Data(
            train=partial(split, split="train+restval", per="caption"),
            image_size=res,
            max_tokens=40,
            transform=partial(TrainTransform, scale=(0.5, 1.0), randaugment=(2, 7)),
            targets=partial(CaptionTokens, prompt=prompt, max_tokens=40),
            global_batch=256,
            workers=4,
        ),
        optim=Optim(lr=1e-5, min_lr=0.0, weight_decay=0.05, clip_norm=None, rules=(UNUSED, *mmkit_rules())),
        run=Run(epochs=5, save_every_steps=2213, log_every_steps=50, eval_every_steps=2213, best="val.cider_d"),
        evals={
            "val": partial(
                WrittenCaptions, source=partial(split, split="val"), how=Decoding(beams=3, max_new_tokens=20)
            )
        },
    )


def mini(
    records: str | None = None, test: str | None = None, start: str = "runs/quickstart", steps: int | None = None,
    size: int = 96, prefix: bool = False,
) -> Experiment:  # fmt: skip
    """A small decoder for the quickstart's model, on two cores.

    records: pictures with captions of yours; None = the quickstart's scenes, of which those of three emoji, and of
    people, are more often drawn than in its own training: they are what is hard to tell. test: more of yours, kept out
    of training. start: the folder of a pre-trained model, whose layers and words are taken. steps: None = 3,400 of 128
    scenes, in less than 20 minutes, or 600 of 64 records. prefix: image tokens stand before the words, in place of
    cross-attention.
    """
    scenes = partial(Scenes, kinds=200, size=size, plain=True)
    train: partial[Any] = partial(scenes, split="train", n=60_000, people=0.15, counts=(1, 2, 3))
    held_out: partial[Any] | None = partial(scenes, split="test", n=500)
    looks, batch, lr, usual = {"scale": (1.0, 1.0), "flip": 0.0}, 128, 2e-3, 3400
    if records is not None:
        train = partial(open_source, spec=records, wants=("caption",))
        held_out = None if test is None else partial(open_source, spec=test, wants=("caption",))
        looks, batch, lr, usual = {"scale": (0.8, 1.0)}, min(64, len(train())), 1e-3, 600
    head = partial(PrefixCaptioner if prefix else Captioner, depth=2, heads=4, max_tokens=32, dropout=0.0)
    return Experiment(
        name="captions-mini",
        heads={"caption": head},
        init={"model": start},
        data=Data(
            train=train,
            image_size=size,
            max_tokens=32,
            transform=partial(TrainTransform, randaugment=None, **looks),
            targets=partial(CaptionTokens, max_tokens=32),
            global_batch=batch,
        ),
        optim=Optim(lr=lr, min_lr=1e-5, warmup_frac=0.06, betas=(0.9, 0.98), rules=(UNUSED, *mmkit_rules())),
        run=Run(steps=usual if steps is None else steps, save_every_steps=500, log_every_steps=50),
        evals={} if held_out is None else {"captions": partial(WrittenCaptions, source=held_out)},
    )
