"""Clips: which way does it move? Questions, retrieval and classes of the built-in moving scenes, on two CPU cores.

    mmkit train configs/pretrain/video.py:direction --out runs/direction --json direction.json
    mmkit train "configs/pretrain/video.py:direction(still='any')" --out runs/one-frame
    mmkit train configs/pretrain/video.py:mini --out runs/video
    mmkit train configs/pretrain/video.py:classify --out runs/which-way
    mmkit train configs/pretrain/video.py:dual --out runs/video-dual
    mmkit train "configs/pretrain/video.py:frames(start='runs/clip-mini')" --out runs/frames

`direction` asks what only motion answers; with `still` the same model learns and is tested on one frame of each clip.
`mini` is ALBEF over clips with captions; `classify` is one of ViViT's four models without words; `dual` is a dual
encoder over one of these; `frames` is the mean of frames (CLIP4Clip), from a dual encoder of pictures or from nothing.

Papers: ViViT (Arnab et al. 2021, https://arxiv.org/abs/2103.15691), ALBEF (Li et al. 2021,
https://arxiv.org/abs/2107.07651), CLIP4Clip (Luo et al. 2021, https://arxiv.org/abs/2104.08860).
Time and result (docs/video.md): `direction`, two minutes on one busy core: 99.0 % of 1,000 held-out questions (99.4 %
with another seed), 24.1 % from one frame (chance 25 %). `classify`, four minutes: 99.3 % of 1,000 clips. Retrieval of
500 held-out clips, R@1 of texts, chance 0.3 %: `mini`, 13 minutes, 55.4 %; `dual`, 10 minutes, 46.8 %. `frames` not
measured.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

from mmkit.config import Data, Experiment, Optim, Rule, Run, mmkit_rules
from mmkit.data.openmoji.moving import DIRECTIONS, Moving, MovingQuestions, answers
from mmkit.data.sources.open import open_records
from mmkit.data.targets import AnswerScores, ClassLabels
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.tokenizers import train_sentencepiece
from mmkit.data.video.samplers import Sampler
from mmkit.data.video.transforms import ClipTrain
from mmkit.evals.image_classes import ImageClasses
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.vqa import VQA
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.image_classify import ImageClassify
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.video import How, albef_video, albef_video_mini, dual_frames_mini, dual_video_mini, video_mini

SIZE, SMALL, FRAMES, TOKENS = 64, 32, 4, 24
WHOLE = partial(ClipTrain, sampler=Sampler(how="segments", frames=FRAMES), scale=(1.0, 1.0), randaugment=None)
CLIPS = partial(Moving, size=SIZE, frames=FRAMES)
OPTIM = Optim(lr=1e-3, min_lr=1e-5, warmup_frac=0.1, betas=(0.9, 0.98))
UNUSED = Rule(pattern=r"^model\.(image_proj|text_proj|temperature)\.", freeze=True)  # no question asks for them


def direction(steps: int = 400, still: int | Literal["any"] | None = None) -> Experiment:
    """Which way does the emoji move? Four answers, as often. still: one frame alone, a number or "any" one.

    A small model on frames of 32 pixels: a tubelet holds all four, so that what moves is seen in the first layer.
    """
    asked = partial(MovingQuestions, size=SMALL, frames=FRAMES, types=("direction",))
    test = partial(asked, split="test", n=1000)
    known = tuple(answers(("direction",)))
    tests: dict[str, Any] = {"vqa": test, "shuffled": partial(test, shuffled=True)}
    tests |= {f"frame{i}": partial(test, still=i) for i in range(FRAMES)}
    return Experiment(
        name="direction",
        model=partial(
            albef_video,
            image_size=SMALL,
            max_tokens=TOKENS,
            frames=FRAMES,
            patch=8,
            tubelet=FRAMES,
            image_depth=2,
            image_width=96,
            image_heads=4,
            text_depth=1,
            fusion_depth=1,
            text_width=96,
            text_heads=4,
            embed_dim=96,
            dropout=0.0,
        ),
        heads={"answer": partial(AnswerClassifier, answers=known)},
        tokenizer=partial(train_sentencepiece, vocab_size=600),
        data=Data(
            train=partial(asked, split="train", n=60_000, still=still),
            image_size=SMALL,
            max_tokens=TOKENS,
            transform=WHOLE,
            targets=partial(AnswerScores, answers=known),
            global_batch=64,
        ),
        optim=Optim(lr=1.5e-3, min_lr=1e-5, warmup_frac=0.1, betas=(0.9, 0.98), rules=(UNUSED, *mmkit_rules())),
        run=Run(steps=steps, save_every_steps=0, log_every_steps=50),
        evals={name: partial(VQA, source=source) for name, source in tests.items()},
    )


def mini(records: str | None = None, test: str | None = None, steps: int = 2400, how: How = "spacetime") -> Experiment:
    """ITC, ITM and MLM on clips with captions, then retrieval. records, test: your own, as JSON lines with "video".

    None = the built-in scenes of one or two emoji that move, appear and disappear.
    """
    scenes = partial(CLIPS, most=2, actions=("move", "appear", "disappear"))
    shown = partial(scenes, split="train", n=60_000) if records is None else partial(open_records, path=records)
    kept = partial(scenes, split="test", n=500) if test is None else partial(open_records, path=test)
    return Experiment(
        name="video-mini",
        model=partial(albef_video_mini, image_size=SIZE, max_tokens=TOKENS, frames=FRAMES, how=how, tubelet=2),
        heads={"itc": partial(ITC, queue_size=0), "itm": partial(ITM), "mlm": partial(MLM)},
        tokenizer=partial(train_sentencepiece, vocab_size=800),
        data=Data(
            train=shown,
            image_size=SIZE,
            max_tokens=TOKENS,
            transform=WHOLE,
            masking=partial(Masking, probability=0.3, whole_word=True),
            global_batch=64,
        ),
        optim=OPTIM,
        run=Run(steps=steps, save_every_steps=0, log_every_steps=50),
        evals={} if records and not test else {"retrieval": partial(Retrieval, source=kept, rerank_top=16)},
    )


def classify(steps: int = 400, how: How = "spacetime", start: str | None = None) -> Experiment:
    """Four classes of motion without words, by one of ViViT's models. start: a model of pictures, for its ViT."""
    classes = tuple(DIRECTIONS)
    return Experiment(
        name="video-classify",
        model=partial(video_mini, image_size=SIZE, frames=FRAMES, tubelet=2, how=how),
        heads={"class": partial(ImageClassify, classes=classes)},
        init={} if start is None else {"image": start},
        data=Data(
            train=partial(CLIPS, split="train", n=60_000),
            image_size=SIZE,
            transform=partial(WHOLE, flip=0.0),  # a flip would turn the classes round
            targets=partial(ClassLabels, classes=classes),
            global_batch=64,
        ),
        optim=OPTIM,
        run=Run(steps=steps, save_every_steps=0, log_every_steps=50),
        evals={"class": partial(ImageClasses, source=partial(CLIPS, split="test", n=1000))},
    )


