"""The accuracy of the VQA challenge, worked by hand; building answer lists and checking that they fit the data."""

import logging

import pytest

from mmkit.data.openmoji.questions import Questions
from mmkit.data.records import Record
from mmkit.data.texts.answers.rules import (
    accuracy_of,
    answers_in,
    build_answers,
    check_coverage,
    class_numbers,
    coverage,
    majority_share,
    normalize,
    published,
    summary,
)
from mmkit.errors import UserError


def records(*answers, kind="other"):
    """One record for each list of answers."""
    return [
        Record(
            image=b"",
            captions=("what?",),
            image_id=str(i),
            key=f"q{i}",
            targets={"answers": list(given), "answer_type": kind},
        )
        for i, given in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("The Dog", "dog"),
        ("a  red\tcar\n", "red car"),
        ("two", "2"),
        ("None", "0"),
        ("ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),  # two apostrophes missing: not in the published table
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),  # as published
        ("im", "im"),  # the published table has it with a capital, after lower-casing
        ("t-shirt", "t shirt"),  # between letters a mark becomes a space
        ("black/white", "black white"),
        ("yes, sir", "yes sir"),  # beside a space it goes
        ("1,000", "1000"),  # between digits too, and then every mark in the text
        ("1,000-2", "10002"),
        ("no.", "no"),
        ("U.S.", "us"),
        ("3.5", "3.5"),  # not before a digit
        ("5:30 o'clock", "5:30 o'clock"),  # colons and apostrophes stay
        ("50%", "50%"),
    ],
)
def test_normalize(answer, same):
    assert normalize(answer) == same


@pytest.mark.parametrize(
    ("given", "score"),
    [
        (0, 0.0),
        # Left out in turn: k times one of the k (k - 1 others agree), 10 - k times another (k agree); a third for each.
        (1, (1 * 0 + 9 * 1 / 3) / 10),  # 0.3
        (2, (2 * 1 / 3 + 8 * 2 / 3) / 10),  # 0.6
        (3, (3 * 2 / 3 + 7 * 1) / 10),  # 0.9
        (4, 1.0),
        (10, 1.0),
    ],
)
def test_accuracy_with_ten_annotators(given, score):
    answers = ["red"] * given + [f"colour {i}" for i in range(10 - given)]
    assert accuracy_of("Red.", answers) == pytest.approx(score)
    assert accuracy_of("Red.", answers, as_published=True) == pytest.approx(score)


def test_both_sides_are_normalised():
    answers = ["two", "2", "The two", *"3456789"]
    assert accuracy_of("two", answers) == pytest.approx(0.9)
    # the published program takes only marks from the annotators' answers: "2" alone is met
    assert accuracy_of("two", answers, as_published=True) == pytest.approx(0.3)
    unanimous = ["t-shirt"] * 10
    assert accuracy_of("t-shirt", unanimous) == 1.0
    assert accuracy_of("t-shirt", unanimous, as_published=True) == 0.0
    assert accuracy_of("t-shirt", [*unanimous[:9], "shirt"], as_published=True) == 1.0


@pytest.mark.parametrize(
    ("answer", "answers", "score"),
    [
        ("yes", ["Yes"], 1.0),
        ("no", ["yes"], 0.0),
        ("a", ["b"], 0.0),
        ("x", ["x", "y"], 0.5),  # left out: x (0 of 1 other), y (1 of 1)
        ("x", ["x", "x"], 1.0),
        ("x", ["x", "y", "z"], (0 + 1 / 2 + 1 / 2) / 3),
        ("x", ["x", "x", "y", "z"], (1 / 3 + 1 / 3 + 2 / 3 + 2 / 3) / 4),  # from four on as published
    ],
)
def test_accuracy_with_few_annotators(answer, answers, score):
    assert accuracy_of(answer, answers) == pytest.approx(score)


def test_no_annotator():
    with pytest.raises(UserError, match="no accuracy"):
        accuracy_of("x", [])


def test_summary_by_type():
    found = summary([1.0, 0.0, 0.5, 0.25], ["yes/no", "number", "yes/no", ""])
    assert found == {"accuracy": 0.4375, "n": 4, "by_type.number": 0.0, "by_type.yes/no": 0.75}
    with pytest.raises(UserError, match="no questions"):
        summary([], [])


