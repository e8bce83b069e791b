"""All that is recorded of the official ALBEF is read by a test: no tensor lies in the files for nothing."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.parity.oracle import OWN, cases, for_each, load, load_words, unclaimed, under, word_cases

ROOT = Path(__file__).parents[2]
TESTS = [*sorted(ROOT.glob("tests/parity/test_albef_*.py")), *sorted(ROOT.glob("projects/*/test_parity.py"))]


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "recorded.safetensors"
    save_file({name: torch.ones(1) for name in ("in.a", "out.b", "out.c")}, path, {"meta": "{}"})
    return path


def test_all_that_is_recorded_is_read_by_a_test():
    for path in TESTS:
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    recorded = [path for path in (*cases(bool), *word_cases()) if path.parent == OWN]
    assert len(recorded) >= 11
    assert {path.name: found for path in recorded if (found := unclaimed(path))} == {}


def test_what_no_test_says_that_it_reads_is_found(recorded):
    assert unclaimed(recorded) == {"in.a", "out.b", "out.c"}
    for_each([recorded], "in.*")
    for_each([recorded], "*.b")
    assert unclaimed(recorded) == {"out.c"}


def test_a_test_that_leaves_unread_what_it_says_it_reads_fails(recorded):
    def of_names(*names):
        @for_each([recorded], "out.*")
        def test(path):
            x = load(path)[1]
            assert "out.c" in x
            assert len(list(x)) == 3
            assert [x[name].item() for name in names] == [1.0] * len(names)

        return test

    with pytest.raises(AssertionError, match=r"reads no out\.c"):
        of_names("in.a", "out.b")(path=recorded)
    of_names("out.b", "out.c")(path=recorded)
    with pytest.raises(AssertionError, match=r"reads no out\.b"):  # an earlier test's reading does not count
        of_names("out.c")(path=recorded)


def test_a_prefix_reads_what_is_below_it(recorded):
    @for_each([recorded], "*")
    def test(path):
        assert under(load(path)[1], "out.").keys() == {"b", "c"}

    with pytest.raises(AssertionError, match=r"reads no in\.a$"):
        test(path=recorded)


def test_names_of_words_count_wherever_they_stand(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"captions": [{"raw": "a", "ids": [1]}, {"raw": "b", "ids": [2]}]}))

    def of_names(*names):
        @for_each([path], "*")
        def test(path):
            assert all(case[name] for case in load_words(path)["captions"] for name in names)

        return test

    with pytest.raises(AssertionError, match="reads no ids"):
        of_names("raw")(path=path)
    of_names("raw", "ids")(path=path)
