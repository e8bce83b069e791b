"""Boxes, phrases, prompts and pictures that are made up, for a plan: as the run's own target encoder gives them.

The encoder is asked as the loader asks it: one of boxes with a record of ``BOXES`` objects and a caption that names
them, where a prompt has as many phrases as the run asks for; another one with what its ``made_up`` says of a picture.
Words are cut into pieces of ``PIECE`` letters by a tokenizer that knows none.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from torch._subclasses.fake_tensor import unset_fake_temporarily

from mmkit.config import Experiment
from mmkit.config.override import arguments_of
from mmkit.data.images.size import height_width
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.images.view import View
from mmkit.data.objects import Objects
from mmkit.data.records import Source
from mmkit.data.targets import Given, TargetEncoder, make_targets
from mmkit.data.texts.offsets import Span
from mmkit.errors import UserError
from mmkit.types import RawPixels

BOXES = 7
"""Objects of a picture: COCO has 7.3."""
PIECE = 5
"""Letters of a piece of a word; English BERT's have about so many."""


class InventedWords:
    """A tokenizer that knows no words: each piece has some number below ``vocab_size``."""

    pad_id, unk_id, cls_id, sep_id, mask_id = 0, 1, 2, 3, 4
    special_ids = frozenset(range(5))

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str, max_tokens: int | None, kind: str = "caption") -> list[int]:
        """[CLS] and the pieces."""
        return self.encode_with_offsets(text, max_tokens)[0]

    def encode_with_offsets(
        self, text: str, max_tokens: int | None, kind: str = "caption"
    ) -> tuple[list[int], list[Span]]:
        """The same with the characters of each."""
        ids, spans, at = [self.cls_id], [(0, 0)], 0
        for word in text.split():
            at = text.index(word, at)
            for start in range(0, len(word), PIECE):
                piece = word[start : start + PIECE]
                ids.append(5 + sum(map(ord, piece)) % max(1, self.vocab_size - 5))
                spans.append((at + start, at + start + len(piece)))
            at += len(word)
        return ids[:max_tokens], spans[:max_tokens]


def invented_targets(exp: Experiment, size: int, vocab_size: int | None) -> dict[str, Any]:
    """The targets of ``size`` samples of a run whose encoder gives boxes, or says ``made_up``; else nothing.

    UserError where the encoder needs the names of classes, and only data say them that are not here.
    """
    part = exp.data.targets
    made = getattr(part, "func", part)
    if part is not None and isinstance(made, type) and issubclass(made, Objects):
        source = None if arguments_of(part).get("classes") is not None else _source(exp)
        encoder = _encoder(exp, vocab_size, source)
        return encoder.collate([encoder.encode(_said(exp, encoder), Random(i)) for i in range(size)])
    if (found := with_pictures(exp, photograph(*height_width(exp.data.image_size)), vocab_size)) is None:
        return {}
    encoder, said = found
    with unset_fake_temporarily():  # a picture's pixels are numbers
        sample = encoder.encode(said, Random(0))
    return encoder.collate([sample] * size)


def with_pictures(
    exp: Experiment, picture: bytes, vocab_size: int | None = None
) -> tuple[TargetEncoder, Mapping[str, Any]] | None:
    """The encoder of a run that reads further pictures, and what it makes up of this one; None for any other run."""
    if not callable(getattr(getattr(exp.data.targets, "func", exp.data.targets), "made_up", None)):
        return None
    encoder: Any = _encoder(exp, vocab_size, None)
    return encoder, encoder.made_up(picture)


def transform_of(exp: Experiment) -> Any:
    """That of training."""
    return (exp.data.transform or partial(TrainTransform))(size=exp.data.image_size)


def photograph(height: int, width: int) -> bytes:
    """A JPEG with edges and shades as a photograph has them: about 0.4 bytes a pixel."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8)
    grown = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(grown + draw.integers(-12, 13, (height, width, 1)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=85)
    return file.getvalue()


def _encoder(exp: Experiment, vocab_size: int | None, source: Source | None) -> TargetEncoder:
    words: Any = None if vocab_size is None else InventedWords(vocab_size)
    return make_targets(exp.data.targets, Given(tokenizer=words, transform=transform_of(exp), source=source))


def _source(exp: Experiment) -> Source | None:
    """The training data where they are here, for the names of the classes."""
    try:
        made: Source = exp.data.train()
    except (UserError, OSError, ImportError):
        return None
    return made


def _said(exp: Experiment, encoder: TargetEncoder) -> Mapping[str, Any]:
    """What the loader would give to the encoder."""
    height, width = height_width(exp.data.image_size)
    names: Sequence[str] = getattr(encoder, "classes", ()) or ("thing",)
    shown = [names[i * len(names) // BOXES % len(names)] for i in range(BOXES)]
    boxes = [
        [
            width * i / (BOXES + 2),
            height * i / (BOXES + 2),
            width * (i + 2) / (BOXES + 2),
            height * (i + 2) / (BOXES + 2),
        ]
        for i in range(BOXES)
    ]
    caption, phrases = "", []
    for i, name in enumerate(shown):
        begin = len(caption) + (2 if caption else 0)
        caption += f"{', ' if caption else ''}{name}"
        phrases.append({"caption": 0, "spans": [[begin, begin + len(name)]], "boxes": [i]})
    view = View(whole=(width, height), size=(width, height), paint=_unpainted)
    masks = np.zeros((BOXES, height, width), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = True
    return {
        "boxes": [{"name": name, "box": box} for name, box in zip(shown, boxes, strict=True)], "phrases": phrases,
        "view": view, "masks": masks, "captions": (caption,), "caption": caption, "caption_number": 0,
    }  # fmt: skip


def _unpainted(image: Any) -> RawPixels:
    raise NotImplementedError("a made-up view shows nothing")
