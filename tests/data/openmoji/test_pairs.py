"""Pairs of scenes: sentences true as labelled, and chance for whoever sees the sentence and one picture alone."""

from collections import Counter, defaultdict

import pytest

from mmkit.data.openmoji.drawing import Box, relation
from mmkit.data.openmoji.pairs import CLASSES, SENTENCES, Pairs
from mmkit.data.openmoji.scenes import combination_split
from mmkit.data.openmoji.telling import an, the
from mmkit.errors import UserError

SAME = {
    "one": lambda text: text.startswith("either"),
    "shared": lambda text: text.startswith("one"),
    "count": lambda text: "equally" in text,
    "place": lambda text: "same" in text,
    "color": lambda text: "same" in text,
}


def boxes_of(record):
    return [record.targets["boxes"], record.targets["second_boxes"]]


def shown(boxes):
    return [b["emoji"] for b in boxes]


def is_true(record, backgrounds):
    """Judged from the boxes alone, by other means than the source."""
    kind, text = record.targets["kind"], record.captions[0]
    left, right = boxes_of(record)
    if kind in ("one", "both"):
        has = [
            any(an(e) in (text.partition(" show ")[2], text.partition(" shows ")[2]) for e in shown(side))
            or any(f" {an(e)} or neither" in text for e in shown(side))
            for side in (left, right)
        ]
        return all(has) if kind == "both" else (has[0] == has[1]) == SAME[kind](text)
    if kind == "shared":
        return bool({*shown(left)} & {*shown(right)}) == SAME[kind](text)
    if kind == "count":
        return (len(left) == len(right)) == SAME[kind](text)
    if kind == "color":
        return (backgrounds[0] == backgrounds[1]) == SAME[kind](text)
    where = []
    for side in (left, right):
        of = {the(b["emoji"]): Box(*b["box"]) for b in side}
        first = next(name for name in of if f"show {name} on" in text)
        second = next(name for name in of if text.endswith(f" of {name}"))
        where.append(relation(of[first], of[second]))
    return (where[0] == where[1]) == SAME[kind](text)


@pytest.mark.parametrize("kind", SENTENCES)
def test_sentences_are_true_as_labelled(kind):
    source = Pairs(n=120, sentences=(kind,), size=48, seed=2)
    labels = Counter()
    for i in range(len(source)):
        record = source[i]
        pair = source._make(i)[2]
        backgrounds = (pair.drawn.scene.colour, pair.right.scene.colour)
        assert is_true(record, backgrounds) == (record.targets["label"] == 1), record.captions
        labels[record.targets["label"]] += 1
    assert min(labels.values()) > 35


def clues(pair):
    """What one sees of one picture with the sentence."""
    for side, drawn in (("left", pair.drawn), ("right", pair.right)):
        asked = any(an(e) in pair.text or the(e) in pair.text for e in drawn.scene.emoji)
        first = relation(drawn.boxes[0], drawn.boxes[1]) if len(drawn.boxes) == 2 else None
        yield side, (pair.text.split(" show")[0], len(drawn.scene.emoji), asked)
        yield f"{side} relation", ("same" in pair.text, first)
        yield f"{side} colour", (pair.text.split()[0], drawn.scene.colour)


@pytest.mark.parametrize("split", ["train", "test"])
def test_sentence_and_one_picture_are_chance(split):
    source = Pairs(split=split, n=5000, seed=5)
    seen = defaultdict(lambda: defaultdict(Counter))
    for i in range(source.n):
        kind, label, pair = source._make(i)
        for name, clue in clues(pair):
            seen[kind, name][clue][label] += 1
    for (kind, name), counts in seen.items():
        total = sum(c.total() for c in counts.values())
        best = sum(max(c.values()) for c in counts.values()) / total
        by_luck = 0.4 * (len(counts) / total) ** 0.5  # a fair coin's excess of the more frequent side
        assert best < 0.5 + by_luck + 0.04, (kind, name, best)


def test_of_one_split_and_deterministic():
    source = Pairs(split="test", n=80, size=48)
    for i in range(40):
        for drawn in (source._make(i)[2].drawn, source._make(i)[2].right):
            if source._make(i)[0] != "color" or len(drawn.scene.emoji) > 1:
                assert len(drawn.scene.emoji) == 1 or combination_split(drawn.scene.emoji, "") == "test"
    again = Pairs(split="test", n=3, size=48)
    assert [again[i].captions for i in range(3)] == [source[i].captions for i in range(3)]
    assert again[2].targets["second"].tobytes() == source[2].targets["second"].tobytes()
    assert again[2].image.tobytes() != again[2].targets["second"].tobytes()
    assert list(again.captions()) == [again[i].captions[0] for i in range(3)]
    assert source.class_names == list(CLASSES) == ["False", "True"]


def test_kinds_that_fit():
    assert Pairs().told_kinds == SENTENCES[:5]
    assert Pairs(plain=True).told_kinds == SENTENCES[:4]
    assert Pairs(plain=True, max_emoji=1).told_kinds == ("one", "shared")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentences": ("same",)}, "there are one, shared"),
        ({"sentences": ("color",), "plain": True}, "plain=True"),
        ({"sentences": ("place",), "max_emoji": 1}, "max_emoji=1"),
        ({"language": ("en", "zh")}, "English"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Pairs(**arguments)
