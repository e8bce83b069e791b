"""Phrases with the boxes that they name: they follow the caption that is drawn, the mirror, the tokens, the rules."""

import pytest
import torch
from PIL import Image

from mmkit.data.images.transforms import TrainTransform
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.phrases import Phrases
from mmkit.data.records import Record
from mmkit.data.targets import Given
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.errors import UserError

CAPTIONS = ("a dog on the left of a dog", "two dogs")
BOXES = [{"name": "dog", "box": [0, 0, 10, 20]}, {"name": "dog", "box": [20, 0, 40, 20], "crowd": True}]
PHRASES = [
    {"caption": 0, "spans": [[0, 5]], "boxes": [0]}, {"caption": 0, "spans": [[0, 17]], "boxes": [0]},
    {"caption": 0, "spans": [[21, 26]], "boxes": [1]}, {"caption": 1, "spans": [[0, 8]], "boxes": [0, 1]},
]  # fmt: skip
WHOLE = TrainTransform(size=(20, 40), scale=(1, 1), flip=0, randaugment=None)


@pytest.fixture(scope="module")
def words():
    return SentencePieceTokenizer.train([*CAPTIONS, "a dog on the right of a dog"] * 9, vocab_size=60)


class One:
    """One picture."""

    def __init__(self, captions=CAPTIONS, **targets):
        self.captions, self.targets = captions, {"boxes": BOXES, "phrases": PHRASES, **targets}

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return Record(
            image=Image.new("RGB", (40, 20)), captions=self.captions, image_id="1", key="row 0", targets=self.targets
        )


def batch_of(words, source, transform=WHOLE, max_tokens=40, n=2, **options):
    data = PairDataset(
        source=source, transform=transform, tokenizer=words, max_tokens=max_tokens,
        targets=Phrases(Given(tokenizer=words), max_tokens, **options),
    )  # fmt: skip
    return next(iter(make_loader(data, StepSampler(n, rank_batch=n, steps=1))))


def told(batch, words):
    """(text, what its tokens say, its boxes) of each phrase, by picture."""
    found = [[] for _ in batch.keys]
    t = batch.targets
    for number, (of, text) in enumerate(zip(t["phrase_of"].tolist(), t["phrases"], strict=True)):
        places = [place for phrase, place in t["phrase_tokens"].tolist() if phrase == number]
        boxes = [row for phrase, row in t["phrase_boxes"].tolist() if phrase == number]
        assert all(t["box_of"][row] == of for row in boxes)
        found[of].append((text, words.decode(batch.ids[of, places].tolist()), t["boxes"][boxes].tolist()))
    return found


LEFT, RIGHT = [0, 0, 10, 20], [20, 0, 40, 20]


def test_phrases_point_at_tokens_and_boxes(words):
    first = [
        ("a dog", "a dog", [LEFT]), ("a dog on the left", "a dog on the left", [LEFT]), ("a dog", "a dog", [RIGHT]),
    ]  # fmt: skip
    batch = batch_of(words, One(CAPTIONS[:1]))
    assert told(batch, words) == [first] * 2
    one, other = (batch.targets["phrase_tokens"][batch.targets["phrase_tokens"][:, 0] == i, 1] for i in (0, 2))
    assert one.max() < other.min()  # the second "a dog" is not the first
    assert {batch.targets[name].dtype for name in ("phrase_of", "phrase_tokens", "phrase_boxes")} == {torch.int64}
    second = [("two dogs", "two dogs", [LEFT, RIGHT])]
    found = [phrases for seed in range(6) for phrases in told(seeded(words, seed), words)]
    assert all(phrases in (first, second) for phrases in found)  # those of the caption that is drawn
    assert {len(phrases) for phrases in found} == {1, 3}


def seeded(words, seed):
    data = PairDataset(
        source=One(), transform=WHOLE, tokenizer=words, max_tokens=40, seed=seed,
        targets=Phrases(Given(tokenizer=words), 40),
    )  # fmt: skip
    return next(iter(make_loader(data, StepSampler(2, rank_batch=2, steps=1))))