def dual(steps: int = 1500, how: How = "spacetime") -> Experiment:
    """A dual encoder that reads the order of frames: one of ViViT's models beside a text tower, ITC alone."""
    model = partial(dual_video_mini, image_size=SIZE, max_tokens=TOKENS, frames=FRAMES, how=how, tubelet=2)
    return replace(frames(steps), name="video-dual", model=model)


def frames(steps: int = 1000, start: str | None = None) -> Experiment:
    """The mean of frames. start: a dual encoder of pictures of this size (``dual_mini``), with its tokenizer."""
    scenes = partial(CLIPS, most=2, actions=("move", "appear", "disappear"))
    return Experiment(
        name="video-frames",
        model=None if start is not None else partial(dual_frames_mini, image_size=SIZE, max_tokens=TOKENS),
        heads={"itc": partial(ITC, queue_size=0)},
        init={} if start is None else {"model": start},
        tokenizer=None if start is not None else partial(train_sentencepiece, vocab_size=800),
        data=Data(
            train=partial(scenes, split="train", n=60_000),
            image_size=SIZE,
            max_tokens=TOKENS,
            transform=WHOLE,
            global_batch=64,
        ),
        optim=OPTIM,
        run=Run(steps=steps, save_every_steps=0, log_every_steps=50),
        evals={"retrieval": partial(Retrieval, source=partial(scenes, split="test", n=500))},
    )
