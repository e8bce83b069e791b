"""``mmkit.explain``: what in a picture speaks for a text, word by word (ALBEF, section 6).

The usual question is "where is what this word names": each word is hidden in turn, and guessed from the picture and
the other words. Others are why picture and text match (the matching head's logit, as ALBEF shows it), an answer (of a
model that answers questions), the similarity of the two embeddings, or any function of the fused tokens. A clip has a
map for each frame that the model saw. Left out: explanations of generated text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image

from mmkit.data.images.transforms import look
from mmkit.data.reading import batches, reading
from mmkit.data.texts.protocol import Kind
from mmkit.data.video.transforms import ClipTransform
from mmkit.errors import UserError
from mmkit.explanation.explained import Explanation
from mmkit.explanation.goals import Target, best_answers, kind_of
from mmkit.explanation.gradcam import Asked, TokenMaps, ask, token_maps
from mmkit.explanation.maps import HeatMap, Word, seen_box
from mmkit.explanation.words import unseen_words, words_of
from mmkit.inference.inputs import Picture, open_seen
from mmkit.inference.predictor import Predictor
from mmkit.ranks import rank
from mmkit.types import Pixels

log = logging.getLogger(__name__)


def explain(
    predictor: Predictor, image: Picture, text: str, *, answer: str | None = None, target: Target | None = None,
    layer: int | None = None, head: int | None = None, words: bool = True,
) -> Explanation:  # fmt: skip
    """Heat maps of one picture or clip and one text: see ``mmkit.explain``."""
    return next(explain_pairs(
        predictor, [image], [text], answers=None if answer is None else [answer], target=target, layer=layer,
        head=head, words=words,
    ))  # fmt: skip


def explain_pairs(
    predictor: Predictor, images: Sequence[Picture], texts: Sequence[str], *,
    answers: Sequence[str] | None = None, target: Target | None = None, layer: int | None = None,
    head: int | None = None, words: bool = True, batch_size: int = 32,
) -> Iterator[Explanation]:  # fmt: skip
    """The same for many pairs, image i with text i, ``batch_size`` in one pass; in order. See ``explain``.

    What is asked is checked at once; pictures are read as they are needed.
    """
    _check_pairs(images, texts, answers, target)
    asked = ask(predictor, target if answers is None else "answer", layer, head)
    kind = kind_of(predictor, asked.target)
    for text in texts:
        if not isinstance(text, str) or not words_of(
            predictor.tokenizer.encode(text, predictor.max_tokens, kind), predictor.tokenizer
        ):
            raise UserError(f"text {text!r}: there is no word in it that the model knows")
    _tell_unseen(predictor, texts, kind)
    if asked.target == "answer" and answers is None:
        answers = best_answers(predictor, images, texts, batch_size)
    return _explained(predictor, asked, images, texts, answers or (), words, batch_size)


def _check_pairs(
    images: Sequence[Picture], texts: Sequence[str], answers: Sequence[str] | None, target: Target | None
) -> None:
    if len(images) != len(texts) or (answers is not None and len(answers) != len(texts)):
        count = "" if answers is None else f", {len(answers)} answers"
        raise UserError(f"pairs go one by one: {len(images)} images, {len(texts)} texts{count}")
    if answers is not None and target not in (None, "answer"):
        raise UserError("give answers or a target: an answer is a target of its own")
    for answer in answers or ():
        if not isinstance(answer, str) or not answer.strip():
            raise UserError(f"answer {answer!r}: give a text; or no answer at all, for the model's own")


def _tell_unseen(predictor: Predictor, texts: Sequence[str], kind: Kind) -> None:
    """Log, once for all, that texts do not fit into the model."""
    cut = [(text, words) for text in texts if (words := _unseen(predictor, text, kind))]
    if not cut or rank() != 0:
        return
    (text, words), more = cut[0], f" (and {len(cut) - 1} more texts)" if len(cut) > 1 else ""
    log.warning(
        "text %r%s: longer than the %d tokens that this model reads; the last %d words have no part in the "
        "explanation: %s", text, more, predictor.max_tokens, len(words), " ".join(words),
    )  # fmt: skip


def _unseen(predictor: Predictor, text: str, kind: Kind) -> tuple[str, ...]:
    return unseen_words(text, predictor.tokenizer, predictor.max_tokens, kind)


def _explained(
    predictor: Predictor, asked: Asked, images: Sequence[Picture], texts: Sequence[str],
    answers: Sequence[str], words: bool, batch_size: int,
) -> Iterator[Explanation]:  # fmt: skip
    done = 0
    for numbers in batches(range(len(texts)), batch_size):
        pictures, pixels, image_of = _read(predictor, [images[i] for i in numbers], numbers[0])
        part = [texts[i] for i in numbers]
        found: Iterable[tuple[TokenMaps, Sequence[float]]]
        if asked.target == "mlm":
            found = _guessed(predictor, asked, pixels, image_of, part, batch_size)
        else:
            given = [answers[i] for i in numbers] if answers else ()
            found = ((maps, ()) for maps in token_maps(predictor, asked, pixels, image_of, part, given))
        for at, text, (maps, chances) in zip(image_of, part, found, strict=True):
            yield _explanation(predictor, asked, pictures[at], text, maps, words, chances)
        done += len(numbers)
        predictor.progress("explained pairs", done, len(texts))


def _guessed(
    predictor: Predictor, asked: Asked, pixels: Sequence[Pixels], image_of: Sequence[int], texts: Sequence[str],
    batch_size: int,
) -> Iterator[tuple[TokenMaps, list[float]]]:  # fmt: skip
    """For each pair the maps of its words, each from a pass in which it is hidden, and their probabilities.

    A token that belongs to no word has no map: its values are zero, and the sentence is the mean of the others.
    """
    rows = []
    for number, text in enumerate(texts):
        ids = predictor.tokenizer.encode(text, predictor.max_tokens)
        rows += [(number, places) for _, places in words_of(ids, predictor.tokenizer)]
    found: list[TokenMaps] = []
    for part in batches(rows, batch_size):
        found += token_maps(
            predictor, asked, pixels, [image_of[number] for number, _ in part], [texts[number] for number, _ in part],
            hidden=[places for _, places in part],
        )  # fmt: skip
    for number in range(len(texts)):
        own = [(maps, places) for maps, (row, places) in zip(found, rows, strict=True) if row == number]
        whole = torch.zeros_like(own[0][0].maps)
        for maps, places in own:
            whole[list(places)] = maps.maps[list(places)]
        chances = [maps.score for maps, _ in own]
        yield TokenMaps(whole, own[0][0].ids, sum(chances) / len(chances), "words"), chances


@dataclass(frozen=True)
class _Opened:
    """A picture, or the frames of a clip that the model sees, and which of it they are."""

    frames: tuple[Image.Image, ...]
    numbers: tuple[int, ...] = ()


def _read(
    predictor: Predictor, images: Sequence[Picture], first: int
) -> tuple[list[_Opened], list[Pixels], list[int]]:  # fmt: skip
    """The distinct pictures or clips, what the model sees of them, and which of them each of ``images`` is."""
    distinct = {id(image): image for image in images}
    numbers = {key: i for i, key in enumerate(distinct)}

    def opened(image: Picture, number: int) -> tuple[_Opened, Pixels]:
        picture = open_seen(predictor.transform, image, first + number)
        pixels = look(predictor.transform, picture)
        if isinstance(picture, Image.Image):
            return _Opened((picture,)), pixels
        seen = cast(ClipTransform, predictor.transform).sampler.for_eval().fixed(picture.count, picture.rate)
        return _Opened(tuple(picture.take(seen)), tuple(seen)), pixels

    (read,) = reading(distinct.values(), opened, batch_size=len(distinct), threads=predictor.threads)
    pictures, pixels = [picture for picture, _ in read.made], [seen for _, seen in read.made]
    return pictures, pixels, [numbers[id(image)] for image in images]


def _explanation(
    predictor: Predictor, asked: Asked, opened: _Opened, text: str, found: TokenMaps, words: bool,
    chances: Sequence[float | None] = (),
) -> Explanation:  # fmt: skip
    picture, transform = opened.frames[0], predictor.transform
    seen = seen_box(cast(ClipTransform, transform).frame if opened.numbers else transform, picture)
    size = picture.height, picture.width
    parts: tuple[Word, ...] = ()
    if words and asked.target != "itc":
        groups = words_of(found.ids, predictor.tokenizer)
        raws = [found.maps[list(tokens)].mean(0) for _, tokens in groups]
        weights = torch.stack([found.maps[list(tokens)].sum() for _, tokens in groups]).double()
        total = float(weights.sum())
        if not total:
            log.warning(
                "layer %d: no word's attention changes the target (in the last layer [CLS] alone does); the words' "
                "maps are empty. Choose a lower layer", asked.layer,
            )  # fmt: skip
        each = zip(groups, raws, weights, chances or [None] * len(groups), strict=True)
        parts = tuple(
            Word(word, tokens, HeatMap(raw, size, seen), float(weight) / total if total else 0.0, chance)
            for (word, tokens), raw, weight, chance in each
        )
    unseen = _unseen(predictor, text, kind_of(predictor, asked.target))
    return Explanation(
        picture=picture, text=text, target=found.target, score=found.score, layer=asked.layer, head=asked.head,
        sentence=HeatMap(found.sentence(), size, seen), words=parts, unseen=unseen,
        frames=opened.frames if opened.numbers else (), numbers=opened.numbers,
    )  # fmt: skip
