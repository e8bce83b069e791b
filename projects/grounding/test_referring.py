"""Pictures that are asked for by what their captions name: expressions, and phrases each alone."""

from random import Random

import torch

from mmkit.data.images.view import View
from mmkit.data.targets import Given
from projects.grounding.referring import Referring
from projects.grounding.test_head import Letters, prompts


def referred(caption, phrases, boxes, view=None, crowds=(False, False), **more):
    view = view or View(whole=(48, 32), size=(48, 32), paint=lambda picture: None, moves=())
    said = {
        "boxes": [{"name": "it", "box": box, "crowd": crowd} for box, crowd in zip(boxes, crowds, strict=True)],
        "view": view, "captions": (caption,),
        "caption": view.words(caption), "caption_number": 0, "phrases": phrases,
    }  # fmt: skip
    return Referring(Given(tokenizer=WithPlaces()), **more).encode(said, Random(0))


class WithPlaces(Letters):
    def encode_with_offsets(self, text, max_tokens, kind="caption"):
        pairs = [(2, (0, 0)), *((ord(c), (i, i + 1)) for i, c in enumerate(text) if c != " ")][:max_tokens]
        return [i for i, _ in pairs], [span for _, span in pairs]


def test_an_expression_is_one_phrase_and_asked_as_detect_asks_for_it():
    text, boxes = "dog left of cat", [[1, 1, 9, 9], [10, 1, 19, 9]]
    one = referred(text, [{"caption": 0, "spans": [(0, len(text))], "boxes": [1]}], boxes)
    made = Referring(Given(tokenizer=WithPlaces())).collate([one])
    asked = prompts([[text]])
    assert all(torch.equal(a, b) for a, b in zip(made["prompt"], asked, strict=True))
    assert (made["labels"].tolist(), made["boxes"].tolist()) == ([0], [[10, 1, 19, 9]])
    assert one["left_out"] == 1  # of the other dog nothing is said


def test_a_crowd_is_what_no_expression_means():
    said = [{"caption": 0, "spans": [(0, 3)], "boxes": [0, 1]}]
    one = referred("dog", said, [[1, 1, 9, 9], [10, 1, 19, 9]], crowds=[False, True])
    assert (one["boxes"].tolist(), one["labels"].tolist(), one["left_out"]) == ([[1, 1, 9, 9]], [0], 1)


def test_phrases_of_a_caption_are_asked_each_alone_and_long_ones_are_cut():
    boxes = [[1, 1, 9, 9], [10, 1, 19, 9]]
    phrases = [{"caption": 0, "spans": [(0, 3)], "boxes": [0, 1]}, {"caption": 0, "spans": [(8, 14)], "boxes": [1]}]
    one = referred("dog and a long", phrases, boxes, longest=4)
    assert [one["labels"].tolist(), one["boxes"][:, 0].tolist()] == [[0, 0, 1], [1, 10, 10]]
    words = [token for token, _, _, phrase in one["row"] if phrase == 1]
    assert words == [ord(c) for c in "alo"]
    assert one["left_out"] == 0
    short = referred("dog and a long", phrases, boxes, max_tokens=6)  # the second phrase does not fit
    assert short["labels"].tolist() == [0, 0]
