"""Between a head that sorts pictures alone and people: classes by name, of clips by one view or the mean of several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mmkit.data.collate import Sample
from mmkit.data.images.transforms import look
from mmkit.data.reading import reading
from mmkit.data.video.frames import Frames
from mmkit.data.video.samplers import Views
from mmkit.data.video.views import check_views, views_of
from mmkit.errors import UserError
from mmkit.heads.base import Classifies, reads_words
from mmkit.inference.finite import finite
from mmkit.inference.inputs import Picture, many_pictures, open_seen
from mmkit.types import Pixels


def sorter_of(heads: Mapping[str, Any], name: str | None = None) -> Classifies:
    """The head of this name, or the only one, that sorts pictures alone; UserError with those that there are."""
    able = {own: head for own, head in heads.items() if isinstance(head, Classifies) and not reads_words(head)}
    if name is None and len(able) == 1:
        return next(iter(able.values()))
    if name in able:
        return able[name]
    wanted = "one head that" if name is None else f"a head {name!r} that"
    raise UserError(
        f"this needs {wanted} sorts pictures alone into classes; this model's heads are: {told(heads)}. "
        "Train one with configs/pretrain/classify.py; a model that compares pictures with names is measured by "
        "mmkit zeroshot"
    )


def told(heads: Mapping[str, Any]) -> str:
    """The heads by name and kind, for a message."""
    return ", ".join(f"{name} ({type(head).__name__})" for name, head in heads.items()) or "none"


def seen_in(transform: Any, opened: Any, views: Views | None) -> list[Pixels]:
    """What the model sees of an opened picture or clip: one view, the transform's own, or those that ``views`` names,
    for which it must pass ``check_views``.
    """
    return [look(transform, opened)] if views is None else views_of(views, transform, cast(Frames, opened))


def chances(predictor: Any, head: Classifies, seen: Sequence[Sequence[Pixels]], views: Views | None) -> Tensor:
    """The probability of each class (B, C) float32, on the CPU. seen: of B samples the views, of each equally many.

    Their logits are averaged, or, where ``views`` says so, their probabilities. UserError where one is not finite.
    """
    each = []
    for view in zip(*seen, strict=True):
        samples = [Sample(pixels=pixels, image_id=row, key="") for row, pixels in enumerate(view)]
        with predictor.inference():
            each.append(head.predict(predictor.features(samples)).cpu())
    logits = finite(torch.stack(each), "class scores")
    return logits.softmax(2).mean(0) if views is not None and views.softmax else logits.mean(0).softmax(1)


def sorted_into(
    predictor: Any, images: Iterable[Picture] | Tensor, top: int, head: str | None, batch_size: int,
    views: Views | None,
) -> Iterator[list[tuple[str, float]]]:  # fmt: skip
    """What ``Predictor.classify`` gives, one after the other."""
    sorter = sorter_of(predictor.heads, head)
    if top < 1:
        raise UserError(f"top={top}: must be at least 1")
    if views is not None:
        check_views(views, predictor.transform)

    def opened(image: Picture, number: int) -> list[Pixels]:
        return seen_in(predictor.transform, open_seen(predictor.transform, image, number), views)

    for read in reading(many_pictures(images), opened, batch_size=batch_size, threads=predictor.threads):
        best = chances(predictor, sorter, read.made, views).topk(min(top, len(sorter.classes)))
        for values, numbers in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            yield [(sorter.classes[i], value) for i, value in zip(numbers, values, strict=True)]
