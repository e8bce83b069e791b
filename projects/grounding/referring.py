"""Pictures that are asked for by what their captions name: an expression is one phrase, whose words read each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from mmkit.data.objects import Objects
from mmkit.data.phrases import Phrases
from mmkit.data.targets import Given
from mmkit.data.texts.prompts import Prompter
from mmkit.prompt import Prompt
from projects.grounding.targets import rows_of


class Referring(Phrases):
    """The boxes that the phrases of each picture's caption name, with the numbers of these as ``labels``; ``prompt``.

    An expression (RefCOCO's, the built-in ones) is a caption that is one phrase. Phrases do not read each other, as in
    ``mmkit detect --text``; of each the first ``longest`` - 1 tokens are read. A box that several phrases name stands
    there once for each; one that none names is left out.
    """

    needs_caption = True

    def __init__(
        self, given: Given, *, max_tokens: int = 256, longest: int = 32, min_visible: float = 0.0, min_size: float = 0.0
    ) -> None:
        super().__init__(given, longest, min_visible=min_visible, min_size=min_size, crowds=False)
        self.prompter = Prompter(given.words, max_tokens, longest)

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """The boxes of one record in its view, and its phrases as a prompt."""
        found = dict(super().encode(targets, rng))
        phrases = [(self.prompter.cut(words), rows) for words, _, rows in found.pop("phrases")]
        phrases = phrases[: self.prompter.fitting([ids for ids, _ in phrases])]
        pairs = [(row, number) for number, (_, rows) in enumerate(phrases) for row in rows]
        made = rows_of(found, np.array([row for row, _ in pairs], np.int64))
        left_out = found["left_out"] + len(found["labels"]) - len({row for row, _ in pairs})
        made["labels"] = np.array([number for _, number in pairs], np.int64)
        return made | {"row": self.prompter.row([ids for ids, _ in phrases]), "left_out": left_out}

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See the class."""
        prompt: Prompt = self.prompter.joined([one["row"] for one in encoded])
        return Objects.collate(self, encoded) | {"prompt": prompt}
