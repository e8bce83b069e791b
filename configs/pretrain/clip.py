"""CLIP and LiT: a picture tower and a text tower, pulled together by the words of all pairs in the batch.

    mmkit train configs/pretrain/clip.py:mini --out runs/clip-mini
    accelerate launch --multi_gpu --num_processes 8 scripts/pretrain.py \
        "configs/pretrain/clip.py:base(records='train.jsonl')" --out runs/clip-base

Papers: CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.5 and table 19); LiT (Zhai et al. 2022,
https://arxiv.org/abs/2111.07991).
Time and result: `base` not measured; `mini` on the page of results (docs/results.md, The family).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mmkit.config import Data, Experiment, Optim, Run, load_experiment
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.sources.open import open_records
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.tokenizers import from_hub
from mmkit.evals.retrieval import Retrieval
from mmkit.heads.itc import ITC
from mmkit.models.sizes.dual import clip_base, dual_mini, lit_base

QUICKSTART = Path(__file__).parents[1] / "quickstart.py"
HEADS = {"itc": partial(ITC, queue_size=0)}


def base(
    records: str | dict[str, float], res: int = 224, global_batch: int = 32_768, patch_dropout: float = 0.0
) -> Experiment:
    """The paper's recipe for ViT-B/16: 32,768 pairs a step, 32 epochs, crops and nothing else.

    Negatives are those of all processes; to hold so many at once takes many of them. Equal captions are positives of
    each other's pictures.
    """
    return Experiment(
        name="clip-base",
        model=partial(clip_base, image_size=res, max_tokens=77, patch_dropout=patch_dropout),
        heads=HEADS,
        tokenizer=partial(from_hub, name="clip", framing=Framing(last=True, grows=False)),
        data=Data(
            train=partial(open_records, path=records),
            image_size=res,
            max_tokens=77,
            transform=partial(TrainTransform, scale=(0.9, 1.0), flip=0.0, randaugment=None),
            global_batch=global_batch,
            workers=4,
        ),
        optim=Optim(
            lr=5e-4, min_lr=0.0, warmup_steps=2000, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, clip_norm=None
        ),
        run=Run(epochs=32, save_every_steps=2000, log_every_steps=50),
    )


def lit(records: str | dict[str, float], res: int = 224, global_batch: int = 4096) -> Experiment:
    """A frozen ViT-B/16, and a BERT that learns to describe what it sees."""
    return Experiment(
        name="lit-base",
        model=partial(lit_base, image_size=res, max_tokens=32),
        heads=HEADS,
        tokenizer=partial(from_hub, name="bert-base-uncased"),
        init={"image": "timm:vit_base_patch16_224.augreg_in21k", "text": "hf:google-bert/bert-base-uncased"},
        data=Data(
            train=partial(open_records, path=records),
            image_size=res,
            max_tokens=32,
            transform=partial(TrainTransform, scale=(0.9, 1.0), flip=0.0, randaugment=None),
            global_batch=global_batch,
            workers=4,
        ),
        optim=Optim(lr=3e-4, min_lr=0.0, warmup_steps=2000, betas=(0.9, 0.98), weight_decay=0.05),
        run=Run(epochs=8, save_every_steps=2000, log_every_steps=50),
    )


def mini(steps: int = 1400, size: int = 96, kinds: int = 200, patch_dropout: float = 0.0) -> Experiment:
    """The quickstart with another model: the same scenes, steps and learning rate. It is asked by its joint space."""
    same = load_experiment(f"{QUICKSTART}:pretrain(steps={steps}, size={size}, kinds={kinds})")
    return replace(
        same,
        name="clip-mini",
        model=partial(
            dual_mini, image_size=size, max_tokens=same.model.keywords["max_tokens"], patch_dropout=patch_dropout
        ),
        heads=HEADS,
        data=replace(same.data, masking=None),
        teacher=None,
        report=None,
        evals={
            "retrieval": partial(Retrieval, source=same.evals["retrieval"].keywords["source"]),
            "zeroshot": same.report.keywords["zeroshot"]["zeroshot"],
        },
    )
