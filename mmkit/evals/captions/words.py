"""The words of a caption as the COCO caption evaluation cuts them: those of the Penn Treebank, small, without signs.

The published program asks Stanford's PTBTokenizer (CoreNLP 3.4.1, Java). These are its rules as far as captions need
them, and the tests hold them against what it printed. Left out: addresses of web pages, faces made of signs, spelled
fractions; and that there a single letter keeps its full stop or not by the line after it in the file.
"""

from __future__ import annotations

import re

_SHORT = (
    "mr|mrs|ms|dr|st|jr|sr|prof|gen|rev|sen|rep|gov|lt|col|sgt|capt|mt|ft|ave|blvd|rd|co|corp|inc|ltd|bros|vs|etc|no|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
_WORD = re.compile(
    rf"""
      n't\b | '(?:s|m|d|ll|re|ve|em|[0-9]0s)(?!\w) | 'n' | '[td](?=is\b|was\b)
    | (?:c'mon|ma'am)\b | [dlo]'\w+?(?=n't\b|'s\b|(?!\w)) | y'(?=\w) | <\w+>
    | (?:{_SHORT}|ph\.d|(?:[a-z]\.)+[a-z])\.(?!\w)                      # with the full stop of what is cut short
    | \w+?(?=n't\b|'n'\w) | [$#%&*+=~<>]
    | [0-9]+(?:[.,:/-][0-9]+)*(?:(?:-?[a-z]+)+)?                         # 1,000 and 8:25 and 10am
    | \w+(?:[-/.]\w+)*                                                  # hyphens within a word stay
    | \.+ | -+ | \S
    """,
    re.VERBOSE,
)
_TWO = re.compile(r"\b(can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|lem(?=me\b))")
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "—": "--", "–": "--"})
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SIGNS = frozenset(["'", '"', "`", ".", "..", "...", "?", "!", ",", ":", "-", "--", ";"])


def words_of(caption: str) -> list[str]:
    """The words; signs are dropped, but for brackets, which stay under their names, as in the published program."""
    plain = _TWO.sub(r"\1 ", caption.lower().translate(_PLAIN))
    found = (match[0] for match in _WORD.finditer(plain))
    return [_BRACKETS.get(word, word) for word in found if word not in _SIGNS and set(word) - {".", "-"}]
