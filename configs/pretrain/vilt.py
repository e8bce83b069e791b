"""ViLT: one transformer for words and patches, with masked words, matching and word-patch alignment.

    mmkit train configs/pretrain/vilt.py:mini --out runs/vilt-mini
    accelerate launch --multi_gpu --num_processes 8 scripts/pretrain.py \
        "configs/pretrain/vilt.py:base(records='train.jsonl')" --out runs/vilt-base

Paper: ViLT (Kim et al. 2021, https://arxiv.org/abs/2102.03334, section 4.1).
Time and result: `base` not measured; `mini` on the page of results (docs/results.md, The family).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mmkit.config import Data, Experiment, Optim, Run, load_experiment
from mmkit.data.images.variable_size import KeepShapeTrain
from mmkit.data.sources.open import open_records
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.tokenizers import from_hub
from mmkit.evals.retrieval import Retrieval
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.heads.wpa import WPA
from mmkit.models.sizes.vilt import vilt_base, vilt_mini

QUICKSTART = Path(__file__).parents[1] / "quickstart.py"
HEADS = {
    "itm": partial(ITM, negatives="mixed", pooler=True),
    "mlm": partial(MLM, tied=False),
    "wpa": partial(WPA),
}
WEIGHTS = {"wpa": 0.1}


def base(records: str | dict[str, float], res: int = 384) -> Experiment:
    """The paper's recipe: ViT-B/32, pictures with their own shape and at most 200 patches, 4,096 pairs a step.

    Texts end with [SEP], which the alignment leaves out. The learning rate falls along a cosine here, along a line in
    the official code.
    """
    return Experiment(
        name="vilt-base",
        model=partial(vilt_base, image_size=res, max_tokens=40),
        heads=HEADS | {"wpa": partial(WPA, drop_last=True)},
        weights=WEIGHTS,
        tokenizer=partial(from_hub, name="bert-base-uncased", framing=Framing(last=True)),
        init={"image": "timm:vit_base_patch32_384.augreg_in21k_ft_in1k"},
        data=Data(
            train=partial(open_records, path=records),
            image_size=res,
            max_tokens=40,
            transform=partial(KeepShapeTrain, multiple=32),
            masking=partial(Masking, whole_word=True),
            global_batch=4096,
            rank_batch=64,
            workers=4,
        ),
        optim=Optim(lr=1e-4, min_lr=0.0, warmup_steps=2500, betas=(0.9, 0.98), weight_decay=0.01, clip_norm=None),
        run=Run(steps=100_000, save_every_steps=5000, log_every_steps=50),
    )


def mini(steps: int = 1400, size: int = 96, kinds: int = 200) -> Experiment:
    """The quickstart with another model: the same scenes, steps and learning rate.

    Measured by matching all 250,000 pairs of the 500 scenes, which takes 8 minutes on two cores, or 3 with
    ``--set run.eval_precision=bf16``.
    """
    same = load_experiment(f"{QUICKSTART}:pretrain(steps={steps}, size={size}, kinds={kinds})")
    return replace(
        same,
        name="vilt-mini",
        model=partial(vilt_mini, image_size=size, max_tokens=same.model.keywords["max_tokens"]),
        heads=HEADS,
        weights=WEIGHTS,
        teacher=None,
        report=None,
        evals={
            "retrieval": partial(Retrieval, source=same.evals["retrieval"].keywords["source"]),
            "zeroshot": same.report.keywords["zeroshot"]["zeroshot"],
        },
    )
