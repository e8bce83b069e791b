"""Does a picture entail, contradict or leave open a sentence? Built-in hypotheses on a CPU, and the paper's SNLI-VE.

    mmkit train projects/visual_entailment/config.py:openmoji --out runs/entailment
    mmkit train "projects/visual_entailment/config.py:openmoji(start='runs/quickstart', seed=1)" --out runs/entailment-1
    mmkit train "projects/visual_entailment/config.py:openmoji(start='scratch', seed=1)" --out runs/entailment-scratch-1
    accelerate launch --multi_gpu --num_processes 8 scripts/pretrain.py \
        "projects/visual_entailment/config.py:snli_ve(start='models/albef', folder='data/snli_ve', \
        images='data/flickr30k')" --out runs/snli-ve

Paper: ALBEF (Li et al. 2021, https://arxiv.org/abs/2107.07651, section 5.2). Built-in hypotheses: a scene of emoji, one
of which a card may hide, and a sentence whose label the words alone do not tell. Time and result: see README.md.
"""

from __future__ import annotations

from functools import partial

from mmkit.config import Data, Experiment, Optim, Rule, Run, Teacher, mmkit_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.openmoji.hypotheses import Hypotheses
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.tokenizers import from_hub
from mmkit.evals.classification import Classification
from mmkit.heads.classify import Classify
from mmkit.models.sizes.albef import albef_base, albef_mini
from projects.start import start_from
from projects.visual_entailment.data import CLASSES, SNLIVE

TOKENS = 32
PLAIN = partial(TrainTransform, scale=(1.0, 1.0), randaugment=None)  # mirrored, with left and right swapped in the text
UNUSED = Rule(pattern=r"^model\.(image_proj|text_proj|temperature)\.", freeze=True)  # nothing here compares embeddings


def openmoji(
    start: str = "pretraining", seed: int = 0, steps: int = 600, lr: float = 5e-4,
    hypotheses: tuple[str, ...] = ("presence", "relation"), size: int = 96, kinds: int = 200,
) -> Experiment:  # fmt: skip
    """Hypotheses about built-in scenes. start: "pretraining" does one first, "scratch" none, else an ALBEF's folder.

    hypotheses: which kinds, see ``Hypotheses``.
    """
    scenes = partial(Hypotheses, hypotheses=hypotheses, kinds=kinds, size=size, plain=True)
    return Experiment(
        **start_from(start, size, kinds),
        name="entailment-openmoji",
        model=partial(albef_mini, image_size=size, max_tokens=TOKENS),
        heads={"label": partial(Classify, classes=CLASSES)},
        teacher=Teacher(momentum=0.99, alpha=0.4, alpha_ramp_epochs=1.0),
        data=Data(
            train=partial(scenes, split="train", n=20_000),
            image_size=size,
            max_tokens=TOKENS,
            transform=PLAIN,
            global_batch=64,
        ),
        optim=Optim(lr=lr, min_lr=lr / 100, warmup_frac=0.1, betas=(0.9, 0.98), rules=(UNUSED, *mmkit_rules())),
        run=Run(steps=steps, seed=seed, save_every_steps=0, log_every_steps=50),
        evals={"test": partial(Classification, source=partial(scenes, split="test", n=1000))},
    )


def snli_ve(
    start: str, folder: str = "data/snli_ve", images: str = "data/flickr30k-images", res: int = 384
) -> Experiment:
    """The paper's fine-tuning. start: the folder of a pre-trained ALBEF.

    folder: with snli_ve_train.jsonl, _dev and _test as published. images: the pictures of Flickr30k. 5 epochs of 256
    pairs, 2e-5 to 1e-6, distilled with 0.4 from the first step; the best by dev accuracy is kept, in the
    folder ``best`` of the run.
    """
    train, dev, test = (
        partial(SNLIVE, path=f"{folder}/snli_ve_{name}.jsonl", images=images) for name in ("train", "dev", "test")
    )
    return Experiment(
        name="snli-ve",
        model=partial(albef_base, image_size=res),
        heads={"label": partial(Classify, classes=CLASSES)},
        init={"model": start},
        teacher=Teacher(momentum=0.995, alpha=0.4, alpha_ramp_epochs=0.0),
        tokenizer=partial(from_hub, name="bert-base-uncased", framing=Framing(clean="albef")),
        data=Data(
            train=train,
            image_size=res,
            max_tokens=64,
            transform=partial(TrainTransform, scale=(0.5, 1.0), randaugment=(2, 7)),
            global_batch=256,
            workers=4,
        ),
        optim=Optim(
            lr=2e-5, min_lr=1e-6, warmup_lr=1e-5, warmup_steps=100, weight_decay=0.02, clip_norm=None,
            rules=(UNUSED, *mmkit_rules()),
        ),
        run=Run(epochs=5, eval_every_steps=2000, save_every_steps=2000, best="dev.accuracy"),
        evals={"dev": partial(Classification, source=dev), "test": partial(Classification, source=test)},
    )  # fmt: skip
