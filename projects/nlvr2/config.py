"""Is a sentence true of two pictures? The built-in pairs on a CPU, and the paper's recipe on NLVR2.

    mmkit train projects/nlvr2/config.py:openmoji --out runs/nlvr2
    mmkit train "projects/nlvr2/config.py:openmoji(start='runs/quickstart', seed=1)" --out runs/nlvr2-1
    mmkit train "projects/nlvr2/config.py:openmoji(start='scratch', seed=1)" --out runs/nlvr2-scratch-1
    accelerate launch --multi_gpu --num_processes 8 scripts/pretrain.py \
        "projects/nlvr2/config.py:nlvr2(start='models/assignment', folder='data/nlvr2')" --out runs/nlvr2

Paper: ALBEF (Li et al. 2021, https://arxiv.org/abs/2107.07651, section 5.2 and appendix A). Built-in pairs: two scenes
of emoji and a sentence that the words alone do not decide. Time and result: see README.md.
"""

from __future__ import annotations

from functools import partial

from mmkit.config import Data, Experiment, Optim, Run, Teacher
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.openmoji.pairs import Pairs
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.records import JsonLines
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.tokenizers import from_hub
from mmkit.evals.classification import Classification
from projects.nlvr2.data import NLVR2, PairTargets
from projects.nlvr2.head import PairClassify, TextAssignment
from projects.nlvr2.model import pair_base, pair_mini
from projects.start import start_from

TOKENS, JOINT = 32, 128
PLAIN = partial(TrainTransform, scale=(1.0, 1.0), flip=0.0, randaugment=None)
PAPER = partial(TrainTransform, scale=(0.5, 1.0), flip=0.0, randaugment=(2, 7))  # official but for the flip


def openmoji(
    start: str = "pretraining", seed: int = 0, steps: int = 500, assignment_steps: int = 300, lr: float = 3e-4,
    sentences: tuple[str, ...] = ("both",), size: int = 96, kinds: int = 200,
) -> Experiment:  # fmt: skip
    """Pairs of built-in scenes. start: "pretraining" does one first, "scratch" none, else the folder of an ALBEF.

    assignment_steps: of text assignment after pre-training; 0 where ``start`` had it already. sentences: see ``Pairs``;
    those about a difference of the two pictures need far more steps.
    """
    pairs = partial(Pairs, sentences=sentences, kinds=kinds, size=size, plain=True, people=0.0)
    stages = start_from(start, size, kinds)
    if assignment_steps and start != "scratch":
        stages = {"first": assignment_openmoji(start, seed, assignment_steps, size=size, kinds=kinds)}
    return Experiment(
        **stages,
        name="nlvr2-openmoji",
        model=partial(pair_mini, image_size=size, max_tokens=TOKENS),
        heads={"label": partial(PairClassify)},
        teacher=Teacher(momentum=0.99, alpha=0.4, alpha_ramp_epochs=1.0),
        data=Data(
            train=partial(pairs, split="train", n=20_000),
            image_size=size,
            max_tokens=TOKENS,
            transform=PLAIN,
            targets=partial(PairTargets),
            global_batch=64,
        ),
        optim=Optim(lr=lr, min_lr=lr / 100, warmup_frac=0.1, betas=(0.9, 0.98)),
        run=Run(steps=steps, seed=seed, save_every_steps=0, log_every_steps=50),
        evals={
            "test": partial(
                Classification, source=partial(pairs, split="test", n=1000), targets=partial(PairTargets)
            )
        },
    )  # fmt: skip


def assignment_openmoji(
    start: str = "pretraining", seed: int = 0, steps: int = 300, size: int = 96, kinds: int = 200
) -> Experiment:
    """Which of two scenes does the caption describe: the stage between pre-training and ``openmoji``."""
    return Experiment(
        **start_from(start, size, kinds),
        name="nlvr2-assignment-openmoji",
        model=partial(pair_mini, image_size=size, max_tokens=TOKENS, embed_dim=JOINT),
        heads={"assignment": partial(TextAssignment)},
        data=Data(
            train=partial(Scenes, split="train", n=60_000, kinds=kinds, size=size, plain=True, people=0.05),
            image_size=size,
            max_tokens=TOKENS,
            transform=PLAIN,
            global_batch=64,
        ),
        optim=Optim(lr=5e-4, min_lr=5e-6, warmup_frac=0.1, betas=(0.9, 0.98)),
        run=Run(steps=steps, seed=seed, save_every_steps=0, log_every_steps=50),
        subfolder="assignment",
    )


def nlvr2(start: str, folder: str = "data/nlvr2", images: str | None = None, res: int = 384) -> Experiment:
    """The paper's fine-tuning. start: a model folder, of ``nlvr2_assignment`` or of a pre-trained ALBEF.

    folder: with train.json, dev.json and test1.json as published. images: where the pictures are, if not there. 10
    epochs of 128 pairs, 2e-5 to 1e-6, distilled with 0.4 after a ramp of one epoch; the best by dev
    accuracy is kept, in the folder ``best`` of the run.
    """
    dev, test = (partial(NLVR2, path=f"{folder}/{name}.json", images=images) for name in ("dev", "test1"))
    evaluate = partial(Classification, targets=partial(PairTargets))
    return Experiment(
        name="nlvr2",
        model=partial(pair_base, image_size=res),
        heads={"label": partial(PairClassify)},
        init={"model": start},
        teacher=Teacher(momentum=0.995, alpha=0.4, alpha_ramp_epochs=1.0),
        tokenizer=partial(from_hub, name="bert-base-uncased", framing=Framing(clean="albef")),
        data=Data(
            train=partial(NLVR2, path=f"{folder}/train.json", images=images),
            image_size=res,
            max_tokens=64,
            transform=PAPER,
            targets=partial(PairTargets),
            global_batch=128,
            workers=4,
        ),
        optim=Optim(lr=2e-5, min_lr=1e-6, warmup_lr=1e-5, warmup_steps=100, weight_decay=0.02, clip_norm=None),
        run=Run(epochs=10, eval_every_steps=675, save_every_steps=675, best="dev.accuracy"),
        evals={"dev": partial(evaluate, source=dev), "test1": partial(evaluate, source=test)},
    )


def nlvr2_assignment(start: str, records: str = "train.jsonl", res: int = 256) -> Experiment:
    """The paper's text assignment: one epoch over the pictures and captions of the pre-training, 512 a step."""
    return Experiment(
        name="nlvr2-assignment",
        model=partial(pair_base, image_size=res, embed_dim=256),
        heads={"assignment": partial(TextAssignment)},
        init={"model": start},
        tokenizer=partial(from_hub, name="bert-base-uncased", framing=Framing(clean="albef")),
        data=Data(
            train=partial(JsonLines, path=records),
            image_size=res,
            max_tokens=25,
            transform=partial(TrainTransform, scale=(0.2, 1.0), randaugment=(2, 7)),
            global_batch=512,
            workers=4,
        ),
        optim=Optim(lr=2e-5, min_lr=2e-5, warmup_lr=1e-5, warmup_steps=100, weight_decay=0.02, clip_norm=None),
        run=Run(epochs=1, save_every_steps=1000, log_every_steps=50),
    )
