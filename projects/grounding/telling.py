"""Phrase grounding beside detection (GLIP, Li et al. 2022, section 3.3): captions as prompts, and what they tell of
kinds that nobody has boxed.

A caption is a prompt whose words all read each other, and the phrases in it name boxes. Of a kind that is never boxed a
caption still tells that it is there: ``told``, for a head that finds out where by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import torch

from mmkit.data.objects import Objects
from mmkit.data.phrases import Phrases
from mmkit.data.targets import Given
from mmkit.data.texts.offsets import encode_with_offsets
from mmkit.errors import UserError
from mmkit.prompt import Prompt
from projects.grounding.targets import Asking, rows_of


class Telling(Asking):
    """As ``Asking``; some pictures are asked for by their caption, with its phrases as ``labels``.

    Args:
        given, classes, phrases, max_tokens, longest: as in ``Asking``; of a caption the first ``longest`` tokens are
            read. classes=() = boxes have no names but what captions call them: every picture is asked for by its
            caption.
        captions: the share of the pictures, of those with phrases in their caption, that are asked for by it.
        unknown: names whose boxes are left out. Where the caption tells of them they are asked for all the same, and
            elsewhere as what is not there.

    A record that has phrases and no boxes at all ("boxes": []) is a caption of a picture that nobody boxed: all of its
    phrases are told.

    A batch has, beside ``Asking``'s: ``told`` (W, 2) int64, pairs of a picture and a phrase of its prompt that is there
    without a box; and ``spells`` (B, F, L) bool, which tokens spell each phrase, as a word of a caption may be of two:
    "a man in a hat", "a hat". A box that several phrases name stands there once for each.
    """

    needs_caption = True
    needs_names = False
    reads_caption = True

    def __init__(
        self, given: Given, classes: Sequence[str] | None = None, *, captions: float = 0.5, phrases: int = 40,
        max_tokens: int = 256, longest: int = 32, unknown: Sequence[str] = (), min_visible: float = 0.0,
        min_size: float = 0.0, crowds: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            given, classes, phrases=phrases, max_tokens=max_tokens, longest=longest, unknown=unknown,
            min_visible=min_visible, min_size=min_size, crowds=crowds,
        )  # fmt: skip
        if not 0 <= captions <= 1:
            raise UserError(f"data.targets: Telling captions={captions}: a share from 0 to 1")
        self.captions, self.longest = captions, longest
        self.spans = Phrases(
            given, longest, self.classes, min_visible=min_visible, min_size=min_size, crowds=crowds
        )  # fmt: skip

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """The boxes of one record in its view, its prompt, and what is told."""
        found = dict(self.spans.encode(targets, rng))
        labels, boxed = found["labels"].tolist(), set(self.asked_for) if self.classes else {0}
        given = [row for row, label in enumerate(labels) if label in boxed]
        left_out = found["left_out"] + len(labels) - len(given)
        phrases = [one for one in found.pop("phrases") if one[1]]
        nobody = bool(phrases) and not len(targets["boxes"])
        if not self.classes or nobody or (phrases and rng.random() < self.captions):
            made = self._by_caption(found, phrases, set(given), targets["caption"]) | {"left_out": left_out}
            return made | {"told": list(range(len(phrases)))} if nobody else made
        told = sorted({labels[row] for _, _, rows in phrases for row in rows} - boxed)
        unsaid = set(labels) - boxed - set(told)
        names = [i for i in range(len(self.classes)) if i not in unsaid]
        made = self.by_names(rows_of(found, np.array(given, np.int64)) | {"left_out": left_out}, names, rng, told)
        row = self.prompter.row([self.tokens[i] for i in made["chosen"]])
        places: list[list[int]] = [[] for _ in made["chosen"]]
        for place, (*_, number) in enumerate(row):
            if number >= 0:
                places[number].append(place)
        there = [made["chosen"].index(i) for i in told if i in made["chosen"]]
        return made | {"row": row, "places": places, "told": there}

    def _by_caption(
        self, found: Mapping[str, Any], phrases: Sequence[tuple[str, list[int], list[int]]], given: set[int],
        caption: str,
    ) -> dict[str, Any]:  # fmt: skip
        """Each box once for each phrase that names it. given: the boxes that may be known."""
        ids, _ = encode_with_offsets(self.spans.tokenizer, caption, self.longest)
        spelled = {place: number for number, (_, places, _) in enumerate(phrases) for place in places}
        pairs = [(row, number) for number, (_, _, rows) in enumerate(phrases) for row in rows if row in given]
        made = rows_of(found, np.array([row for row, _ in pairs], np.int64))
        made["labels"] = np.array([number for _, number in pairs], np.int64)
        told = [number for number, (_, _, rows) in enumerate(phrases) if rows and not given & set(rows)]
        return made | {"row": self.prompter.sentence(ids, spelled), "told": told, "places": [one[1] for one in phrases]}

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See the class."""
        places = [
            (picture, number, place) for picture, one in enumerate(encoded)
            for number, own in enumerate(one["places"]) for place in own
        ]  # fmt: skip
        prompt: Prompt = self.prompter.joined([one["row"] for one in encoded])
        told = [(picture, number) for picture, one in enumerate(encoded) for number in one["told"]]
        most = max([1, *(len(one["places"]) for one in encoded)])
        spells = torch.zeros(len(encoded), most, prompt.ids.shape[1], dtype=torch.bool)
        spells[torch.tensor(places, dtype=torch.int64).view(-1, 3).unbind(1)] = True
        return Objects.collate(self, encoded) | {
            "prompt": prompt, "told": torch.tensor(told, dtype=torch.int64).view(-1, 2), "spells": spells,
        }  # fmt: skip
