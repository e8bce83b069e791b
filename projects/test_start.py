"""What the projects' runs on built-in scenes start from."""

import pytest

from mmkit.config import load_experiment, validate
from projects.start import start_from


def test_the_pretraining_is_a_run_of_its_own():
    validate(load_experiment("projects/start.py:pretraining"), world=2)


@pytest.mark.parametrize(
    ("start", "names"), [("pretraining", {"first"}), ("scratch", {"tokenizer"}), ("runs/mine", {"init", "tokenizer"})]
)
def test_a_start_is_a_run_before_nothing_or_a_model_with_its_tokenizer(start, names):
    assert start_from(start, 96, 200).keys() == names
