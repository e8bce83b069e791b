"""Captions are cut into the words that Stanford's PTBTokenizer gives; the strings below are what it printed."""

from __future__ import annotations

import pytest

from mmkit.evals.captions.words import words_of

PRINTED = [
    ("A man doesn't ride (a) brown horse.", "a man does n't ride -lrb- a -rrb- brown horse"),
    ("It's the dogs' toys, isn't it?", "it 's the dogs toys is n't it"),
    ("He cannot swim; she's gonna try.", "he can not swim she 's gon na try"),
    ("A black/white cat and/or a dog", "a black/white cat and/or a dog"),
    ("A $5 bill & 10% off, #1 seller!", "a $ 5 bill & 10 % off # 1 seller"),
    ("A 3.5 inch disk, 1,000 people, 5:30 pm, 10am", "a 3.5 inch disk 1,000 people 5:30 pm 10am"),
    ("Mr. Smith and Dr. Jones at St. James church", "mr. smith and dr. jones at st. james church"),
    ("The U.S. flag, the U.K. flag", "the u.s. flag the u.k. flag"),
    ("They'll be here at 5 p.m. today", "they 'll be here at 5 p.m. today"),
    ("\"Stop\" says the 'red' sign", "stop says the red sign"),
    ("A well-known t-shirt - on a bed -- neatly", "a well-known t-shirt on a bed neatly"),
    ("Wait... for it. ok", "wait for it ok"),
    ("A [framed] picture", "a -lsb- framed -rsb- picture"),
    ("Two two-year-old's shoes", "two two-year-old 's shoes"),
    ("A 1950's kitchen from the 1950s and the 90's", "a 1950 's kitchen from the 1950s and the 90 's"),
    ("A clock that says 8:25.", "a clock that says 8:25"),
    ("An o'clock and O'Reilly's pub", "an o'clock and o'reilly 's pub"),
    ("A café with naïve art", "a café with naïve art"),
    ("The children’s “own” room — upstairs", "the children 's own room upstairs"),
    ("A b&w photo of <person>", "a b & w photo of <person>"),
    ("He won't, can't and shan't stop.", "he wo n't ca n't and sha n't stop"),
    ("What a lovely day , isn't it ?", "what a lovely day is n't it"),
    ("1st and 2nd place, 7-year-old twins", "1st and 2nd place 7-year-old twins"),
    ("a man.a dog", "a man.a dog"),
    ("Mac 'n' cheese for 'em", "mac 'n' cheese for 'em"),
    ("A 6' tall man", "a 6 tall man"),
    ("30 mph and 30mph", "30 mph and 30mph"),
    ("", ""),
]  # by CoreNLP 3.4.1 with -preserveLines -lowerCase, without the signs that the caption evaluation drops


@pytest.mark.parametrize(("caption", "printed"), PRINTED, ids=[caption for caption, _ in PRINTED])
def test_words_are_those_of_the_published_program(caption, printed):
    assert words_of(caption) == printed.split()
