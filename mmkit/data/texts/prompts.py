"""Prompts: phrases put together as texts in which each phrase is told from the others (Grounding DINO, section 3.4).

Which token belongs to which phrase follows from putting them together, and is never searched for in the text: names
may hold full stops, or one another. A prompt is [CLS], for each phrase its tokens and a separator, the full
stop; [SEP] where the tokenizer ends texts so. A token reads those of its own phrase, with its separator; positions
count from 0 in each phrase, so that what a phrase says does not depend on what else is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from mmkit.data.texts.protocol import Tokenizer
from mmkit.errors import UserError
from mmkit.prompt import Prompt

SEPARATOR = "."
Word = tuple[int, int, int, int]
"""A token of a prompt: its id, block, position and phrase, see ``Prompt``."""


@dataclass(frozen=True)
class Prompter:
    """Makes prompts of at most ``max_tokens`` tokens, of phrases of at most ``longest`` with their separator.

    longest: as many as the text encoder has positions.
    """

    tokenizer: Tokenizer
    max_tokens: int = 256
    longest: int = 256

    def tokens(self, phrase: str) -> list[int]:
        """Those of a phrase without their frame; UserError for one of which nothing is left, or that fits nowhere."""
        ids, most = self._unframed(phrase), self._most
        if len(ids) > most:
            raise UserError(
                f"the phrase {phrase[:60]!r} has {len(ids)} tokens, and this model reads at most {most} of one: say it "
                "in fewer words"
            )
        return ids

    def cut(self, phrase: str) -> list[int]:
        """The same, of a long one its first tokens."""
        return self._unframed(phrase)[: self._most]

    def _unframed(self, phrase: str) -> list[int]:
        ids = [number for number in self.tokenizer.encode(phrase, None) if number not in self._frame]
        if not ids:
            raise UserError(f"the phrase {phrase!r} says nothing to this model's tokenizer; ask for something else")
        return ids

    @property
    def _most(self) -> int:
        return min(self._room, self.longest) - 1

    @cached_property
    def _frame(self) -> tuple[int, int]:
        return self.tokenizer.cls_id, self.tokenizer.sep_id

    @cached_property
    def _ends(self) -> bool:
        return self.tokenizer.encode("a", None)[-1] == self.tokenizer.sep_id

    @cached_property
    def _room(self) -> int:
        return self.max_tokens - 1 - self._ends

    @cached_property
    def separator(self) -> int:
        """The token that ends a phrase."""
        ids = [number for number in self.tokenizer.encode(SEPARATOR, None) if number not in self._frame]
        return ids[-1] if ids else self.tokenizer.sep_id

    def fitting(self, phrases: Sequence[Sequence[int]]) -> int:
        """How many of the first of these phrases, as tokens, fit one prompt."""
        room, count = self._room, 0
        while count < len(phrases) and len(phrases[count]) + 1 <= room:
            room -= len(phrases[count]) + 1
            count += 1
        return count

    def prompt(self, rows: Sequence[Sequence[Sequence[int]]], first: Sequence[int] | None = None) -> Prompt:
        """A text for each row of phrases, as tokens. first: the number of each row's first phrase; None = 0."""
        return self.joined([self.row(row, 0 if first is None else first[i]) for i, row in enumerate(rows)])

    def joined(self, rows: Sequence[Sequence[Word]]) -> Prompt:
        """Texts as one batch."""
        width = max(len(row) for row in rows)
        empty = (self.tokenizer.pad_id, -1, 0, -1)
        padded = torch.tensor([[*row, *[empty] * (width - len(row))] for row in rows], dtype=torch.int64)
        ids, block, positions, phrase = padded.unbind(-1)
        return Prompt(ids, block >= 0, block, positions, phrase)

    def row(self, phrases: Sequence[Sequence[int]], first: int = 0) -> list[Word]:
        """A text of phrases, as tokens, numbered from ``first``."""
        row = [(self._frame[0], 0, 0, -1)]
        for number, ids in enumerate(phrases):
            spelled = [first + number] * len(ids) + [-1]
            row += [
                (token, number + 1, place, phrase)
                for place, (token, phrase) in enumerate(zip([*ids, self.separator], spelled, strict=True))
            ]
        return [*row, *[(self._frame[1], len(phrases) + 1, 0, -1)] * self._ends]

    def sentence(self, ids: Sequence[int], phrases: Mapping[int, int]) -> list[Word]:
        """A whole text, framed already, whose tokens read each other. phrases: of those that spell one, by place.

        UserError for one of more than ``longest`` tokens.
        """
        if len(ids) > self.longest:
            raise UserError(f"a text of {len(ids)} tokens, and this model reads at most {self.longest}: cut it")
        return [(token, 0, place, phrases.get(place, -1)) for place, token in enumerate(ids)]

    def chunks(self, phrases: Sequence[str], most: int) -> list[Prompt]:
        """One prompt (B = 1) after the other with at most ``most`` phrases each, in order, as even as can be.

        Their phrases are numbered through: ``Prompt.phrase`` counts from the first of all.
        """
        if not phrases:
            raise UserError("there is nothing to look for: give at least one phrase")
        ids = [self.tokens(phrase) for phrase in phrases]
        most = -(-len(ids) // -(-len(ids) // most))
        prompts, start = [], 0
        while start < len(ids):
            count = self.fitting(ids[start : start + most])
            prompts.append(self.prompt([ids[start : start + count]], [start]))
            start += count
        return prompts


def phrases_in(text: str) -> list[str]:
    """What ``--text`` asks for: "a dog. a red canoe." -> its phrases. The last full stop may be missing.

    UserError where there is none, or one twice.
    """
    return checked(text.split(SEPARATOR), "--text")


def checked(phrases: Sequence[str], where: str) -> list[str]:
    """Phrases without white space around them; UserError where there is none, or one twice."""
    found = [" ".join(phrase.split()) for phrase in phrases]
    found = [phrase for phrase in found if phrase]
    if not found:
        raise UserError(f'{where}: there is nothing to look for; give phrases, as in "a dog. a red canoe."')
    if double := [phrase for i, phrase in enumerate(found) if phrase.casefold() in map(str.casefold, found[:i])]:
        raise UserError(f"{where}: {double[0]!r} is asked for twice; ask for each thing once")
    return found