def test_build_answers():
    data = records(*[["Yes"] * 3] * 4, *[["no", "No.", "yes"]] * 2, ["two", "2", "three"], ["the cat"])
    assert build_answers(data) == ["yes", "no", "2", "cat"]
    assert build_answers(data, min_count=2) == ["yes", "no"]
    assert build_answers(data, min_count=9 - 5) == ["yes"]
    assert build_answers(data, top=3) == ["yes", "no", "2"]
    said = Record(image=b"", captions=("?",), image_id="0", key="q", targets={"answers": ["a b", "c"], "answer": "c"})
    assert build_answers([said]) == ["c"]
    with pytest.raises(UserError, match=r"9 times; the most frequent is 'yes', 4 times.*--min-count"):
        build_answers(data, min_count=9)
    with pytest.raises(UserError, match="at least 1"):
        build_answers(data, top=0)
    with pytest.raises(UserError, match='q0: "answers" must be a list'):
        build_answers([Record(image=b"", captions=("?",), image_id="0", key="q0", targets={"answers": [3]})])


def test_coverage(caplog):
    data = records(*[["yes"] * 10] * 6, *[["Two"] * 2 + ["3"] * 8] * 2, *[["cat"] * 10] * 2)
    found = coverage(data, ["yes", "2"])
    assert (found.questions, found.share) == (10, 0.8)
    assert found.best == pytest.approx((6 * 1.0 + 2 * 0.6) / 10)  # two of ten said "two"
    assert found.missing == (("cat", 2),)
    logging.getLogger("mmkit").propagate = True
    with caplog.at_level(logging.WARNING):
        check_coverage(data, ["yes", "2"], where="answers.txt")
    assert "answers.txt: 2 answers" in caplog.text
    assert "80.0%" in caplog.text
    with pytest.raises(UserError, match=r"20.0% of 10 questions.*'yes' \(6\).*build-answers"):
        check_coverage(data, ["cat"])
    assert coverage(data, ["yes"], limit=3).questions == 3
    caplog.clear()
    assert check_coverage(data, ["yes", "3", "cat"]).share == 1.0
    assert not caplog.text


@pytest.mark.parametrize(
    ("answer", "same"),
    [("A", "a"), ("the", "the"), ("An.", "an"), ("!", "!"), ("?!", "?!"), (".", "."), ("The A", "the a"), (" ", "")],
)
def test_an_answer_of_which_nothing_would_be_left_keeps_its_word(answer, same):
    assert normalize(answer) == same
    assert published(answer) == ""


def test_answers_that_are_articles_alone_are_not_all_the_same():
    """Of multiple choice, "A" is an answer like "B": it stands in the list, and nothing else is right for it."""
    assert build_answers(records(["A"], ["B"], ["C"], ["D"], ["A"])) == ["a", "b", "c", "d"]
    assert accuracy_of("!", ["A"]) == accuracy_of("the", ["A"]) == accuracy_of("", ["A"]) == 0.0
    assert accuracy_of("a", ["A"]) == accuracy_of("A.", ["A"]) == 1.0
    assert accuracy_of("!", ["A"] * 10) == accuracy_of("", ["the"] * 10) == 0.0
    assert accuracy_of("!", ["A"], as_published=True) == 0.0  # fewer than four: there is no published rule
    assert coverage(records(["A"], ["B"]), ["!", "b"]).share == 0.5
    full_stops = [".", ".", ".", ".", "b"]  # as published both sides are nothing, and so alike
    assert accuracy_of("the", full_stops, as_published=True) == 1.0
    assert accuracy_of("the", full_stops) == 0.0
    assert accuracy_of(".", full_stops) == 1.0


def test_answers_as_columns_of_tables_have_them():
    for given in (
        ["yes", "no"],
        [{"answer": "yes", "confidence": "maybe"}, {"answer": "no"}],
        {"answer": ["yes", "no"]},
    ):
        assert answers_in({"answers": given}) == ["yes", "no"]
    assert answers_in({"answers": {"answer": "yes"}}) == ["yes"]
    for given in ([{"reply": "yes"}], {"reply": ["yes"]}, [3], [], None, [" "]):
        with pytest.raises(UserError, match='"answers" must be a list'):
            answers_in({"answers": given})


def test_classes_are_answers_that_differ_when_normalised():
    assert class_numbers(["Two", "yes", "a"]) == {"2": 0, "yes": 1, "a": 2}
    for same in (["two", "2", "yes"], ["yes", "Yes."], ["the dog", "yes", "dog"]):
        with pytest.raises(UserError, match=r"are the same answer .*leave one of them out"):
            class_numbers(same)
    with pytest.raises(UserError, match="stands there twice"):
        class_numbers(["yes", "yes"])
    with pytest.raises(UserError, match="is empty"):
        class_numbers([])


def test_majority_share():
    data = records(["yes"], ["yes"], ["no"], kind="yes/no") + records(["1"], ["2"], kind="number")
    assert majority_share(data) == {"number": 0.5, "yes/no": pytest.approx(2 / 3)}
    scenes = majority_share(Questions(n=300, plain=True, size=48, types=("yes/no", "object")))
    assert scenes["object"] < 0.05
    assert scenes["yes/no"] < 0.62
