"""Between a head that writes captions and people: the prompt becomes ids, and what was written becomes texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmkit.data.targets import prompt_ids
from mmkit.data.texts.protocol import Tokenizer
from mmkit.encoders.decoding import Decoding, write
from mmkit.errors import UserError
from mmkit.types import Tokens

USUAL = Decoding(beams=3)
"""How captions are written where nothing else is said (BLIP, Li et al. 2022, appendix)."""


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """A head that writes, with how it does: ``captioning`` makes it. first: (P,) int64, [CLS] and the prompt."""

    head: Any
    tokenizer: Tokenizer
    how: Decoding
    first: Tensor

    def texts(self, image: Tokens) -> tuple[list[str], Tensor]:
        """A caption of each picture, and their log-probabilities (B,), see ``decoding.Text``."""
        prompt_BP = self.first.to(image.x.device).expand(len(image.x), -1)
        written = write(self.head.writer(image), prompt_BP, self.tokenizer.sep_id, self.how)
        rows = ([i for i in row if i != self.tokenizer.sep_id] for row in written.ids.tolist())
        return [self.tokenizer.decode(row).strip() for row in rows], written.log


def captioning(head: Any, tokenizer: Tokenizer, how: Decoding | None) -> Captioning:
    """How a head writes, as far as its positions reach; None = ``USUAL``. UserError for a length beyond them."""
    first, how = prompt_ids(tokenizer, head.prompt), how or USUAL
    room = head.max_tokens - len(first)
    for name in ("max_new_tokens", "min_new_tokens"):
        if (asked := getattr(how, name)) is not None and asked > room:
            raise UserError(
                f"{name} = {asked}: the head writes at most {room} tokens after its prompt of {len(first)} (its "
                f"max_tokens is {head.max_tokens})"
            )
    how = replace(how, max_new_tokens=min(how.longest, room))
    return Captioning(head=head, tokenizer=tokenizer, how=how, first=torch.tensor(first))
