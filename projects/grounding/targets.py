"""Detection as grounding (GLIP, Li et al. 2022, section 3.1): boxes with names become boxes with phrases of a prompt.

Each picture has a prompt of its own, from its own random numbers: the names that it shows, and others that it does not,
in any order. What is asked of a picture is the same in any batch and on any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from mmkit.data.objects import Objects
from mmkit.data.targets import Given
from mmkit.data.texts.prompts import Prompter
from mmkit.errors import UserError
from mmkit.prompt import Prompt


class Asking(Objects):
    """The boxes of each picture with the numbers of their phrases in its prompt, as ``labels``; and ``prompt``.

    Args:
        given, classes: as in ``Objects``; the names of the classes are the phrases.
        phrases: in a prompt, at most. Half of the prompts have so many, the others any number, as GLIP has it.
        max_tokens: of a prompt; names that are shown come first, and a box whose name does not fit is left out.
        longest: of a name with its separator; as many as the text encoder has positions.
        unknown: names that are never asked for, whose boxes are left out.
    """

    needs_caption = False
    needs_names = True

    def __init__(
        self, given: Given, classes: Sequence[str] | None = None, *, phrases: int = 40, max_tokens: int = 256,
        longest: int = 32, unknown: Sequence[str] = (), min_visible: float = 0.0, min_size: float = 0.0,
        crowds: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(given, classes, min_visible=min_visible, min_size=min_size, crowds=crowds)
        self.prompter, self.phrases = Prompter(given.words, max_tokens, longest), phrases
        self.tokens = [self.prompter.tokens(name) for name in self.classes]
        left_out = set(unknown)
        self.asked_for = [i for i, name in enumerate(self.classes) if name not in left_out]
        if (self.needs_names and not self.asked_for) or phrases < 1:
            raise UserError("data.targets: Asking needs the names of the classes, and at least one phrase in a prompt")

    def encode(self, targets: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        """The boxes of one record in its view, and its prompt as tokens of phrases."""
        return self.by_names(dict(super().encode(targets, rng)), self.asked_for, rng)

    def by_names(
        self, found: dict[str, Any], names: Sequence[int], rng: Random, told: Sequence[int] = ()
    ) -> dict[str, Any]:
        """The objects of a record with their place in a prompt of ``names``, drawn, as ``labels``; the prompt is
        ``chosen``, numbers of classes. told: those that are there as well, without a box.
        """
        known = set(names)
        shown = [label for label in dict.fromkeys([*found["labels"].tolist(), *told]) if label in known]
        rng.shuffle(shown)
        wanted = self.phrases if rng.random() < 0.5 else rng.randint(1, self.phrases)
        others = [i for i in rng.sample(names, min(wanted, len(names))) if i not in set(shown)]
        chosen = (shown + others)[: max(1, wanted, min(len(shown), self.phrases))]
        chosen = chosen[: self.prompter.fitting([self.tokens[i] for i in chosen])]
        rng.shuffle(chosen)
        place = {label: number for number, label in enumerate(chosen)}
        fits = np.array([label in place for label in found["labels"].tolist()], bool)
        left_out = found["left_out"] + int((~fits).sum())
        found = rows_of(found, fits.nonzero()[0])
        found["labels"] = np.array([place[label] for label in found["labels"].tolist()], np.int64)
        return found | {"left_out": left_out, "chosen": chosen}

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See the class; ``prompt`` is a ``Prompt`` of as many rows as there are pictures."""
        prompt: Prompt = self.prompter.prompt([[self.tokens[i] for i in one["chosen"]] for one in encoded])
        return super().collate(encoded) | {"prompt": prompt}


def rows_of(found: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Those of a record's objects, in this order."""
    return dict(found) | {
        name: found[name][rows] for name in ("boxes", "labels", "crowd", "ignore", "area", "box_ids")
    }  # fmt: skip
