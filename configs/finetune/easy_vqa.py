"""easy-VQA from nothing: pre-train a small ALBEF on its pictures, then fine-tune on its questions, in minutes on a CPU.

    mmkit train configs/finetune/easy_vqa.py:classifier --out runs/easy-vqa --json easy-vqa.json
    mmkit train configs/finetune/easy_vqa.py:decoder --out runs/easy-vqa-decoder
    mmkit train configs/finetune/easy_vqa.py:classifier --set data.blank_images=true --out runs/easy-vqa-blank

Paper: ALBEF (Li et al. 2021, https://arxiv.org/abs/2107.07651, sections 3, 5.2); the classifier is ViLT's (Kim et al.
2021, https://arxiv.org/abs/2102.03334, section 4.3). Data: easy-VQA (PyPI ``easy-vqa``), its official split: 38,575
questions about 4,000 pictures to train, 9,673 about 1,000 to test. Six of the 24 pairs of colour and shape are held out
of pre-training, and measured apart.
"""

from __future__ import annotations

from functools import partial

from mmkit.config import Data, Experiment, Optim, Rule, Run, mmkit_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.sources.easy_vqa import HOLD_OUT, EasyVQA, EasyVQAPairs, answers
from mmkit.data.targets import AnswerScores, AnswerTokens
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.tokenizers import train_sentencepiece
from mmkit.evals.vqa import VQA
from mmkit.evals.zeroshot import ZeroShot
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef

SIZE, TOKENS = 64, 16
FLIPPED = partial(TrainTransform, scale=(1.0, 1.0), flip=0.5, randaugment=None)
MODEL = partial(
    albef, image_size=SIZE, max_tokens=TOKENS, patch=8, image_depth=2, image_width=128, image_heads=4, text_depth=1,
    fusion_depth=2, text_width=128, text_heads=4, embed_dim=128, dropout=0.0,
)  # fmt: skip
UNUSED = Rule(pattern=r"^model\.(image_proj|text_proj|temperature)\.", freeze=True)  # no question asks for them


def pretrain(steps: int = 800) -> Experiment:
    """ITC, ITM and MLM on the pictures with captions of their colour and shape."""
    test = partial(EasyVQAPairs, split="test", hold_out=HOLD_OUT)
    return Experiment(
        name="easy-vqa-pretrain",
        model=MODEL,
        heads={"itc": partial(ITC, queue_size=0), "itm": partial(ITM), "mlm": partial(MLM)},
        tokenizer=partial(train_sentencepiece, vocab_size=160, more=(partial(EasyVQA, split="train"),)),
        data=Data(
            train=partial(EasyVQAPairs, split="train", hold_out=HOLD_OUT),
            image_size=SIZE,
            max_tokens=TOKENS,
            transform=FLIPPED,
            masking=partial(Masking, probability=0.3, whole_word=True),
            global_batch=64,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup_frac=0.1, betas=(0.9, 0.98)),
        run=Run(steps=steps, save_every_steps=0, log_every_steps=50),
        evals={
            "seen": partial(ZeroShot, source=partial(test, part="seen"), templates=("a {}",)),
            "held_out": partial(ZeroShot, source=partial(test, part="held_out"), templates=("a {}",)),
        },
        subfolder="pretrain",
    )


def classifier(steps: int = 1700, pretrain_steps: int = 800) -> Experiment:
    """The 13 answers as classes."""
    known = tuple(answers())
    return _finetune(
        "easy-vqa-classifier", partial(AnswerClassifier, answers=known), partial(AnswerScores, answers=known),
        steps, pretrain_steps,
    )  # fmt: skip


def decoder(steps: int = 2000, pretrain_steps: int = 800) -> Experiment:
    """The answers written by a decoder, and ranked among the 13."""
    head = partial(AnswerDecoder, answers=tuple(answers()), depth=2, heads=4, max_tokens=8, dropout=0.0)
    return _finetune("easy-vqa-decoder", head, partial(AnswerTokens, max_tokens=8), steps, pretrain_steps)


def _finetune(
    name: str, head: partial[AnswerClassifier] | partial[AnswerDecoder],
    targets: partial[AnswerScores] | partial[AnswerTokens], steps: int, pretrain_steps: int,
) -> Experiment:  # fmt: skip
    return Experiment(
        name=name,
        first=pretrain(pretrain_steps),
        model=MODEL,
        heads={"answer": head},
        data=Data(
            train=partial(EasyVQA, split="train"),
            image_size=SIZE,
            max_tokens=TOKENS,
            transform=FLIPPED,
            targets=targets,
            global_batch=128,
        ),
        optim=Optim(lr=1e-3, min_lr=1e-6, warmup_frac=0.05, betas=(0.9, 0.98), rules=(UNUSED, *mmkit_rules())),
        run=Run(steps=steps, save_every_steps=500, log_every_steps=100),
        evals={"vqa": partial(VQA, source=partial(EasyVQA, split="test"))},
    )
