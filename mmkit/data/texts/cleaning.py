"""The cleaning of texts by the official ALBEF (RECIPES A.5), exactly: BERT reads what it read there.

A tokenizer's ``Framing`` says whether it cleans. Left out: LAVIS' variants of it.
"""

from __future__ import annotations

import re

CAPTION_WORDS, QUESTION_WORDS = 30, 50
"""At most so many words are read; of questions 50, as in the official evaluation (its training stops at 25 tokens)."""

_DELETED = re.compile(r"[,.'!?\"()*#:;~]")
_SPACED = re.compile(r"[-/]")
_RUN = re.compile(r"\s{2,}")


def clean_caption(caption: str, max_words: int | None = CAPTION_WORDS) -> str:
    """``pre_caption``: lower case, punctuation out, "-" and "/" to spaces, at most ``max_words`` words (None: all)."""
    text = _SPACED.sub(" ", _DELETED.sub("", caption.lower())).replace("<person>", "person")
    return " ".join(_RUN.sub(" ", text).rstrip("\n").strip(" ").split(" ")[:max_words])


def clean_question(question: str, max_words: int | None = QUESTION_WORDS) -> str:
    """``pre_question``: the same, but runs of spaces stay (and count as words), and so does "<person>"."""
    text = _SPACED.sub(" ", _DELETED.sub("", question.lower())).rstrip(" ")
    return " ".join(text.split(" ")[:max_words])
