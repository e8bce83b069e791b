"""Captions as prompts beside names, and what they tell of kinds that nobody boxed."""

from random import Random

import pytest
import torch

from mmkit.data.images.view import View
from mmkit.data.targets import Given
from mmkit.errors import UserError
from projects.grounding.telling import Telling
from projects.grounding.test_head import Letters

NAMES = ("cat", "dog", "canoe", "lamp", "cup")
CAPTION = "a dog left of a canoe"
DOG, CANOE = (0, 5), (14, 21)


class Spelling(Letters):
    """Each letter is a token, white space is none."""

    def encode_with_offsets(self, text, max_tokens, kind="caption"):
        places = [i for i, letter in enumerate(text) if letter != " "]
        offsets = [(0, 0), *((i, i + 1) for i in places)]
        return self.encode(text, max_tokens), offsets[:max_tokens]


def encoder(classes=NAMES, **more):
    return Telling(Given(tokenizer=Spelling()), classes, **more)


def said(phrases, boxes=(("dog", 0), ("canoe", 20)), caption=CAPTION, swapped=None):
    view = View(whole=(48, 32), size=(48, 32), paint=lambda picture: None, moves=(), swapped=swapped)
    return {
        "boxes": [{"name": name, "box": [left, 2, left + 9, 12]} for name, left in boxes], "view": view,
        "caption": caption, "caption_number": 0, "captions": (caption,),
        "phrases": [{"caption": 0, "spans": [span], "boxes": rows} for span, rows in phrases],
    }  # fmt: skip


def spelled(prompt, picture, number):
    return "".join(map(chr, prompt.ids[picture][prompt.phrase[picture] == number].tolist()))


def test_a_caption_is_a_prompt_whose_phrases_name_boxes():
    one = encoder(captions=1.0)
    made = one.collate([one.encode(said([(CANOE, [1]), (DOG, [0])]), Random(0))])
    prompt = made["prompt"]
    assert made["labels"].tolist() == [0, 1]
    assert made["boxes"][:, 0].tolist() == [20, 0]  # in the order of the phrases
    assert [spelled(prompt, 0, i) for i in (0, 1)] == ["acanoe", "adog"]
    assert prompt.positions[0].tolist() == list(range(len(prompt.ids[0])))
    assert prompt.reads.all()
    assert made["told"].shape == (0, 2)


def test_a_phrase_of_several_boxes_and_a_box_of_several_phrases_stand_there_once_for_each_pair():
    one = encoder(captions=1.0)
    made = one.collate([one.encode(said([(DOG, [0, 1]), (CANOE, [1])]), Random(0))])
    assert made["labels"].tolist() == [0, 0, 1]
    assert made["boxes"][:, 0].tolist() == [0, 20, 20]
    assert made["box_of"].tolist() == [0, 0, 0]


def test_a_word_may_be_of_two_phrases():
    one = encoder(captions=1.0)
    made = one.collate([one.encode(said([((0, 21), [0]), (CANOE, [1])]), Random(0)), one.encode(said([]), Random(0))])
    spells = made["spells"]
    assert spells.shape == (2, max(2, spells.shape[1]), made["prompt"].ids.shape[1])
    words = ["".join(map(chr, made["prompt"].ids[0][row].tolist())) for row in spells[0, :2]]
    assert words == ["adogleftofacanoe", "acanoe"]
    for number in range(spells.shape[1]):  # of names as the prompt says
        assert spells[1, number].tolist() == (made["prompt"].phrase[1] == number).tolist()


def test_what_the_caption_tells_of_an_unboxed_kind_is_told_and_its_box_is_not_given():
    one = encoder(captions=1.0, unknown=("canoe",))
    made = one.encode(said([(DOG, [0]), (CANOE, [1])]), Random(0))
    assert (made["labels"].tolist(), made["told"], made["left_out"]) == ([0], [1], 1)
    assert made["boxes"][:, 0].tolist() == [0]
    both = one.collate([one.encode(said([(DOG, [])]), Random(0)), made])
    assert both["told"].tolist() == [[1, 1]]  # a phrase of no box in the view is not told either
    assert both["box_of"].tolist() == [1]


