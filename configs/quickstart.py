"""The quickstart: a small ALBEF learns scenes of emoji, on two CPU cores, in a few minutes.

    mmkit quickstart
    accelerate launch scripts/pretrain.py configs/quickstart.py --out runs/quickstart

Paper: ALBEF (Li et al. 2021, https://arxiv.org/abs/2107.07651), all three objectives and the momentum teacher.
Data: scenes of one to three emoji out of 200 kinds and 120 people, drawn by OpenMoji, with captions in English and,
one in six, in Chinese. Measured on scenes whose combination of emoji was never shown, on each kind alone, and on
people that were never shown (say, "woman firefighter dark skin tone").
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Rule, Run, Teacher, mmkit_rules, muon_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.openmoji.questions import Questions, answers
from mmkit.data.openmoji.scenes import ATTRIBUTION, Scenes, Singles, Unseen
from mmkit.data.targets import AnswerTokens
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.tokenizers import reuse, train_sentencepiece
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.vqa import VQA
from mmkit.evals.zeroshot import ZeroShot
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef_mini
from mmkit.report.answers import AnswersReport
from mmkit.report.make import Report

TOKENS = 32
ASKED = ("yes/no", "object")
UNUSED = Rule(pattern=r"^model\.(image_proj|text_proj|temperature)\.", freeze=True)  # no question asks for them
PROMPTS = ("a {}", "an {}")
TITLES = {
    "retrieval": "500 held-out scenes, English",
    "retrieval_zh": "500 held-out scenes, Chinese",
    "zeroshot": "200 kinds, each drawn alone",
    "unseen": "40 people whose names were never in training",
}


def pretrain(steps: int = 900, size: int = 96, kinds: int = 200, muon: float | None = 3.0) -> Experiment:
    """``steps`` optimizer steps on pictures of ``size`` pixels with so many kinds of emoji.

    muon: so many times the rate the matrices of blocks learn at, under Muon; None = AdamW for all.
    """
    rules = mmkit_rules() if muon is None else muon_rules(muon)
    scenes = partial(Scenes, kinds=kinds, size=size, plain=True)
    english, chinese = (partial(scenes, split="test", n=500, language=language) for language in ("en", "zh"))
    alone, people = (partial(source, size=size, plain=True) for source in (partial(Singles, kinds=kinds), Unseen))
    train = partial(scenes, split="train", n=60_000, language=("en",) * 5 + ("zh",), people=0.05, counts=(2, 1, 1))
    return Experiment(
        name="quickstart",
        model=partial(albef_mini, image_size=size, max_tokens=TOKENS),
        heads={"itc": partial(ITC, queue_size=0), "itm": partial(ITM), "mlm": partial(MLM)},
        teacher=Teacher(momentum=0.9, alpha=0.4, alpha_ramp_epochs=1.0),
        tokenizer=_tokenizer(size, kinds),
        data=Data(
            train=train,
            image_size=size,
            max_tokens=16,
            transform=partial(TrainTransform, scale=(1.0, 1.0), randaugment=None),
            masking=partial(Masking, probability=0.3, whole_word=True),
            global_batch=64,
            workers=0,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_frac=0.06, betas=(0.9, 0.98), rules=rules),
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


def questions(
    start: str = "runs/quickstart", steps: int = 700, size: int = 96, kinds: int = 200, seed: int = 42
) -> Experiment:
    """Fine-tuning on questions about scenes, from the model in the folder ``start``, or from "scratch"."""
    asked = partial(Questions, kinds=kinds, size=size, plain=True, people=0.05)
    test = partial(asked, split="test", n=1000, types=ASKED)
    known = tuple(answers(kinds, types=ASKED))
    return Experiment(
        name="quickstart-questions",
        model=partial(albef_mini, image_size=size, max_tokens=TOKENS),
        heads={"answer": partial(AnswerDecoder, answers=known, depth=2, heads=4, max_tokens=16, dropout=0.0)},
        init={} if start == "scratch" else {"model": start},
        tokenizer=_tokenizer(size, kinds) if start == "scratch" else partial(reuse, path=f"{start}/tokenizer"),
        data=Data(
            train=partial(asked, split="train", n=40_000, types=ASKED),
            image_size=size,
            max_tokens=TOKENS,
            transform=partial(TrainTransform, scale=(1.0, 1.0), flip=0.0, randaugment=None),
            targets=partial(AnswerTokens, max_tokens=16),
            global_batch=64,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_frac=0.06, betas=(0.9, 0.98), rules=(UNUSED, *muon_rules(2.0))),
        run=Run(steps=steps, seed=seed, save_every_steps=500, log_every_steps=50),
        evals={"vqa": partial(VQA, source=test)},
        report=partial(AnswersReport, source=test, title="Questions about held-out scenes", attribution=ATTRIBUTION),
    )


def quickstart(steps: int = 900, question_steps: int = 700, size: int = 96, kinds: int = 200) -> Experiment:
    """Both, one after the other: the pre-trained model in the run's folder, the one that answers in ``vqa`` there."""
    answering = questions("scratch", question_steps, size, kinds)
    report = partial(answering.report, page="../report.html") if answering.report else None
    return replace(answering, first=pretrain(steps, size, kinds), tokenizer=None, subfolder="vqa", report=report)


def _tokenizer(size: int, kinds: int) -> partial[Any]:
    """Trained on the captions and on the questions of what comes after."""
    asked = partial(Questions, split="train", n=5_000, kinds=kinds, size=size, plain=True, people=0.05)
    return partial(train_sentencepiece, vocab_size=1600, more=(asked,))
