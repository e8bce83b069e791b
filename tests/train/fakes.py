"""A tiny run: coloured squares with captions, a tiny ALBEF, milliseconds a step."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from mmkit.config import Data, Experiment, Optim, Rule, Run, Teacher, mmkit_rules
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.records import Record
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.tokenizers import train_sentencepiece
from mmkit.heads.base import Head, HeadOutput
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from tests.sizes import albef_tiny

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple", "brown", "pink")
PLACES = ("a room", "the street", "my garden", "an old box")


class Squares:
    """``records`` one-coloured pictures; those whose index is in ``broken`` cannot be read."""

    def __init__(self, records: int = 40, broken: tuple[int, ...] = ()) -> None:
        self.records = records
        self.broken = broken

    def __len__(self) -> int:
        return self.records

    def __getitem__(self, index: int) -> Record:
        colour = COLOURS[index % len(COLOURS)]
        image: Image.Image | bytes = Image.new("RGB", (24, 24), colour)
        if index in self.broken:
            image = b"no picture"
        caption = f"a {colour} square number {index} in {PLACES[index % len(PLACES)]}"
        return Record(image=image, captions=(caption,), image_id=str(index), key=f"square {index}", targets={})


@dataclass(frozen=True, kw_only=True)
class Count:
    """An evaluator that disturbs the random state, as a careless one might."""

    value: float = 1.0

    def __call__(self, predictor: object) -> dict[str, float]:
        torch.randn(5)
        return {"value": self.value}


class Report:
    """Counts the events that are on disk when the run ends."""

    def __call__(self, predictor: object, out: Path) -> dict[str, float]:
        return {"events": float(len((out / "metrics.jsonl").read_text().splitlines()))}


class Drawn(Head):
    """A loss by random numbers of each sample's own."""

    def __init__(self, spec) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, f):
        drawn_BE = f.random("drawn").normal(f.image_embed.shape[1])
        return HeadOutput(loss=self.scale * (drawn_BE * f.image_embed).sum(1).mean(), count=len(f.batch))


def tiny(**changes) -> Experiment:
    """Ten epochs' worth of records at five steps an epoch, dropout on, teacher, queue and masking on."""
    run = Run(
        steps=12,
        precision="no",
        float32_matmul="highest",
        save_every_steps=0,
        log_every_steps=2,
        trackers=(),
        seed=3,
    )
    exp = Experiment(
        name="tiny",
        model=partial(albef_tiny, image_size=32, max_tokens=16, dropout=0.1),
        heads={"itc": partial(ITC, queue_size=13), "itm": partial(ITM), "mlm": partial(MLM)},
        tokenizer=partial(train_sentencepiece, vocab_size=60),
        teacher=Teacher(momentum=0.9, alpha=0.4, alpha_ramp_epochs=1.0),
        data=Data(
            train=partial(Squares, 40), image_size=32, max_tokens=12, global_batch=8, masking=partial(Masking),
            transform=partial(TrainTransform, scale=(0.5, 1.0)),
        ),
        optim=Optim(lr=1e-3, warmup_steps=2),
        run=run,
    )  # fmt: skip
    return change(exp, **changes)


def change(exp: Experiment, **changes) -> Experiment:
    """``change(exp, run=dict(steps=3), name="x")``: sections by their fields, the rest whole."""
    for name, value in changes.items():
        if isinstance(value, dict) and name in ("run", "data", "optim"):
            value = replace(getattr(exp, name), **value)
        exp = replace(exp, **{name: value})
    return exp


def weights(folder: Path) -> dict:
    """The newest checkpoint's weights, teacher and queues."""
    from safetensors.torch import load_file

    newest = sorted(folder.glob("checkpoints/step-*"))[-1]
    if (newest / "task.safetensors").is_file():
        return load_file(newest / "task.safetensors")
    from mmkit.train.distributed import read_whole

    return {name[5:]: value for name, value in read_whole(newest).items() if name.startswith("task.")}


def words_alone(**data) -> Experiment:
    """Without dropout, and with hidden words as the only objective, which looks at no other sample."""
    unused = Rule(pattern=r"^model\.(image_proj|text_proj|temperature)", freeze=True)
    exp = change(plain(4), heads={"mlm": partial(MLM)}, data=data, run=dict(log_every_steps=1))
    return change(exp, optim=dict(rules=(unused, *mmkit_rules()), clip_norm=0.05))


def drawing(**data) -> Experiment:
    """``words_alone``, with pictures that are erased at random, and a loss by numbers of each sample's own."""
    exp = change(words_alone(**data), data=dict(transform=partial(TrainTransform, scale=(0.5, 1.0), erase=0.8)))
    return change(exp, heads=dict(exp.heads) | {"drawn": partial(Drawn)})


def plain(steps: int, **run) -> Experiment:
    """Without dropout, so that it does not matter on which process a sample is."""
    exp = tiny(model=partial(albef_tiny, image_size=32, max_tokens=16), run=dict(steps=steps, **run))
    return change(exp, data=dict(max_tokens=12), optim=dict(lr=1e-3, eps=1e-4))
