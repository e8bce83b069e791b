"""Hypotheses about scenes: labels that follow from what is seen, and chance for whoever sees one side alone."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from mmkit.data.openmoji.drawing import Box, relation
from mmkit.data.openmoji.hypotheses import CARD, CLASSES, Hypotheses
from mmkit.data.openmoji.scenes import combination_split
from mmkit.data.openmoji.telling import an, the
from mmkit.errors import UserError


def judge(record):
    """The label, from what is seen, by other means than the source."""
    text, card = record.captions[0], record.targets["card"]
    seen = {b["emoji"]: Box(*b["box"]) for b in record.targets["boxes"]}
    if record.targets["kind"] == "presence":
        affirms = " no " not in text
        there = [
            e
            for e in seen
            if text.endswith(an(e)) or text.endswith(" no " + an(e).removeprefix("an ").removeprefix("a "))
        ]
        if there:
            return 2 if affirms else 0
        return 1 if card else 0 if affirms else 2
    place = next(p for p in ("to the left of", "to the right of", "above", "below") if f" {p} " in text)
    first, second = text.split(f" {place} ")
    a = [box for e, box in seen.items() if first.startswith(f"{the(e)} ")]
    b = [box for e, box in seen.items() if second == the(e)]
    where = relation((a or [Box(*card)])[0], (b or [Box(*card)])[0])
    assert where is not None
    as_told = where in place
    if a and b:
        return 2 if as_told else 0
    return 1 if as_told else None


@pytest.mark.parametrize("kind", Hypotheses.every)
def test_labels_follow_from_what_is_seen(kind):
    source = Hypotheses(n=200, hypotheses=(kind,), size=64, seed=3)
    labels = Counter()
    for i in range(source.n):
        record = source[i]
        assert judge(record) == record.targets["label"], record.captions
        labels[record.targets["label"]] += 1
    assert min(labels.values()) > 45


def test_a_card_hides_what_is_under_it():
    source = Hypotheses(n=60, size=96, plain=True)
    covered = 0
    for i in range(source.n):
        record, case = source[i], source._make(i)[2]
        card = record.targets["card"]
        assert len(record.targets["boxes"]) == len(case.drawn.boxes) - (card is not None)
        if card is None:
            continue
        covered += 1
        hidden = case.drawn.boxes[case.covered]
        assert card[2] - card[0] == card[3] - card[1] == hidden.side
        assert card[0] <= hidden.left + 1  # rounding
        assert card[1] <= hidden.top + 1
        assert min(card) >= 0
        assert max(card) <= 96
        pixels = np.asarray(record.image)[card[1] : card[3], card[0] : card[2]]
        assert (pixels == CARD).all(2).mean() > 0.4
    assert covered > 30


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_side_alone(split):
    source = Hypotheses(split=split, n=4000, seed=1)
    clues = defaultdict(lambda: defaultdict(Counter))
    for i in range(source.n):
        kind, label, case = source._make(i)
        words = " ".join(w for w in case.text.split() if w in ("no", "left", "right", "above", "below"))
        seen = len(case.drawn.scene.emoji) - (case.covered is not None)
        clues[kind, "sentence"][words][label] += 1
        clues[kind, "picture"][(seen, case.covered is None)][label] += 1
        clues[kind, "seen"][seen][label] += 1
        if kind == "relation":
            boxes = [box for i, box in enumerate(case.drawn.boxes) if i != case.covered]
            clues[kind, "places"][relation(*boxes)][label] += 1
    for (kind, name), counts in clues.items():
        best = sum(max(c.values()) for c in counts.values()) / sum(c.total() for c in counts.values())
        assert best < (0.54 if (kind, name) == ("presence", "picture") else 0.38), (kind, name, best)


def test_of_one_split_and_deterministic():
    source = Hypotheses(split="val", n=60, size=48)
    for i in range(source.n):
        emoji = source._make(i)[2].drawn.scene.emoji
        assert len(emoji) == 1 or combination_split(emoji, "") == "val"
    again = Hypotheses(split="val", n=4, size=48)
    assert again[3].captions == source[3].captions
    assert again[3].image.tobytes() == source[3].image.tobytes()
    assert list(again.captions()) == [again[i].captions[0] for i in range(4)]
    assert source.class_names == list(CLASSES)
    assert Hypotheses(max_emoji=2).told_kinds == ("presence",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hypotheses": ("size",)}, "there are presence"),
        ({"max_emoji": 2, "hypotheses": ("relation",)}, "max_emoji=3"),
        ({"max_emoji": 1}, "max_emoji=2"),
        ({"language": "de"}, "English"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Hypotheses(**arguments)
