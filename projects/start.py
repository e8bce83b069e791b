"""What the projects' runs on built-in scenes start from: a pre-training, nothing, or a model that is there.

    mmkit train projects/start.py:pretraining --out runs/pretraining

The scenes are those of the quickstart, with captions in English alone. Time and result: that of the quickstart's
pre-training, about five minutes on two cores.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Run, Teacher
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.tokenizers import reuse, train_sentencepiece
from mmkit.evals.retrieval import Retrieval
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef_mini

TOKENS = 32
PLAIN = partial(TrainTransform, scale=(1.0, 1.0), flip=0.0, randaugment=None)


def pretraining(steps: int = 1400, size: int = 96, kinds: int = 200) -> Experiment:
    """ITC, ITM and MLM on scenes with captions, as in the quickstart but in English alone."""
    scenes = partial(Scenes, kinds=kinds, size=size, plain=True)
    return Experiment(
        name="pretraining",
        model=partial(albef_mini, image_size=size, max_tokens=TOKENS),
        heads={"itc": partial(ITC, queue_size=0), "itm": partial(ITM), "mlm": partial(MLM)},
        teacher=Teacher(momentum=0.9, alpha=0.4, alpha_ramp_epochs=1.0),
        tokenizer=partial(train_sentencepiece, vocab_size=1000),
        data=Data(
            train=partial(scenes, split="train", n=60_000, people=0.05),
            image_size=size,
            max_tokens=TOKENS,
            transform=PLAIN,
            masking=partial(Masking, probability=0.3, whole_word=True),
            global_batch=64,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_frac=0.06, betas=(0.9, 0.98)),
        run=Run(steps=steps, save_every_steps=500, log_every_steps=50),
        evals={"retrieval": partial(Retrieval, source=partial(scenes, split="test", n=500), rerank_top=16)},
        subfolder="pretraining",
    )


def start_from(start: str, size: int, kinds: int) -> dict[str, Any]:
    """The arguments of an ``Experiment`` for its start: "pretraining", "scratch", or the folder of an ALBEF."""
    if start == "pretraining":
        return {"first": pretraining(size=size, kinds=kinds)}
    if start == "scratch":
        return {"tokenizer": partial(train_sentencepiece, vocab_size=1000)}
    return {"init": {"model": start}, "tokenizer": partial(reuse, path=f"{start}/tokenizer")}
