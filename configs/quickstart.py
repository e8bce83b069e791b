"""The quickstart: a small ALBEF learns scenes of emoji, on two CPU cores, in a few minutes.

    mmkit quickstart
    accelerate launch scripts/pretrain.py configs/quickstart.py --out runs/quickstart

Paper: ALBEF (Li et al. 2021, https://arxiv.org/abs/2107.07651), all three objectives and the momentum teacher.
Data: scenes of one to three emoji out of 200 kinds and 120 people, drawn by OpenMoji, with captions in English and,
one in six, in Chinese. Measured on scenes whose combination of emoji was never shown, on each kind alone, and on
people that were never shown (say, "woman firefighter dark skin tone").
"""

from __future__ import annotations

from functools import partial

from mmkit.config import Data, Experiment, Optim, Run, Teacher
from mmkit.data.image_ops import TrainTransform
from mmkit.data.masking import Masking
from mmkit.data.openmoji import ATTRIBUTION, Scenes, Singles, Unseen
from mmkit.data.tokenizer import sentencepiece
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.zeroshot import ZeroShot
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes import albef_mini
from mmkit.report.make import Report

TOKENS = 16
PROMPTS = ("a {}", "an {}")
TITLES = {
    "retrieval": "500 held-out scenes, English",
    "retrieval_zh": "500 held-out scenes, Chinese",
    "zeroshot": "200 kinds, each drawn alone",
    "unseen": "40 people whose names were never in training",
}


def quickstart(steps: int = 1400, size: int = 96, kinds: int = 200) -> Experiment:
    """``steps`` optimizer steps on pictures of ``size`` pixels with so many kinds of emoji."""
    scenes = partial(Scenes, kinds=kinds, size=size, plain=True)
    english, chinese = (partial(scenes, split="test", n=500, language=language) for language in ("en", "zh"))
    alone, people = (partial(source, size=size, plain=True) for source in (partial(Singles, kinds=kinds), Unseen))
    return Experiment(
        name="quickstart",
        model=partial(albef_mini, image_size=size, max_tokens=TOKENS),
        heads={"itc": partial(ITC, queue_size=0), "itm": partial(ITM), "mlm": partial(MLM)},
        teacher=Teacher(momentum=0.9, alpha=0.4, alpha_ramp_epochs=1.0),
        tokenizer=partial(sentencepiece, vocab_size=1600),
        data=Data(
            train=partial(scenes, split="train", n=60_000, language=("en",) * 5 + ("zh",), people=0.05),
            image_size=size,
            max_tokens=TOKENS,
            transform=partial(TrainTransform, scale=(1.0, 1.0), randaugment=None),
            masking=partial(Masking, probability=0.3, whole_word=True),
            global_batch=64,
            workers=0,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_frac=0.06, betas=(0.9, 0.98)),
        run=Run(steps=steps, save_every_steps=500, log_every_steps=50),
        evals={
            "retrieval": partial(Retrieval, source=english, rerank_top=16),
            "retrieval_zh": partial(Retrieval, source=chinese, rerank_top=16),
        },
        report=partial(
            Report,
            name="mmkit quickstart",
            source=english,
            zeroshot={
                "zeroshot": partial(ZeroShot, source=alone, templates=PROMPTS),
                "unseen": partial(ZeroShot, source=people, templates=PROMPTS),
            },
            titles=TITLES,
            attribution=ATTRIBUTION,
        ),
    )