def test_in_a_mirror_words_and_boxes_change_sides(words):
    mirror = TrainTransform(size=(20, 40), scale=(1, 1), flip=1.0, randaugment=None)
    [first, _] = told(batch_of(words, One(CAPTIONS[:1]), mirror), words)
    assert first[1] == ("a dog on the right", "a dog on the right", [[30, 0, 40, 20]])
    assert first[2] == ("a dog", "a dog", [[0, 0, 20, 20]])


def test_masks_come_along_through_the_loader_and_the_mirror(words):
    corners = [[[l, t, r, t, r, b, l, b]] for l, t, r, b in (one["box"] for one in BOXES)]  # noqa: E741
    boxes = [{**one, "segmentation": outline} for one, outline in zip(BOXES, corners, strict=True)]
    mirrored = TrainTransform(size=(20, 40), scale=(1, 1), flip=1, randaugment=None)
    for transform, first in ((WHOLE, slice(0, 10)), (mirrored, slice(30, 40))):
        batch = batch_of(words, One(boxes=boxes), transform, masks=True)
        masks = batch.targets["masks"]
        assert masks.shape == (4, 20, 40)
        assert [int(one.sum()) for one in masks] == [200, 400] * 2
        assert masks[0, :, first].all()
        assert "masks" not in batch_of(words, One(boxes=boxes), transform).targets


def test_what_a_rule_takes_is_no_box_of_a_phrase_and_rows_stay_right(words):
    [first, _] = told(batch_of(words, One(CAPTIONS[:1]), crowds=False), words)
    assert first[2] == ("a dog", "a dog", [])
    boxes = [{"name": "dog", "box": [50, 0, 60, 20]}, BOXES[1]]
    [first, _] = told(batch_of(words, One(CAPTIONS[:1], boxes=boxes)), words)
    assert [boxes for _, _, boxes in first] == [[], [], [RIGHT]]


def test_what_lies_behind_the_last_token_has_none(words):
    batch = batch_of(words, One(CAPTIONS[:1]), max_tokens=4)
    assert batch.targets["phrase_tokens"][:, 1].max() < 4
    assert len(told(batch, words)[0]) == 3
    assert told(batch, words)[0][2] == ("a dog", "", [RIGHT])


def test_records_without_phrases_give_none(words):
    batch = batch_of(words, One(phrases=[], boxes=[]))
    assert batch.targets["phrases"] == []
    assert batch.targets["phrase_tokens"].shape == batch.targets["phrase_boxes"].shape == (0, 2)
    assert batch.targets["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    ("phrase", "message"),
    [
        ({"spans": [[0, 99]], "boxes": [0]}, r"row 0: .*spans \[\(0, 99\)\] are not characters"),
        ({"spans": [[3, 3]], "boxes": [0]}, "are not characters"), ({"spans": [], "boxes": [0]}, "are not characters"),
        ({"spans": [[0, 5]], "boxes": [0, 2]}, r"boxes \[0, 2\] of 2 boxes"),
        ({"spans": [[0, 5]]}, 'needs "spans" and "boxes"'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_phrase_names_the_record(words, phrase, message):
    with pytest.raises(UserError, match=message):
        batch_of(words, One(CAPTIONS[:1], phrases=[{"caption": 0, **phrase}]))


def test_built_in_scenes(words):
    source = Scenes(n=8, size=48, people=0.0)
    tokenizer = SentencePieceTokenizer.train(source.captions(), vocab_size=300)
    batch = batch_of(tokenizer, source, TrainTransform(size=48, scale=(0.9, 1)), n=8)
    for phrases, key in zip(told(batch, tokenizer), batch.keys, strict=True):
        names = [box["name"] for box in source[int(key.split("/")[-1])].targets["boxes"]]
        assert len(phrases) >= len(names)
        for text, said, boxes in phrases:
            assert said.lower() == text.lower()
            assert any(name in text for name in names)
            assert len(boxes) <= 1
