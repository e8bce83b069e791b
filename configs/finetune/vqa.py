"""Visual question answering on VQA v2, with or without Visual Genome's questions, from a pre-trained model.

    mmkit data build-answers --data vqa/train.jsonl --min-count 9 --out answers.txt
    accelerate launch --multi_gpu --num_processes 8 scripts/finetune_vqa.py \
        "configs/finetune/vqa.py:decoder(answers='answers.txt', start='runs/albef-base', images='coco')" --out runs/vqa
    mmkit train "configs/finetune/vqa.py:mini(records='questions.csv', start='runs/mine')" --out runs/asked

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
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import open_source
from mmkit.data.sources.published.vqa import VisualGenomeQA, VQAFiles
from mmkit.data.targets import AnswerScores, AnswerTokens
from mmkit.data.texts.answers.lists import read_answers
from mmkit.data.texts.answers.rules import build_answers
from mmkit.evals.vqa import VQA
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.report.answers import AnswersReport

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


def mini(
    records: str, test: str | None = None, start: str = "runs/quickstart", steps: int = 300, size: int = 96
) -> Experiment:
    """A small model answers questions of yours, in minutes on two cores: a decoder that ranks the answers of training.

    records: JSON lines, CSV, TSV or Parquet with image, question and answers. test: more of them, kept out of training,
    to be answered at the end. start: the folder of a pre-trained model, whose layers and words are taken.
    """
    asked = partial(open_source, spec=records, wants=("question",))
    source = asked()
    head = partial(
        AnswerDecoder, answers=tuple(build_answers(source, min_count=1)), depth=2, heads=4, max_tokens=16, dropout=0.0
    )
    held_out = partial(open_source, spec=test or records, wants=("question",))
    return Experiment(
        name="vqa-mini",
        heads={"answer": head},
        init={"model": start},
        data=Data(
            train=asked,
            image_size=size,
            max_tokens=32,
            transform=partial(TrainTransform, scale=(0.8, 1.0), flip=0.0, randaugment=None),
            targets=partial(AnswerTokens, max_tokens=16),
            global_batch=min(64, len(source)),
        ),
        optim=Optim(lr=5e-4, min_lr=5e-6, warmup_frac=0.06, betas=(0.9, 0.98), rules=(UNUSED, *mmkit_rules())),
        run=Run(steps=steps, save_every_steps=500, log_every_steps=50),
        evals={} if test is None else {"vqa": partial(VQA, source=held_out)},
        report=partial(AnswersReport, source=held_out, title="Questions of yours"),
    )


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
