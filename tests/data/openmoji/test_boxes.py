"""Boxes of built-in scenes: phrases by their characters, crowded scenes with piles, expressions, unboxed kinds."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from mmkit.data.openmoji.captions import Scene, filled, phrases_of, say, text_of
from mmkit.data.openmoji.crowded import Crowded
from mmkit.data.openmoji.drawing import Box, clear_of, relation
from mmkit.data.openmoji.expressions import Expressions
from mmkit.data.openmoji.kinds import KINDS, LANGUAGES, emoji_name, pool_of, unboxed_kinds
from mmkit.data.openmoji.scenes import Scenes, Singles, combination_split, phrases
from mmkit.data.sources.open import open_source
from mmkit.errors import UserError


def said_of(record):
    """(words, names of its boxes) of each phrase."""
    boxes = record.targets["boxes"]
    return [
        (record.captions[one["caption"]][slice(*one["spans"][0])], [boxes[i]["name"] for i in one["boxes"]])
        for one in record.targets["phrases"]
    ]


def test_phrases_are_counted_while_the_caption_is_built():
    template = filled("{a} beside {b}, {a}", a=(("one", 3),), b=(("another one", 5),))
    assert text_of(template) == "one beside another one, one"
    assert phrases_of(template) == [((0, 3), 3), ((11, 22), 5), ((24, 27), 3)]  # "one" stands in "another one" too
    scene = Scene(("🐕", "🌭"), ("large", ""), ("", "left"), "red")  # dog, hot dog
    for seed in range(20):
        said = say(scene, "en", Random(seed))
        found = {emoji: text_of(said)[a:b] for (a, b), emoji in phrases_of(said)}
        assert found == {0: "a large dog", 1: "a hot dog"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_emoji_of_a_caption_has_its_characters(language):
    for plain in (False, True):
        source = Scenes(n=6, size=64, language=language, plain=plain, paraphrases=2)
        for i in range(6):
            record = source[i]
            names = [box["name"] for box in record.targets["boxes"]]
            for words, [name] in said_of(record):
                assert name in words
            told = Counter(one["caption"] for one in record.targets["phrases"])
            assert set(told) == {0, 1}
            assert all(n >= len(names) for n in told.values())
            for number in range(2):
                own = {one["boxes"][0] for one in record.targets["phrases"] if one["caption"] == number}
                assert own == set(range(len(names)))
    assert said_of(Singles(language=language, size=64)[0])


def test_a_phrase_with_article_and_size_is_one():
    found = [words for i in range(40) for words, _ in said_of(Scenes(n=40, size=64, people=0.0)[i])]
    assert any(words.startswith(("a small ", "a large ")) for words in found)
    assert any(words.startswith("the ") for words in found)  # named again


@pytest.fixture(scope="module")
def crowds():
    source = Crowded(n=40, size=128)
    return [source[i] for i in range(40)]


def test_crowded_scenes_hold_four_to_ten_small_objects(crowds):
    counts = {len(record.targets["boxes"]) for record in crowds}
    assert min(counts) == 4
    assert max(counts) == 10
    single = [box["box"] for record in crowds for box in record.targets["boxes"] if "crowd" not in box]
    sides = [max(right - left, bottom - top) for left, top, right, bottom in single]
    assert 8 <= min(sides) < 0.12 * 128
    assert 0.2 * 128 < max(sides) <= 0.26 * 128
    repeated = [max(Counter(b["emoji"] for b in record.targets["boxes"]).values()) for record in crowds]
    assert max(repeated) > 1


def test_boxes_of_crowded_scenes_hold_all_that_is_drawn_and_lie_apart(crowds):
    plain = Crowded(n=12, size=128, plain=True, piles=1.0)
    for record in (plain[i] for i in range(12)):
        boxes = [Box(*box["box"]) for box in record.targets["boxes"]]
        painted = (np.asarray(record.image).astype(int) < 235).any(-1)
        inside = np.zeros((128, 128), bool)
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= 128
            assert 0 <= top < bottom <= 128
            assert painted[top:bottom, left:right].mean() > 0.05
            inside[top:bottom, left:right] = True
        assert not painted[~inside].any()
        assert all(clear_of(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
        crowd = [box for box, said in zip(boxes, record.targets["boxes"], strict=True) if said.get("crowd")]
        assert len(crowd) == 1
        assert max(crowd[0].right - crowd[0].left, crowd[0].bottom - crowd[0].top) > 0.2 * 128
    share = sum(any("crowd" in box for box in record.targets["boxes"]) for record in crowds) / len(crowds)
    assert 0.1 < share < 0.6
    none = Crowded(n=10, size=128, piles=0.0)
    assert not any("crowd" in box for i in range(10) for box in none[i].targets["boxes"])


def test_a_phrase_of_a_crowded_scene_has_all_boxes_of_its_kind(crowds):
    for record in crowds[:10]:
        found = said_of(record)
        names = [box["name"] for box in record.targets["boxes"]]
        assert sorted(name for _, boxes in found for name in boxes) == sorted(names)
        for words, boxes in found:
            assert len(set(boxes)) == 1
            assert boxes[0] in words
            assert len(boxes) == names.count(boxes[0])


def test_crowded_scenes_are_split_by_their_kinds():
    for split in ("train", "test"):
        source = Crowded(n=6, size=96, split=split)
        for i in range(6):
            found = source[i].targets
            kinds = list(dict.fromkeys(box["emoji"] for box in found["boxes"]))
            assert combination_split(kinds, found["background"]) == split
            assert source[i].image.tobytes() == source[i].image.tobytes()
    assert list(source.captions()) == [source[i].captions[0] for i in range(6)]
    assert set(source.object_names) == {emoji_name(e) for e in KINDS[:200]}


@pytest.mark.parametrize(
    "options",
    [{"fewest": 0}, {"most": 13}, {"fewest": 5, "most": 4}, {"piles": 1.1}, {"n": 0}, {"split": "dev"}, {"kinds": 3}],
)
def test_options_of_crowded_scenes_are_checked(options):
    with pytest.raises(UserError, match="openmoji: "):
        Crowded(**options)


def test_an_expression_fits_one_of_two_by_its_relation_alone():
    source = Expressions(n=30, size=96, split="test")
    found = Counter()
    for i in range(30):
        record = source[i]
        drawn, _, meant = source._refer(i)
        kinds, boxes = drawn.scene.emoji, drawn.boxes
        assert kinds[0] == kinds[2] != kinds[1]
        [target] = record.targets["boxes"]
        assert target["box"] == tuple(boxes[meant])
        assert record.targets["detections"] == [tuple(box) for box in boxes]
        text = record.captions[0]
        word = next(w for w in ("left", "right", "above", "over", "below", "under") if f" {w} " in text)
        where = {"over": "above", "under": "below"}.get(word, word)
        assert [relation(boxes[j], boxes[1]) == where for j in (0, 2)] == [meant == 0, meant == 2]
        assert text.startswith(("the ", emoji_name(kinds[0])))
        assert text.endswith(emoji_name(kinds[1]))
        assert record.targets["phrases"] == [{"caption": 0, "spans": [(0, len(text))], "boxes": [0]}]
        assert combination_split(sorted(kinds[:2]), drawn.scene.colour) == "test"
        assert record.targets["background"] == drawn.scene.colour
        found[meant] += 1
    assert min(found.values()) > 8
    assert list(source.captions())[:3] == [source[i].captions[0] for i in range(3)]
    bare = Expressions(n=30, size=96, split="test", bare=True)
    assert bare[0].targets["boxes"][0]["box"] == source[0].targets["boxes"][0]["box"]
    assert source[0].captions[0].startswith(f"{bare[0].captions[0]} ")
    with pytest.raises(UserError, match="in English"):
        Expressions(language="de")


def test_kinds_without_boxes_are_every_fifth_and_named_in_captions():
    unboxed = unboxed_kinds(200)
    assert len(unboxed) == 40
    assert unboxed[:2] == (KINDS[4], KINDS[9])
    assert set(pool_of(200, "boxed")) | set(unboxed) == set(KINDS[:200])
    assert not set(pool_of(200, "boxed")) & set(unboxed)
    boxed, others = (Scenes(n=60, size=48, people=0.0, pool=pool) for pool in ("boxed", "unboxed"))
    assert not {box["emoji"] for i in range(60) for box in boxed[i].targets["boxes"]} & set(unboxed)
    assert {box["emoji"] for i in range(60) for box in others[i].targets["boxes"]} <= set(unboxed)
    assert boxed.object_names == others.object_names == [emoji_name(e) for e in KINDS[:200]]
    with pytest.raises(UserError, match="too few for pool='unboxed'; give at least 5"):
        Scenes(kinds=4, pool="unboxed")
    with pytest.raises(UserError, match="there are all, boxed, unboxed"):
        Scenes(pool="none")


def test_they_open_by_their_names():
    assert open_source("openmoji-crowded:test", {"boxes"}).split == "test"
    assert isinstance(open_source("openmoji-expressions", {"boxes", "caption"}), Expressions)
    with pytest.raises(UserError, match="holds no question"):
        open_source("openmoji-crowded", {"question"})
    assert phrases([]) == []
