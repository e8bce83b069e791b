"""Phrases of a caption with the boxes that they name, for heads that align words with places.

``Phrases`` is for ``Data.targets``. Left out: prompts made of names of classes, which a head joins itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import torch

from mmkit.data.images.view import Outside
from mmkit.data.objects import Objects
from mmkit.data.targets import Given
from mmkit.data.texts.offsets import encode_with_offsets, tokens_in
from mmkit.errors import UserError


class Phrases(Objects):
    """The boxes of each picture, as ``Objects`` has them, and which words of the caption that was drawn name them.

    A record's ``phrases`` are {caption: the number of the caption, spans: characters of it, [[first, behind the last],
    ...], boxes: numbers of its ``boxes``}. They follow the caption: the one that was drawn, its left and right
    exchanged in a mirror, its tokens. max_tokens: as ``data.max_tokens`` of the run; tokens behind it are not read.

    A batch with F phrases gets, beside the boxes: ``phrase_of`` (F,) int64, whose picture's each is, in order;
    ``phrase_tokens`` (S, 2) int64, pairs of a phrase and the place of one of its tokens in the row of ``ids``;
    ``phrase_boxes`` (R, 2) int64, pairs of a phrase and a row of ``boxes``; on the host ``phrases``, a list of F texts.
    A phrase whose boxes are not seen stays, without a box; one that lies behind ``max_tokens``, without a token.

    Raises:
        UserError: for a tokenizer that cannot tell its characters, and phrases of no caption, characters or boxes.
    """

    reads_caption = True

    def __init__(
        self, given: Given, max_tokens: int, classes: Sequence[str] = (), *, outside: Outside = "clip",
        min_visible: float = 0.0, min_size: float = 0.0, crowds: bool = True,
        masks: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            given, classes, outside=outside, min_visible=min_visible, min_size=min_size, crowds=crowds, masks=masks
        )
        self.tokenizer, self.max_tokens = given.words, max_tokens

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """Boxes, and (words, tokens, boxes that stay) of each phrase."""
        found = dict(super().encode(targets, rng))
        number, view = targets["caption_number"], targets["view"]
        said, caption = targets["captions"][number], targets["caption"]
        row = np.where(found["stays"], found["stays"].cumsum() - 1, -1)
        _, offsets = encode_with_offsets(self.tokenizer, caption, self.max_tokens)
        phrases = []
        for one in targets.get("phrases", ()):
            if one["caption"] != number:
                continue
            spans, boxes = checked_phrase(one, said, len(row))
            spans = view.spans(said, spans)
            words = " ".join(caption[first:last] for first, last in spans)
            own = [int(row[box]) for box in boxes if row[box] >= 0]
            phrases.append((words, tokens_in(offsets, spans), own))
        return found | {"phrases": phrases}

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See the class."""
        out, first = super().collate(encoded), 0
        of: list[int] = []
        words: list[str] = []
        tokens: list[tuple[int, int]] = []
        boxes: list[tuple[int, int]] = []
        for picture, one in enumerate(encoded):
            for said, places, rows in one["phrases"]:
                tokens += [(len(of), place) for place in places]
                boxes += [(len(of), first + row) for row in rows]
                of.append(picture)
                words.append(said)
            first += len(one["labels"])
        pairs = {"phrase_tokens": tokens, "phrase_boxes": boxes}
        return out | {name: torch.tensor(value, dtype=torch.int64).view(-1, 2) for name, value in pairs.items()} | {
            "phrase_of": torch.tensor(of, dtype=torch.int64), "phrases": words,
        }  # fmt: skip


def checked_phrase(one: Mapping[str, Any], caption: str, boxes: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Its spans and the numbers of its boxes; UserError for what the record has not."""
    try:
        spans = [(int(first), int(last)) for first, last in one["spans"]]
        numbers = [int(number) for number in one["boxes"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'"phrases": {one!r}: needs "spans" and "boxes"') from error
    if not spans or any(not 0 <= first < last <= len(caption) for first, last in spans):
        raise UserError(f'"phrases": spans {spans} are not characters of {caption!r}')
    if any(not 0 <= number < boxes for number in numbers):
        raise UserError(f'"phrases": boxes {numbers} of {boxes} boxes, which are counted from 0')
    return spans, numbers
