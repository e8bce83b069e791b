"""SigLIP: two towers, and for every picture and every text the question whether they belong together.

    mmkit train configs/pretrain/siglip.py:mini --out runs/siglip-mini
    accelerate launch --multi_gpu --num_processes 8 scripts/pretrain.py \
        "configs/pretrain/siglip.py:base(records='train.jsonl')" --out runs/siglip-base

Paper: SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343, section 4).
Time and result: not measured.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mmkit.config import Data, Experiment, Optim, Run, load_experiment
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.sources.open import open_records
from mmkit.data.texts.tokenizers import train_sentencepiece
from mmkit.evals.retrieval import Retrieval
from mmkit.heads.sigmoid import Sigmoid
from mmkit.models.sizes.dual import siglip_base, siglip_mini

QUICKSTART = Path(__file__).parents[1] / "quickstart.py"
HEADS = {"sigmoid": partial(Sigmoid)}
HALF = (0.5, 0.5, 0.5)


def base(records: str | dict[str, float], res: int = 224, global_batch: int = 32_768) -> Experiment:
    """The paper's sizes: ViT-B/16, 32,768 pairs a step, a vocabulary of 32,000 made from the captions.

    Left out: the paper's data (WebLI) and its optimizer (Adafactor); AdamW with its betas stands in. Texts are masked,
    not read with their padding.
    """
    return Experiment(
        name="siglip-base",
        model=partial(siglip_base, image_size=res, max_tokens=64),
        heads=HEADS,
        tokenizer=partial(train_sentencepiece, vocab_size=32_000),
        data=Data(
            train=partial(open_records, path=records),
            image_size=res,
            max_tokens=64,
            transform=partial(TrainTransform, scale=(0.9, 1.0), flip=0.0, randaugment=None, mean=HALF, std=HALF),
            global_batch=global_batch,
            workers=4,
        ),
        optim=Optim(lr=1e-3, min_lr=0.0, warmup_steps=20_000, betas=(0.9, 0.95), weight_decay=1e-4),
        run=Run(steps=270_000, save_every_steps=5000, log_every_steps=50),
    )


def mini(steps: int = 1400, size: int = 96, kinds: int = 200) -> Experiment:
    """The quickstart with another model: the same scenes, steps and learning rate. It is asked by its joint space."""
    same = load_experiment(f"{QUICKSTART}:pretrain(steps={steps}, size={size}, kinds={kinds})")
    return replace(
        same,
        name="siglip-mini",
        model=partial(siglip_mini, image_size=size, max_tokens=same.model.keywords["max_tokens"]),
        heads=HEADS,
        data=replace(same.data, masking=None),
        teacher=None,
        report=None,
        evals={
            "retrieval": partial(Retrieval, source=same.evals["retrieval"].keywords["source"]),
            "zeroshot": same.report.keywords["zeroshot"]["zeroshot"],
        },
    )
