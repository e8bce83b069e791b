"""Scenes that move: told truly, split by what is shown, and such that no single frame tells which way."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from mmkit.data.openmoji.moving import ACTIONS, DIRECTIONS, TYPES, WAY, Moving, MovingQuestions, answers
from mmkit.data.openmoji.scenes import combination_split
from mmkit.data.video.opening import open_clip
from mmkit.errors import UserError


def steps(track, size):
    """(x, y) from each frame to the next, the shorter way round."""
    places = np.array([box[:2] for box in track["boxes"]])
    return (np.diff(places, axis=0) + size // 2) % size - size // 2


def test_captions_and_labels_say_what_the_tracks_do():
    source = Moving(n=60, kinds=30, frames=5, seed=3)
    for index in range(60):
        scene = source._compose(index)
        (mover,), targets = scene.movers, source._targets(scene)
        moved = steps(targets["tracks"][0], 64)
        assert len({tuple(step) for step in moved}) == 1
        across, down = moved[0]
        way = ("left" if across < 0 else "right") if across else ("up" if down < 0 else "down")
        assert source.class_names[targets["label"]] == way == mover.direction
        assert abs(across + down) == {"slow": 4, "fast": 11}[mover.speed]
        caption = source._caption(scene, index)
        assert caption.endswith(f"{'fast' if mover.speed == 'fast' else 'slowly'} {WAY[way]}")


def test_no_frame_tells_the_direction_by_its_place():
    """The place in each frame is as likely anywhere, whichever way it goes: all thirds of the picture, both axes."""
    source = Moving(n=4000, kinds=30)
    found = defaultdict(Counter)
    for index in range(len(source)):
        (mover,) = source._compose(index).movers
        for frame in range(4):
            x, y = mover.place(frame, 64)
            found[mover.direction, frame].update([("x", 3 * x // 64), ("y", 3 * y // 64)])
    for counts in found.values():
        whole = sum(count for (axis, _), count in counts.items() if axis == "x")
        assert all(0.26 < counts[axis, third] / whole < 0.41 for axis in "xy" for third in range(3))


def test_frames_show_the_tracks():
    record = Moving(n=1, kinds=30, plain=True)[0]
    frames = open_clip(record.image).take([0, 1, 2, 3])
    ground = np.asarray(frames[0])[0, 0]
    for frame, box in zip(frames, record.targets["tracks"][0]["boxes"], strict=True):
        painted = (np.abs(np.asarray(frame).astype(int) - ground) > 8).any(-1)
        rows = sorted({y % 64 for y in range(box[1], box[3])})
        assert painted[rows].sum() == painted.sum() > 0
    assert record.image.rate == 8.0


def test_what_appears_and_disappears():
    source = MovingQuestions(n=40, kinds=30, types=("change",))
    for index in range(40):
        record = source[index]
        there = [box is not None for box in record.targets["tracks"][0]["boxes"]]
        assert record.targets["answers"] == ["appears" if there[-1] else "disappears"]
        assert there[0] != there[-1]
        assert sum(a != b for a, b in pairwise(there)) == 1
        assert "label" not in record.targets


def test_questions_are_true_and_balanced():
    source = MovingQuestions(n=600, kinds=30, types=TYPES)
    counts = Counter()
    for index in range(600):
        kind, question, answer, scene = source._asked(index)
        counts[kind, answer] += 1
        if kind == "direction":
            assert answer == scene.movers[0].direction
            assert question.startswith("which way do")
        elif kind == "faster":
            one, other = (abs(steps(source._track(mover), 64)).sum() for mover in scene.movers)
            assert (one > other) == (answer == "yes")
    assert {answer for _, answer in counts} == set(answers()) == {*DIRECTIONS, "yes", "no", "appears", "disappears"}
    for way in DIRECTIONS:
        assert 30 < counts["direction", way] < 75
    assert next(iter(source.captions())) == source[0].targets["question"]


def test_splits_share_no_emoji_on_a_ground():
    for split in ("train", "val", "test"):
        source = Moving(n=50, split=split, kinds=60, most=2)
        for index in range(50):
            scene = source._compose(index)
            assert combination_split([mover.emoji for mover in scene.movers], scene.colour) == split


def test_shuffled_and_still_clips_show_the_same_frames():
    plain, shuffled = Moving(n=20, kinds=30), Moving(n=20, kinds=30, shuffled=True)
    orders = set()
    for index in range(20):
        own = [np.asarray(frame).tobytes() for frame in plain[index].image.frames]
        other = [np.asarray(frame).tobytes() for frame in shuffled[index].image.frames]
        assert sorted(own) == sorted(other)
        orders.add(tuple(own.index(frame) for frame in other))
    assert len(orders) > 8
    one = Moving(n=20, kinds=30, still=2)[5].image.frames
    assert [np.asarray(frame).tobytes() for frame in one] == [np.asarray(plain[5].image.frames[2]).tobytes()]
    drawn = {Moving(n=30, kinds=30, still="any")._shown(index)[0] for index in range(30)}
    assert drawn == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"split": "dev"}, "train, val, test"), ({"frames": 1}, "frames=1"), ({"most": 3}, "most=3"),
        ({"actions": ("jump",)}, ", ".join(ACTIONS)), ({"still": 4}, "0 to 3"), ({"size": 16}, "size=16"),
    ],
)  # fmt: skip
def test_what_makes_no_scene_is_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        Moving(**wrong)
    with pytest.raises(UserError, match="direction, faster, change"):
        MovingQuestions(types=("colour",))
