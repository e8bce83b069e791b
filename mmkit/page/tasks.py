"""What the page does with a picture and some words: functions over a predictor that know nothing of Gradio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmkit.data.images.opening import load_image, max_megapixels
from mmkit.errors import UserError
from mmkit.explanation.explain import explain
from mmkit.explanation.explained import Explanation
from mmkit.heads.base import Answers, Captions, Classifies, Matches, reads_words
from mmkit.inference.inputs import Picture
from mmkit.inference.predictor import Predictor
from mmkit.page.shelf import Shelf

BEST = 12
"""So many pictures are shown of those that were found."""
RERANKED = 32
SIDE = 480
"""Pixels of the longer side of a heat map."""


class TooLarge(UserError):
    """A picture with more pixels than are read."""


def find(predictor: Predictor, shelf: Shelf, words: str, best: int = BEST) -> list[tuple[Path, float]]:
    """The pictures that fit the words best, and how well: the similarity, or the probability of the matching head.

    The best by similarity are sorted again by the matching head, where the model has both.
    """
    count = len(shelf.paths)
    rows, scores = torch.arange(count), torch.zeros(count)
    if embeds(predictor):
        scores = shelf.embeddings(predictor) @ predictor.encode_text([words])[0]
        rows = scores.argsort(descending=True, stable=True)[: max(best, RERANKED)]
    if predictor.can_match():
        again = predictor.match([shelf.paths[i] for i in rows.tolist()], [words] * len(rows), log_odds=True)
        scores = scores.index_put((rows,), again.sigmoid())
        rows = rows[again.argsort(descending=True, stable=True)]
    return [(shelf.paths[i], float(scores[i])) for i in rows[:best].tolist()]


def name(predictor: Predictor, picture: Picture, names: Sequence[str]) -> dict[str, float]:
    """How likely each name is among these, 0 to 1, in all 1."""
    if embeds(predictor):
        similar = (predictor.encode_text(names) @ predictor.encode_image([picture])[0]).double()
        with predictor.inference():
            logits = similar / predictor.model.temperature().double().cpu()
    else:
        logits = predictor.match([picture] * len(names), names, log_odds=True).double()
    return dict(zip(names, logits.softmax(0).tolist(), strict=True))


def ask(predictor: Predictor, picture: Picture, question: str, top: int = 5) -> dict[str, float]:
    """The best answers with their probabilities."""
    generate = not getattr(predictor.answerer(), "answers", ())
    return dict(predictor.answer([picture], [question], top=top, generate=generate)[0])


def caption(predictor: Predictor, picture: Picture) -> str:
    """What the picture shows."""
    return predictor.caption([picture])[0]


def sort(predictor: Predictor, picture: Picture) -> dict[str, float]:
    """The best classes that the model was trained for, with their probabilities."""
    return dict(predictor.classify([picture], top=5)[0])


def heat_maps(predictor: Predictor, picture: Picture, text: str) -> list[tuple[Image.Image, str]]:
    """The picture under the heat map of the sentence, and of each word, with what is written below it; of a clip its
    frames side by side.
    """
    found: Explanation = explain(predictor, picture, text)
    whole = (found.overlay(size=SIDE), found.asked)
    return [whole, *((found.overlay(word.text, SIDE), word.text) for word in found.words)]


def can(task: str, predictor: Predictor) -> bool:
    """Whether a model can do a task of the page, by its name."""
    able: dict[str, Callable[[], Any]] = {
        "find": lambda: embeds(predictor) or predictor.can_match(),
        "name": lambda: embeds(predictor) or predictor.can_match(),
        "ask": lambda: predictor.reads_words and predictor.has(Answers),
        "caption": lambda: predictor.has(Captions),
        "explain": lambda: predictor.can_match(),
        "sort": lambda: any(isinstance(h, Classifies) and not reads_words(h) for h in predictor.heads.values()),
    }
    return bool(able[task]())


def embeds(predictor: Predictor) -> bool:
    """Whether its embeddings of pictures and texts compare: of one trained for answers alone nothing made them so."""
    heads = predictor.heads.values()
    made = not heads or predictor.has(Matches) or any(getattr(head, "compares", False) for head in heads)
    return made and predictor.reads_words and bool(predictor.model.spec.embed_dim)


def opened(path: str | Path) -> Image.Image:
    """A picture of a visitor's; ``TooLarge`` before it is decoded, BadImage where it cannot be read."""
    try:
        with suppress(OSError, SyntaxError, ValueError), Image.open(path) as header:
            wide, high = header.size
            if wide * high > max_megapixels() * 1e6:
                raise Image.DecompressionBombError(f"{wide} x {high} pixels")
    except Image.DecompressionBombError as error:  # Pillow's own for far larger ones
        raise TooLarge(str(error)) from error
    return load_image(path)


def split_names(text: str) -> list[str]:
    """Names on lines, or after commas where there is one line; each once."""
    lines = text.splitlines() if "\n" in text.strip() else text.replace("，", ",").replace("、", ",").split(",")
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))
