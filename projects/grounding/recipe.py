"""What the runs of both heads share: where they begin, at which rates they learn, which kinds are never boxed."""

from __future__ import annotations

from functools import partial
from typing import Any

from mmkit.config import Optim, Rule, mmkit_rules
from mmkit.data.openmoji.kinds import emoji_names, pool_of, unboxed_kinds
from mmkit.data.texts.tokenizers import reuse, train_sentencepiece


def begins(start: str | None) -> dict[str, Any]:
    """The model and the tokenizer of the run ``start``, as arguments of an ``Experiment``; None = from nothing."""
    if start is None:
        return {"tokenizer": partial(train_sentencepiece, vocab_size=1000)}
    return {"init": {"model": start}, "tokenizer": partial(reuse, path=f"{start}/tokenizer")}


def optim(lr: float, tower: float) -> Optim:
    """The towers learn at ``tower`` times the head's rate."""
    return Optim(
        lr=lr, min_lr=lr / 100, warmup_frac=0.06, betas=(0.9, 0.98),
        rules=(
            Rule(pattern=r"^model\.", max_rank=1, lr_scale=tower, weight_decay=0.0),
            Rule(pattern=r"^model\.(image\.(cls|positions\.)|text\.embeddings\.)", lr_scale=tower, weight_decay=0.0,
                 optional=True),
            Rule(pattern=r"^model\.", lr_scale=tower), *mmkit_rules(),
        ),
    )  # fmt: skip


def groups_of(kinds: int) -> dict[str, tuple[str, ...]]:
    """The names of the first so many kinds of emoji, by whether training boxes them."""
    return {
        "boxed": tuple(emoji_names(pool_of(kinds, "boxed"))), "unboxed": tuple(emoji_names(unboxed_kinds(kinds))),
    }  # fmt: skip
