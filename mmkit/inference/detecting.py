"""Between a head that finds objects and people: boxes come back into the pictures as they are, classes get names.

A head speaks of the view that the model has of a picture; who asked has the picture. The transform tells the way back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mmkit.data.collate import Sample
from mmkit.data.images.transforms import look, view_of
from mmkit.data.images.view import View, inverse
from mmkit.data.labels import tidy
from mmkit.data.objects import object_names
from mmkit.data.reading import reading
from mmkit.data.texts.prompts import Prompter, checked
from mmkit.data.video.opening import reads_clips
from mmkit.errors import UserError
from mmkit.heads.base import Detections, Detects, Grounds
from mmkit.inference.finite import finite
from mmkit.inference.inputs import Picture, many_pictures, open_picture


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found in one picture, the best first.

    boxes: (N, 4) float64, left, top, right, bottom in pixels of the picture, cut at its edges; right and bottom are
    outside. scores: (N,) float64, 0 to 1. labels: (N,) int64, places among ``classes``. size: (width, height).
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    size: tuple[int, int]
    classes: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The classes of the objects."""
        return [self.classes[label] for label in self.labels.tolist()]

    def above(self, threshold: float, most: int | None = None) -> Found:
        """Those with a score of at least ``threshold``; the best ``most`` of them."""
        keep = np.flatnonzero(self.scores >= threshold)[:most]
        return Found(
            boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep], size=self.size,
            classes=self.classes,
        )  # fmt: skip


def detector(heads: Mapping[str, Any], name: str | None = None) -> Detects:
    """The head that finds objects; UserError where there is none, or several and ``name`` names none of them."""
    able = {key: head for key, head in heads.items() if isinstance(head, Detects)}
    if name is not None and name not in able:
        raise UserError(f"no head {name!r} that finds objects; such heads: {', '.join(able) or 'none'}")
    if not able:
        raise UserError(
            f"this model finds no objects; its heads: {', '.join(heads) or 'none'}. Train one that does: "
            "projects/detection"
        )
    if name is None and len(able) > 1:
        raise UserError(f"this model has several heads that find objects: name one of {', '.join(able)} (--head)")
    return able[name] if name is not None else next(iter(able.values()))


def finder_of(
    predictor: Any, name: str | None = None, phrases: Sequence[str] | None = None, source: object = None
) -> Detects:
    """The head that finds objects, asked for ``phrases``; None = for those classes that it was trained on, or if there
    are none for those that the data say.

    source: of the data that are looked at, whose published numbers its classes keep. UserError as in ``detector``, for
    phrases where the head knows its own classes alone, and for none where it must be asked.
    """
    head = detector(predictor.heads, name)
    if not isinstance(head, Grounds):
        if phrases is not None:
            raise UserError(
                f"this model finds {len(head.classes)} classes of its own and cannot be asked for others "
                "(--text, --classes): projects/grounding can"
            )
        return head
    own = object_names(source) or []
    names = list(head.classes) or own if phrases is None else checked(phrases, "what to look for")
    if not names:
        raise UserError("this model finds what words ask for: say what, by --text or --classes")
    published = dict(zip(map(tidy, own), getattr(source, "object_ids", None) or (), strict=False))
    ids = [published[tidy(one)] for one in names if tidy(one) in published]
    if len(ids) < len(names):
        ids = list(head.ids) if names == list(head.classes) else []
    prompts = Prompter(predictor.tokenizer, head.prompt_tokens, predictor.max_tokens).chunks(names, head.prompt_phrases)
    return head.asked(prompts, names, ids)


def check_view(transform: object) -> None:
    """UserError for a transform that cannot say what it shows of a picture, and for one of clips."""
    if reads_clips(transform):
        raise UserError("boxes are of pictures, and this model reads clips; take a model of pictures")
    if view_of(transform, (64, 64)) is None:
        raise UserError(
            f"{type(transform).__name__} does not say what it shows of a picture, so that boxes find no way back: give "
            "it a `view` (docs/boxes.md), or take one of mmkit's"
        )


def objects_in(
    predictor: Any, images: Iterable[Picture] | Tensor, head: str | None, batch_size: int,
    phrases: Sequence[str] | None = None,
) -> Iterator[Found]:  # fmt: skip
    """What ``Predictor.detect`` gives, a batch at a time."""
    check_view(predictor.transform)
    finder = finder_of(predictor, head, phrases)

    def opened(image: Picture, number: int) -> tuple[Any, tuple[int, int]]:
        picture = open_picture(image, number)
        return look(predictor.transform, picture), picture.size

    for read in reading(many_pictures(images), opened, batch_size=batch_size, threads=predictor.threads):
        samples = [Sample(pixels=pixels, image_id=0, key="") for pixels, _ in read.made]
        with predictor.inference():
            said = finder.predict(predictor.features(samples))
        yield from in_pictures(said, finder.classes, predictor.transform, [size for _, size in read.made])


def in_pictures(
    found: Detections, classes: Sequence[str], transform: object, sizes: Sequence[tuple[int, int]]
) -> list[Found]:
    """What a head says of a batch, picture by picture. sizes: (width, height) of each, in order.

    UserError where a box or score is not finite: this model is broken.
    """
    numbers = (finite(x.float(), "boxes or scores") for x in (found.boxes, found.scores))
    boxes, scores = (x.cpu().numpy().astype(np.float64) for x in numbers)
    labels, of = found.labels.cpu().numpy(), found.of.cpu().numpy()
    out: list[Found] = []
    for row, size in enumerate(sizes):
        own = np.flatnonzero(of == row)
        own = own[np.argsort(-scores[own], kind="stable")]
        view = view_of(transform, size)
        assert view is not None
        out.append(
            Found(
                boxes=_back(boxes[own], view).clip(0, (*size, *size)), scores=scores[own], labels=labels[own],
                size=size, classes=classes,
            )
        )  # fmt: skip
    return out


def _back(boxes: NDArray[np.float64], view: View) -> NDArray[np.float64]:
    """From the view to the picture; no transform of evaluation turns or mirrors."""
    across, _, right, _, down, low = inverse(view.matrix)
    return boxes * (across, down, across, down) + (right, low, right, low)
