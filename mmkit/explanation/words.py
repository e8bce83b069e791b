"""From tokens to words: which tokens make up a word, and how the word reads."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from mmkit.data.texts.protocol import Kind, Tokenizer


def words_of(ids: Sequence[int], tokenizer: Tokenizer) -> list[tuple[str, tuple[int, ...]]]:
    """(word, positions of its tokens) in order.

    Left out: special and unknown tokens, and all that is without letter, digit or emoji. Commas and the like that a
    tokenizer glues to a word count as part of it, but are not shown.
    """
    groups: list[list[int]] = []
    for position, (token, begins) in enumerate(zip(ids, tokenizer.starts_word(ids), strict=True)):
        if token in tokenizer.special_ids:
            continue
        if begins or not groups or groups[-1][-1] != position - 1:
            groups.append([])
        groups[-1].append(position)
    named = ((_reading([ids[i] for i in group], tokenizer), tuple(group)) for group in groups)
    return [(name, group) for name, group in named if name]


def _reading(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The word without punctuation at its ends; the pieces where they cannot be decoded; "" where nothing is left."""
    text = tokenizer.decode(ids).strip() or "".join(tokenizer.pieces(ids)).replace("▁", "")
    own = [i for i, char in enumerate(text) if char.isalnum() or unicodedata.category(char) == "So"]  # emoji too
    if not own:
        return ""
    end = own[-1] + 1
    while end < len(text) and unicodedata.category(text[end])[0] == "M":  # vowels and tones of the last letter
        end += 1
    return text[own[0] : end]


def unseen_words(text: str, tokenizer: Tokenizer, max_tokens: int, kind: Kind = "caption") -> tuple[str, ...]:
    """The words at the end of a text that are left out, one that is read in part included."""
    ids, all_ids = tokenizer.encode(text, max_tokens, kind), tokenizer.encode(text, None, kind)
    if len(ids) == len(all_ids):
        return ()
    read, whole = words_of(ids, tokenizer), words_of(all_ids, tokenizer)
    kept = sum(one == other for one, other in zip(read, whole, strict=False))
    return tuple(word for word, _ in whole[kept:])


def phrase_in(ids: Sequence[int], phrase: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...] | None:
    """The positions in the text ``ids`` of a phrase's words, where these stand in a row; None where they do not."""
    words = words_of(ids, tokenizer)
    wanted = [word.lower() for word, _ in words_of(phrase, tokenizer)]
    found = [word.lower() for word, _ in words]
    for start in range(len(found) - len(wanted) + 1):
        if wanted and found[start : start + len(wanted)] == wanted:
            return tuple(position for _, group in words[start : start + len(wanted)] for position in group)
    return None
