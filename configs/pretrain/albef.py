"""ALBEF on your own pictures and captions; and on the built-in scenes, beside its relatives.

    mmkit train configs/pretrain/albef.py:mini --out runs/albef-mini
    mmkit train "configs/pretrain/albef.py:mini(records='train.csv', test='test.csv')" --out runs/mine
    mmkit train "configs/pretrain/albef.py:small(records='train.jsonl')" --out runs/small
    accelerate launch --multi_gpu --num_processes 8 scripts/pretrain.py \
        "configs/pretrain/albef.py:base(records='train.jsonl')" --out runs/base

Paper: ALBEF (Li et al. 2021, https://arxiv.org/abs/2107.07651, section 4 and appendix A).
Time and result: `base` not measured; `mini` on the page of results (docs/results.md, The family).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mmkit.config import Data, Experiment, Optim, Run, Teacher, load_experiment, official_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.sources.class_folder import ClassFolder
from mmkit.data.sources.open import open_records
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.tokenizers import from_hub, train_sentencepiece
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.zeroshot import ZeroShot
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef_base, albef_mini, albef_small
from mmkit.report.make import Report

MINI_TOKENS = 32
QUICKSTART = Path(__file__).parents[1] / "quickstart.py"


def base(records: str | dict[str, float] = "train.jsonl", res: int = 256) -> Experiment:
    """The paper's recipe: ViT-B/16 from DeiT, 6 + 6 layers from BERT, 512 pairs a step, 30 epochs."""
    return Experiment(
        name="albef-base",
        model=partial(albef_base, image_size=res),
        heads={"itc": partial(ITC, queue_size=65_536), "itm": partial(ITM), "mlm": partial(MLM)},
        teacher=Teacher(momentum=0.995, alpha=0.4, alpha_ramp_epochs=1.0),
        tokenizer=partial(from_hub, name="bert-base-uncased", framing=Framing(clean="albef")),
        init={"image": "timm:deit_base_patch16_224.fb_in1k", "text": "hf:google-bert/bert-base-uncased"},
        data=Data(
            train=partial(open_records, path=records),
            image_size=res,
            max_tokens=25,
            transform=partial(TrainTransform, scale=(0.2, 1.0), randaugment=(2, 7)),
            masking=partial(Masking),
            global_batch=512,
            workers=4,
        ),
        optim=Optim(
            lr=1e-4,
            min_lr=1e-5,
            warmup_lr=1e-5,
            warmup_steps=2000,
            weight_decay=0.02,
            clip_norm=None,
            rules=official_rules(),
        ),
        run=Run(epochs=30, save_every_steps=5000, log_every_steps=50),
    )


def small(
    records: str | dict[str, float] = "train.jsonl", res: int = 224, vocab_size: int = 8000, epochs: float = 30
) -> Experiment:
    """ViT-S/16 and 6 + 6 layers of 384 from scratch, with a vocabulary made from the captions, in any language."""
    return Experiment(
        name="albef-small",
        model=partial(albef_small, image_size=res, max_tokens=40),
        heads={"itc": partial(ITC, queue_size=16_384), "itm": partial(ITM), "mlm": partial(MLM)},
        teacher=Teacher(momentum=0.995, alpha=0.4, alpha_ramp_epochs=1.0),
        tokenizer=partial(train_sentencepiece, vocab_size=vocab_size),
        data=Data(
            train=partial(open_records, path=records),
            image_size=res,
            max_tokens=40,
            transform=partial(TrainTransform, scale=(0.5, 1.0), randaugment=(2, 7)),
            masking=partial(Masking, whole_word=True),
            global_batch=64,
            workers=2,
        ),
        optim=Optim(lr=3e-4, min_lr=3e-6, warmup_frac=0.05),
        run=Run(epochs=epochs, save_every_steps=1000, log_every_steps=20),
    )


def mini(
    records: str | dict[str, float] | None = None, test: str | None = None, classes: str | None = None,
    steps: int = 1400, size: int = 96, kinds: int = 200, vocab_size: int = 1600,
) -> Experiment:  # fmt: skip
    """What two CPU cores train in minutes, on 300 to 10,000 pictures of yours, or on the built-in scenes.

    records: pictures with captions: JSON lines, CSV, TSV, Parquet, shards, or a folder of them; or several with their
    weights, {'mine.csv': 3, 'laion': 1}; None = the scenes, ``kinds`` of them, as the quickstart, measured as its
    relatives are. test: more of them, kept out of training, for retrieval and the report. classes: a folder of class
    folders, to be named zero-shot. steps: of 64 pictures each.
    """
    if records is None:
        return _scenes(steps, size, kinds)
    held_out = None if test is None else partial(open_records, path=test)
    folders = None if classes is None else partial(ZeroShot, source=partial(ClassFolder, path=classes))
    return Experiment(
        name="albef-mini",
        model=partial(albef_mini, image_size=size, max_tokens=MINI_TOKENS),
        heads={"itc": partial(ITC, queue_size=0), "itm": partial(ITM), "mlm": partial(MLM)},
        teacher=Teacher(momentum=0.9, alpha=0.4, alpha_ramp_epochs=1.0),
        tokenizer=partial(train_sentencepiece, vocab_size=vocab_size),
        data=Data(
            train=partial(open_records, path=records),
            image_size=size,
            max_tokens=MINI_TOKENS,
            transform=partial(TrainTransform, scale=(0.5, 1.0), randaugment=None),
            masking=partial(Masking, probability=0.3, whole_word=True),
            global_batch=64,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_frac=0.06, betas=(0.9, 0.98)),
        run=Run(steps=steps, save_every_steps=500, log_every_steps=50),
        evals={} if held_out is None else {"retrieval": partial(Retrieval, source=held_out)},
        report=partial(
            Report,
            name="albef-mini",
            source=held_out,
            zeroshot={} if folders is None else {"zeroshot": folders},
            rerank_top=None,
        ),
    )


def _scenes(steps: int, size: int, kinds: int) -> Experiment:
    """The quickstart without its report, measured as its relatives are: joint space, and matching of every pair."""
    same = load_experiment(f"{QUICKSTART}:pretrain(steps={steps}, size={size}, kinds={kinds})")
    source = same.evals["retrieval"].keywords["source"]
    return replace(
        same,
        name="albef-mini",
        report=None,
        evals={
            "retrieval": partial(Retrieval, source=source, rerank_top=source.keywords["n"]),
            "zeroshot": same.report.keywords["zeroshot"]["zeroshot"],
        },
    )
