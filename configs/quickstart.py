"""The quickstart: a small ALBEF learns scenes of emoji, on two CPU cores, in a few minutes.

    mmkit quickstart
    accelerate launch scripts/pretrain.py configs/quickstart.py --out runs/quickstart

Paper: ALBEF (Li et al. 2021, https://arxiv.org/abs/2107.07651), all three objectives and the momentum teacher.
Data: scenes of one to three emoji out of 200 kinds, drawn by OpenMoji, captions in English and some in Chinese.
"""

from __future__ import annotations

from functools import partial

from mmkit.config import Data, Experiment, Optim, Run, Teacher
from mmkit.data.image_ops import TrainTransform
from mmkit.data.masking import Masking
from mmkit.data.openmoji import Scenes
from mmkit.data.tokenizer import sentencepiece
from mmkit.evals.retrieval import Retrieval
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes import albef_mini


def quickstart(steps: int = 600, size: int = 96, kinds: int = 200) -> Experiment:
    """``steps`` optimizer steps on pictures of ``size`` pixels with so many kinds of emoji."""
    tokens = 40
    scenes = partial(Scenes, kinds=kinds, size=size)
    return Experiment(
        name="quickstart",
        model=partial(albef_mini, image_size=size, max_tokens=tokens),
        heads={"itc": partial(ITC, queue_size=2048), "itm": partial(ITM), "mlm": partial(MLM)},
        teacher=Teacher(momentum=0.99, alpha=0.4, alpha_ramp_epochs=1.0),
        tokenizer=partial(sentencepiece, vocab_size=1600),
        data=Data(
            train=partial(scenes, split="train", n=40_000, language=("en", "en", "en", "zh")),
            image_size=size,
            max_tokens=tokens,
            transform=partial(TrainTransform, scale=(1.0, 1.0), randaugment=None),
            masking=partial(Masking),
            global_batch=128,
            workers=1,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_steps=50, weight_decay=0.02),
        run=Run(steps=steps, save_every_steps=200, log_every_steps=20),
        evals={"retrieval": partial(Retrieval, source=partial(scenes, split="test", n=500), rerank_top=16)},
    )
