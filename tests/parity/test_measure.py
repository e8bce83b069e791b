"""The table of parity: what is asserted is what is written."""

import pytest
import torch

from tests.parity import measure


def test_a_difference_is_asserted_and_noted_relative_to_the_largest_value():
    measure.start()
    theirs = torch.tensor([100.0, -200.0])
    measure.assert_near(theirs + 0.001, theirs, 1e-5)
    with pytest.raises(AssertionError, match="differs by"):
        measure.assert_near(theirs + 0.01, theirs, 1e-5, "logits")
    with pytest.raises(AssertionError):
        measure.assert_near(theirs[:1], theirs, 1e-5)
    tiny = torch.tensor([1e-6])
    measure.assert_near(tiny + 3e-7, tiny, 1e-5, "query", "gradients", largest=1.0)
    with pytest.raises(AssertionError, match="query"):
        measure.assert_near(tiny + 9e-7, tiny, 1e-5, "query", "gradients", largest=1.0)
    first, *_, last = measure.noted("A", "B")
    assert first["difference"] == pytest.approx(5e-6, rel=0.02)
    assert last["what"] == measure.CANCELLED


def test_a_gradient_that_does_not_cancel_keeps_its_bound():
    theirs = torch.tensor([0.02])
    measure.assert_near(theirs + 9e-7, theirs, 5e-5, "query", "gradients", largest=1.0)
    with pytest.raises(AssertionError, match="query"):
        measure.assert_near(theirs + 1.2e-6, theirs, 5e-5, "query", "gradients", largest=1.0)


def test_of_many_values_a_few_may_be_farther_off_but_not_far():
    measure.start()
    theirs = torch.linspace(-2.0, 2.0, 1000)
    ours = theirs.clone()
    ours[:5] += 0.01
    near = {"bound": 1e-5, "farthest": 0.02, "what": "after several steps"}
    measure.assert_most_near([(ours, theirs)], outliers=0.005, **near)
    assert measure.noted("A", "B")[0]["difference"] == 0.0
    with pytest.raises(AssertionError, match="5 of 1000 values"):
        measure.assert_most_near([(ours, theirs)], outliers=0.004, **near)
    with pytest.raises(AssertionError):
        measure.assert_most_near([(ours, theirs)], outliers=0.005, **near | {"farthest": 0.005})


def test_equal_states_are_equal_bits():
    measure.start()
    state = {"a": torch.ones(2), "b": torch.zeros(1, dtype=torch.int64)}
    measure.assert_same_state(dict(state), state)
    for other in (
        {"a": state["a"]},
        state | {"a": torch.ones(2).half()},
        state | {"a": torch.tensor([1.0, 1.0 + 1e-7])},
    ):
        with pytest.raises(AssertionError):
            measure.assert_same_state(other, state)
    assert [note["difference"] for note in measure.noted("A", "B")] == [None, None]


def test_the_table_shows_the_worst_of_each(tmp_path):
    note = {"layout": "CLIP", "against": "open_clip", "what": "outputs", "bound": 1e-5}
    notes = [note | {"difference": d} for d in (1e-7, 3e-7)] + [note | {"what": "there and back", "difference": None}]
    measure.write_table(tmp_path / "table.md", notes)
    text = (tmp_path / "table.md").read_text()
    assert text.endswith(f"\n\n{measure.NO_ORACLE}")
    assert [line for line in text.splitlines() if line.startswith("| CLIP")] == [
        "| CLIP | open_clip | outputs | 3.0e-07 | 1e-05 | 2 |",
        "| CLIP | open_clip | there and back | equal bits | equal bits | 1 |",
    ]
