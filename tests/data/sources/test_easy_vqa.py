"""easy-VQA: the official split, types that fit the answers, captions that are true, and pairs that stay unseen."""

import sys
from collections import Counter

import numpy as np
import pytest

from mmkit.data.images.opening import load_image
from mmkit.data.sources.easy_vqa import COLOURS, HOLD_OUT, SHAPES, EasyVQA, EasyVQAPairs, answers, pairs, read
from mmkit.errors import UserError

pytest.importorskip("easy_vqa")


def test_the_official_split():
    train, test = EasyVQA(split="train"), EasyVQA(split="test")
    assert (len(train), len(test)) == (38_575, 9_673)
    first = train[0]
    assert first.captions == ("what is the blue shape?",)
    assert first.targets == {
        "question": "what is the blue shape?",
        "answers": ["rectangle"],
        "answer_type": "shape",
        "question_id": 0,
    }
    assert load_image(first).size == (64, 64)
    assert not {train[i].image_id for i in range(100)} & {test[i].image_id for i in range(100)}
    assert list(test.captions()) == [row.text for row in read("test")]


def test_types_and_answers_are_those_of_the_package():
    import easy_vqa

    assert sorted(answers()) == sorted(easy_vqa.get_answers())
    source = EasyVQA(split="test", n=1000)
    assert len({record.key for record in (source[i] for i in range(1000))}) == 1000
    types = Counter()
    for i in range(1000):
        targets = source[i].targets
        types[targets["answer_type"]] += 1
        word = targets["question"].split()
        assert (targets["answer_type"] == "color") == (word[0] == "what" and "color" in word)
        assert (targets["answer_type"] == "yes/no") == (word[0] in ("is", "does"))
        assert targets["answers"][0] in answers()
    assert set(types) == {"color", "shape", "yes/no"}


PURE = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "teal": (0, 1, 1)}


def test_captions_are_true_of_the_picture():
    source = EasyVQAPairs(split="test", part="all")
    checked = Counter()
    for i in range(len(source)):
        record = source[i]
        colour, shape = record.targets["colour"], record.targets["shape"]
        assert source.class_names[record.targets["label"]] == f"{colour} {shape}"
        assert record.captions[0] == f"a {colour} {shape}"
        if colour in PURE and i < 300:
            pixels = np.asarray(load_image(record)).astype(int)
            drawn = pixels[(pixels < 225).any(2)].mean(0)  # the ground is nearly white
            # each channel is high where the colour has it and low where it has not
            high = np.array(PURE[colour], bool)
            assert drawn[high].min() > drawn[~high].max() + 25, (colour, drawn)
            checked[colour] += 1
    assert set(checked) == set(PURE)
    assert {r.targets["shape"] for r in (source[i] for i in range(60))} == set(SHAPES)


def test_held_out_pairs_are_never_seen_and_their_parts_are():
    parts = {part: EasyVQAPairs(hold_out=HOLD_OUT, part=part) for part in ("seen", "held_out", "all")}
    shown = {
        p: {r.captions[0].split(maxsplit=1)[1] for r in map(s.__getitem__, range(len(s)))} for p, s in parts.items()
    }
    held = {f"{colour} {shape}" for colour, shape in HOLD_OUT}
    assert shown["held_out"] == held
    assert shown["seen"] == {f"{c} {s}" for c, s in pairs()} - held
    assert len(parts["seen"]) + len(parts["held_out"]) == len(parts["all"]) == 3542
    assert {word for pair in shown["seen"] for word in pair.split()} == {*COLOURS, *SHAPES}
    assert not {text for text in parts["seen"].captions() if any(f" {pair}" in text for pair in held)}
    same = [parts["seen"][i] for i in range(200)]
    assert len({r.image_id for r in same}) == len({r.captions for r in same})  # the same words are never a negative


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EasyVQA(split="val"), "train and test"),
        (lambda: EasyVQA(n=0), "1 to 38575"),
        (lambda: EasyVQAPairs(hold_out=(("purple", "circle"),)), "purple"),
        (lambda: EasyVQAPairs(part="held_out"), "empty"),
        (lambda: EasyVQAPairs(part="unseen"), "part='unseen'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    read.cache_clear()
    with pytest.raises(UserError, match=r'pip install "mmkit\[demo\]"'):
        EasyVQA()
