"""Visual question answering on VQA v2, with or without Visual Genome's questions, from a pre-trained model.

    mmkit data build-answers --data vqa/train.jsonl --min-count 9 --out answers.txt
    accelerate launch --multi_gpu --num_processes 8 scripts/finetune_vqa.py \
        "configs/finetune/vqa.py:decoder(answers='answers.txt', start='runs/albef-base', images='coco')" --out runs/vqa

Paper: ALBEF (Li et al. 2021, https://arxiv.org/abs/2107.07651, section 5.2, appendix A); the classifier is ViLT's (Kim
et al. 2021, https://arxiv.org/abs/2102.03334, section 4.3). ``folder`` holds the files as they are published at
https://visualqa.org/download.html. Pictures are never flipped: questions ask for left and right.
Time and result: not measured.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mmkit.config import Data, Experiment, Optim, Rule, Run, Teacher, mmkit_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.sources.published.vqa import Joined, VisualGenomeQA, VQAFiles
from mmkit.data.targets import AnswerScores, AnswerTokens
from mmkit.data.texts.answers.rules import read_answers
from mmkit.evals.vqa import VQA
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder

UNUSED = Rule(pattern=r"^model\.(image_proj|text_proj|temperature)\.", freeze=True)  # no question asks for them


def decoder(
    answers: str, start: str = "runs/albef-base", folder: str = "vqa", images: str = "coco",
    genome: str | None = None, genome_images: str = "vg", res: int = 384,
) -> Experiment:  # fmt: skip
    """The paper's recipe: a decoder that starts from the fusion layers, and a momentum teacher.

    answers: a file of what evaluation ranks. start: the folder of a pre-trained model. images: COCO's train2014 and
    val2014.
    genome: Visual Genome's question_answers.json, with ``genome_images``, to train on too.
    """
    head = partial(AnswerDecoder, answers=tuple(read_answers(answers)))
    return _finetune("vqa-decoder", start, head, partial(AnswerTokens), folder, images, genome, genome_images, res)


def classifier(
    answers: str, start: str = "runs/albef-base", folder: str = "vqa", images: str = "coco",
    genome: str | None = None, genome_images: str = "vg", res: int = 384,
) -> Experiment:  # fmt: skip
    """The same with one score for each answer of the list; the arguments are those of ``decoder``."""
    known = tuple(read_answers(answers))
    head, targets = partial(AnswerClassifier, answers=known), partial(AnswerScores, answers=known)
    return _finetune("vqa-classifier", start, head, targets, folder, images, genome, genome_images, res)


def _finetune(
    name: str, start: str, head: partial[Any], targets: partial[Any], folder: str, images: str, genome: str | None,
    genome_images: str, res: int,
) -> Experiment:  # fmt: skip
    train: partial[Any] = _split(folder, images, "train2014")
    if genome is not None:
        train = partial(Joined, (train, partial(VisualGenomeQA, path=genome, images=genome_images)))
    return Experiment(
        name=name,
        heads={"answer": head},
        init={"model": start},
        teacher=Teacher(momentum=0.995, alpha=0.4, alpha_ramp_epochs=1.0),
        data=Data(
            train=train,
            image_size=res,
            max_tokens=25,
            transform=partial(TrainTransform, scale=(0.5, 1.0), flip=0.0, randaugment=(2, 7)),
            targets=targets,
            global_batch=256,
            workers=4,
        ),
        optim=Optim(
            lr=2e-5, min_lr=1e-6, warmup_steps=400, weight_decay=0.02, clip_norm=None, rules=(UNUSED, *mmkit_rules())
        ),
        run=Run(epochs=8, save_every_steps=2000, log_every_steps=50, eval_every_steps=5000),
        evals={"vqa": partial(VQA, source=_split(folder, images, "val2014"))},
    )


def _split(folder: str, images: str, split: str) -> partial[VQAFiles]:
    return partial(
        VQAFiles,
        questions=f"{folder}/v2_OpenEnded_mscoco_{split}_questions.json",
        annotations=f"{folder}/v2_mscoco_{split}_annotations.json",
        images=images,
    )