def test_a_picture_that_nobody_boxed_is_told_of_by_its_caption_whole():
    for classes in (NAMES, ()):
        one = encoder(classes, captions=0.0)
        made = one.encode(said([(DOG, []), (CANOE, [])], ()), Random(0))
        assert (made["told"], len(made["labels"]), made["left_out"]) == ([0, 1], 0, 0)
        assert "chosen" not in made  # names are not asked for: the picture may well show them
    boxed = encoder((), captions=0.0).encode(said([(DOG, []), (CANOE, [1])]), Random(0))
    assert boxed["told"] == []  # what others boxed and this phrase does not name is no such thing
    for classes in (NAMES, ()):
        gone = encoder(classes, captions=0.0).encode(said([(DOG, [0])], [("dog", 60)]), Random(0))
        assert (gone["told"], len(gone["labels"]), gone["left_out"]) == ([], 0, 1)  # boxed, and out of the view


def test_in_a_prompt_of_names_what_is_told_is_asked_for_and_what_is_unboxed_and_unsaid_is_not():
    one = encoder(captions=0.0, phrases=5, unknown=("canoe", "lamp"))
    asked = set()
    for seed in range(30):
        made = one.encode(said([(DOG, [0]), (CANOE, [1])]), Random(seed))
        names = [NAMES[i] for i in made["chosen"]]
        assert [names[i] for i in made["told"]] == ["canoe"]
        assert [names[i] for i in made["labels"]] == ["dog"]
        asked |= set(names)
        quiet = one.encode(said([(DOG, [0])]), Random(seed))
        assert "canoe" not in [NAMES[i] for i in quiet["chosen"]]
        assert quiet["told"] == []
        assert quiet["left_out"] == 1
    assert asked == set(NAMES)  # an unboxed kind that is not there is asked for as what is not there
    row = one.collate([made])["prompt"]
    place = made["told"][0]
    assert spelled(row, 0, place) == "canoe"


def test_so_many_pictures_are_asked_for_by_their_caption_and_those_without_phrases_by_names():
    one = encoder(captions=0.3)
    by_name = ["chosen" in one.encode(said([(DOG, [0]), (CANOE, [1])]), Random(seed)) for seed in range(300)]
    assert 180 < sum(by_name) < 240
    assert "chosen" in encoder(captions=1.0).encode(said([]), Random(0))


def test_boxes_without_classes_are_what_captions_call_them():
    one = encoder((), captions=0.0)
    boxes = (("dog", 0), ("phrase", 20))
    made = one.collate([one.encode(said([(CANOE, [1])], boxes), Random(0)), one.encode(said([], boxes), Random(0))])
    assert (made["labels"].tolist(), made["boxes"][:, 0].tolist(), made["box_of"].tolist()) == ([0], [20], [0])
    assert made["prompt"].ids.shape[0] == 2
    assert not made["spells"][1].any()  # nothing in this picture is meant by any word
    assert made["told"].shape == (0, 2)


def test_phrases_behind_the_longest_caption_are_left_out():
    one = encoder(captions=1.0, longest=8)
    made = one.collate([one.encode(said([(DOG, [0]), (CANOE, [1])]), Random(0))])
    assert made["prompt"].ids.shape == (1, 8)
    assert made["labels"].tolist() == [0]
    assert torch.isin(made["prompt"].phrase, torch.tensor([-1, 0])).all()


def test_what_it_refuses():
    with pytest.raises(UserError, match=r"captions=1\.5"):
        encoder(captions=1.5)
    with pytest.raises(UserError, match="cannot tell which characters"):
        Telling(Given(tokenizer=Letters()), NAMES, captions=1.0).encode(said([(DOG, [0])]), Random(0))
