"""A tiny ALBEF with a tokenizer and a source of coloured pictures, for the tests of what uses models."""

from fnmatch import fnmatchcase
from functools import partial

import torch
from PIL import Image

from mmkit.data.images.transforms import EvalTransform
from mmkit.data.records import Record
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.inference.predictor import Predictor
from tests.sizes import albef_tiny

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple", "brown", "pink", "grey")
SHAPES = ("square", "box", "tile")


def caption(i: int) -> str:
    return f"a {COLOURS[i % len(COLOURS)]} {SHAPES[i % len(SHAPES)]}"


def alike(evaluator, numbers) -> set[str]:
    """Of the numbers of an evaluation those by which, as its ``names`` say, no models can be compared."""
    return {name for name in numbers if not any(fnmatchcase(name, known) for known in evaluator.names())}


class Pictures:
    """``n`` one-coloured pictures with one to three captions each; several pictures share a caption."""

    class_names = COLOURS

    def __init__(self, n: int = 13, broken: int = -1) -> None:
        self.n, self.broken, self.opened = n, broken, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Record:
        colour = tuple((37 * (i + 1) * k) % 256 for k in (1, 3, 7))
        image = b"damaged" if i == self.broken else Image.new("RGB", (20 + i % 3, 24), colour)
        captions = tuple(caption(i + j)[: 40 - j] for j in range(1 + i % 3))
        return Record(
            image=image, captions=captions, image_id=str(i), key=f"picture {i}",
            targets={"label": COLOURS[i % len(COLOURS)]},
        )  # fmt: skip


def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train((caption(i) for i in range(66)), vocab_size=60)


def predictor(seed: int = 0, heads=("itc", "itm"), model=albef_tiny) -> Predictor:
    words = tokenizer()
    torch.manual_seed(seed)
    model = model(words.vocab_size)
    with torch.no_grad():  # larger weights, so that embeddings differ between inputs
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    made = {"itc": partial(ITC, queue_size=7), "itm": ITM, "mixed": partial(ITM, negatives="mixed", pooler=True)}
    return Predictor(
        model, {name: made[name](model.spec) for name in heads}, words, EvalTransform(size=32), max_tokens=12
    )
