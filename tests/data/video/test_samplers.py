"""Which frames are seen, against the formulas of those who published them."""

from random import Random

import numpy as np
import pytest

from mmkit.data.video.samplers import Sampler
from mmkit.errors import UserError


def test_stride_is_in_the_centre_of_a_test_and_anywhere_in_training():
    sampler = Sampler(how="stride", frames=3, stride=2)
    assert sampler.fixed(10) == [2, 4, 6]  # 5 frames of 10, 2 before them
    starts = {tuple(sampler.draw(7, None, Random(seed))) for seed in range(50)}
    assert starts == {(0, 2, 4), (1, 3, 5), (2, 4, 6)}


def test_segments_are_tsn():
    sampler = Sampler(how="segments", frames=4)
    assert sampler.fixed(16) == [2, 6, 10, 14]
    drawn = [sampler.draw(16, None, Random(seed)) for seed in range(200)]
    for i in range(4):
        assert {numbers[i] for numbers in drawn} == set(range(4 * i, 4 * i + 4))
    assert sampler.draw(4, None, Random(0)) == sampler.fixed(4) == [0, 1, 2, 3]


@pytest.mark.parametrize("n", [8, 11, 30])
def test_linear_and_uniform_are_those_of_clip4clip_and_lavis(n):
    assert Sampler(how="linear", frames=8).fixed(n) == np.linspace(0, n - 1, 8, dtype=int).tolist()
    assert Sampler(how="uniform", frames=8).fixed(n) == [int(x) for x in np.arange(0, n, n / 8)][:8]


def test_one_frame_is_that_in_the_middle_and_a_rate_is_rounded():
    assert Sampler(how="linear", frames=1).fixed(9) == [4]
    assert Sampler(how="uniform", frames=3, rate=1.0).fixed(29, 10.0) == [0, 10, 20]  # 2.9 seconds


def test_headtail_takes_half_of_each_half_and_is_for_training_alone():
    sampler = Sampler(how="headtail", frames=4)
    for seed in range(30):
        numbers = sampler.draw(9, None, Random(seed))
        assert numbers == sorted(set(numbers))
        assert [n < 4 for n in numbers] == [True, True, False, False]
        assert max(numbers) <= 8
    with pytest.raises(UserError, match="training alone"):
        sampler.fixed(9)
    assert sampler.for_eval() == Sampler(how="uniform", frames=4)


@pytest.mark.parametrize("how", ["stride", "segments", "linear", "uniform"])
def test_a_short_clip_repeats_its_last_frame(how):
    sampler = Sampler(how=how, frames=5)
    assert sampler.fixed(3) == sampler.draw(3, None, Random(1)) == [0, 1, 2, 2, 2]
    assert sampler.fixed(1) == [0] * 5


def test_a_rate_is_taken_by_time():
    sampler = Sampler(how="stride", frames=3, rate=1.0)
    assert sampler.fixed(90, 30.0) == [0, 30, 60]  # 3 s at 30 a second
    assert Sampler(how="stride", frames=4, rate=20.0).fixed(2, 10.0) == [0, 0, 1, 1]  # each shown twice
    with pytest.raises(UserError, match="do not tell their rate"):
        sampler.fixed(90)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"how": "middle"}, "there are stride, segments"), ({"frames": 0}, "at least 1"),
        ({"stride": 2}, 'how="stride"'),
        ({"how": "headtail", "frames": 3}, "even number"), ({"rate": 0.0}, "above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        Sampler(**wrong)
