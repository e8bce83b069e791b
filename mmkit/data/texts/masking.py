"""BERT's masking of tokens (Devlin et al. 2019, section 3.1; RECIPES A.2.13), on the host, one text at a time.

Of 15 % of the tokens, 80 % become [MASK], 10 % a random id of the whole vocabulary, 10 % stay. [PAD], [CLS] and [SEP]
are never chosen. A text may come out with no hidden token: the head handles that. Left out: n-gram and span masking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from mmkit.data.texts.protocol import Tokenizer
from mmkit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Draws which tokens to hide.

    probability: of each token, or of each word, to be chosen. whole_word: choose all pieces of a word together; each
    piece then still draws its own 80/10/10. keep, random: the shares of the chosen that stay, or become a random id.
    """

    probability: float = 0.15
    whole_word: bool = False
    keep: float = 0.1
    random: float = 0.1

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.probability, self.keep, self.random, self.keep + self.random)):
            raise UserError(f"masking: probability, keep, random and keep + random must lie in 0..1, not {self}")

    def __call__(self, ids: Sequence[int], tokenizer: Tokenizer, rng: Random) -> tuple[list[int], list[int], list[int]]:
        """(ids after masking, hidden positions in rising order, what stood there)."""
        never = tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id
        starts = tokenizer.starts_word(ids) if self.whole_word else [True] * len(ids)
        masked, positions, chosen = list(ids), [], False
        for position, (token, start) in enumerate(zip(ids, starts, strict=True)):
            if token in never:
                continue
            if start:
                chosen = rng.random() < self.probability
            if chosen:
                positions.append(position)
                masked[position] = self._replacement(token, tokenizer, rng)
        return masked, positions, [ids[p] for p in positions]

    def _replacement(self, token: int, tokenizer: Tokenizer, rng: Random) -> int:
        draw = rng.random()
        if draw < self.random:
            return rng.randrange(tokenizer.vocab_size)
        return token if draw < self.random + self.keep else check_mask(tokenizer)


def check_mask(tokenizer: Tokenizer) -> int:
    """The id of [MASK]; UserError where the tokenizer has none."""
    if tokenizer.mask_id is None:
        raise UserError(
            "this tokenizer has no [MASK], so no word can be hidden: leave out data.masking and what learns from it "
            "(MLM), or let the tokenizer grow, Framing(grows=True), for a model that is trained with it from the start"
        )
    return tokenizer.mask_id
