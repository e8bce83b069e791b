"""Questions about scenes: true of the picture, one reading only, balanced, and split as the scenes are."""

from collections import Counter, defaultdict

import pytest

from mmkit.data.openmoji.drawing import Box, relation
from mmkit.data.openmoji.hypotheses import Hypotheses
from mmkit.data.openmoji.kinds import emoji_name, is_absent
from mmkit.data.openmoji.pairs import Pairs
from mmkit.data.openmoji.questions import TYPES, Questions, answers
from mmkit.data.openmoji.scenes import Scenes, combination_split
from mmkit.errors import UserError


@pytest.fixture(scope="module")
def records():
    """Some hundred records by type, of scenes on coloured grounds."""
    source = Questions(n=900, size=64, seed=1)
    found = defaultdict(list)
    for i in range(len(source)):
        record = source[i]
        found[record.targets["answer_type"]].append(record)
    return found


def told(record):
    boxes = record.targets["boxes"]
    return (
        record.targets["question"],
        record.targets["answers"][0],
        [b["name"] for b in boxes],
        [Box(*b["box"]) for b in boxes],
    )


def test_all_types_alike(records):
    assert set(records) == set(TYPES)
    assert min(map(len, records.values())) > 110
    for record in records["object"]:
        assert record.captions == (record.targets["question"],)


def test_presence(records):
    share = Counter()
    for record in records["yes/no"]:
        question, answer, names, _ = told(record)
        asked = question.removesuffix("?").split(maxsplit=2 if question.startswith(("is", "are")) else 3)
        name = (
            asked[2] if question.startswith(("is", "are")) else question.removesuffix("?").removeprefix("do you see ")
        )
        name = name.split(" ", 1)[1] if name.startswith(("a ", "an ")) else name
        assert (name in names) == (answer == "yes")
        share[answer] += 1
    assert 0.4 < share["yes"] / share.total() < 0.6


def test_number_and_object(records):
    for record in records["number"]:
        _, answer, names, _ = told(record)
        assert int(answer) == len(names)
    for record in records["object"]:
        question, answer, names, _ = told(record)
        other = [name for name in names if name != answer]
        assert len(names) == len(other) + 1 <= 2
        assert question.endswith(f"with the {other[0]}?" if other and other[0][0].islower() else "?")
    assert {len(told(r)[2]) for r in records["object"]} == {1, 2}


def test_places_and_relations(records):
    for record in records["place"]:
        question, answer, names, boxes = told(record)
        one, other = question.removesuffix("?").split(" relative to ")
        i = next(i for i, name in enumerate(names) if one.endswith(f" {name}"))
        j = next(i for i, name in enumerate(names) if other in (name, f"the {name}"))
        assert relation(boxes[i], boxes[j]) == answer
    sides = Counter()
    for record in records["relation"]:
        question, answer, names, boxes = told(record)
        anchor = next(i for i, name in enumerate(names) if question.endswith((f" {name}?", f" the {name}?")))
        place = next(w for w in ("left", "right", "above", "below") if w in question)
        there = [n for i, n in enumerate(names) if i != anchor and relation(boxes[i], boxes[anchor]) in (place, None)]
        assert there == [answer]
        assert len(names) == 3  # another emoji stands elsewhere, so that the place matters
        sides[place] += 1
    assert min(sides.values()) > 15


def test_colours(records):
    for record in records["color"]:
        assert record.targets["answers"] == [record.targets["background"]]
    assert len({r.targets["background"] for r in records["color"]}) == 10


def test_a_blank_picture_scores_as_stated():
    source = Questions(n=2400, plain=True, people=0.05)
    given = defaultdict(Counter)
    for i in range(len(source)):
        kind, _, asked = source._make(i)
        given[kind][asked.answer] += 1
    majority = {kind: counts.most_common(1)[0][1] / counts.total() for kind, counts in given.items()}
    assert majority["yes/no"] < 0.56
    assert majority["number"] < 0.40
    assert majority["place"] < 0.31
    assert max(majority["object"], majority["relation"]) < 0.03
    assert {a for counts in given.values() for a in counts} <= set(source.answers())
    assert len(set(source.answers())) == len(source.answers())


def test_asking_says_nothing_of_the_answer():
    """Emoji are asked for as often where they are as where they are not."""
    source = Questions(n=4000, kinds=10, plain=True, people=0.0, types=("yes/no",))
    yes, all_ = Counter(), Counter()
    for i in range(len(source)):
        asked = source._make(i)[2]
        name = asked.text.split(maxsplit=3)[-1]
        all_[name] += 1
        yes[name] += asked.answer == "yes"
    shares = [yes[name] / all_[name] for name in all_ if all_[name] > 100]
    assert len(shares) >= 8
    assert 0.4 < min(shares) <= max(shares) < 0.6


def test_split_like_the_scenes():
    for split in ("train", "val", "test"):
        source = Questions(split=split, n=150, plain=True)
        for i in range(len(source)):
            drawn = source._compose(i)
            if len(drawn.scene.emoji) > 1:
                assert combination_split(drawn.scene.emoji, "white") == split
    shown = {frozenset(b["emoji"] for b in Scenes(n=300)[i].targets["boxes"]) for i in range(300)}
    asked = {frozenset(Questions(split="test", n=300)._compose(i).scene.emoji) for i in range(300)}
    assert not {s for s in shown & asked if len(s) > 1}


def test_deterministic_and_cheap():
    one, other = Questions(n=50, seed=3), Questions(n=9, seed=3)
    assert one[8].targets == other[8].targets
    assert one[8].image.tobytes() == other[8].image.tobytes()
    assert list(one.captions())[:9] == [other[i].captions[0] for i in range(9)] == list(other.captions())
    assert Questions(n=9, seed=4)[8].targets != other[8].targets


def test_disputed_emoji_are_not_denied():
    assert not is_absent("🐟", ["🦈"])  # a shark is a fish
    assert not is_absent("👀", ["🦈"])
    assert not is_absent("🐟", ["🐟", "🚗"])
    assert is_absent("🦈", ["🐟"])
    assert emoji_name("🐟") == "fish"


def test_answers_by_type():
    assert answers(types=("yes/no", "number")) == ["no", "yes", "1", "2", "3"]
    assert len(answers(kinds=200)) == 2 + 3 + 4 + 10 + 200 + 120
    assert Questions(plain=True).told_kinds == TYPES[:5]
    assert Questions(max_emoji=1, plain=True).told_kinds == ("yes/no", "object")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"types": ("colour",)}, "there are yes/no"),
        ({"types": ()}, "there are yes/no"),
        ({"plain": True, "types": ("color",)}, "plain=True"),
        ({"max_emoji": 1, "types": ("number",)}, "max_emoji=1"),
        ({"language": "zh"}, "English"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Questions(**arguments)


@pytest.mark.parametrize("make", [Questions, Pairs, Hypotheses])
def test_too_few_kinds_end_with_a_message(make):
    source = make(n=40, kinds=2, people=0.0, max_emoji=3, plain=True)
    with pytest.raises(UserError, match="kinds=2"):
        list(source.captions())
