import logging

import pytest

from mmkit.data.records import Record
from mmkit.errors import UserError
from mmkit.evals.labels import unlabelled, with_classes
from tests.evals.parts import Pictures


class Folders(Pictures):
    """Labels are numbers that index the folder names."""

    class_names = ("big_cat", "dog", "owl")

    def __getitem__(self, i):
        record = super().__getitem__(i)
        record.targets["label"] = i % 3
        return record


class Names(Pictures):
    """Labels are names, without a list of them."""

    class_names = None

    def __init__(self, labels):
        super().__init__(len(labels))
        self.labels = labels

    def __getitem__(self, i):
        record = super().__getitem__(i)
        record.targets["label"] = self.labels[i]
        return record


def called(source, names):
    return [names[source[i].targets["label"]] for i in range(len(source))]


@pytest.mark.parametrize(
    ("lines", "wanted", "count"),
    [
        (None, ["big cat", "dog", "owl"], 3),
        ("tiger\nhound\nbird\n", ["tiger", "hound", "bird"], 3),  # in the order of the folders
        ("owl\nbig_cat\ndog\nfish\n", ["big_cat", "dog", "owl"], 4),  # the folders themselves, in another order
        ("owl\tan owl\nfish\ta fish\ndog\ta dog\nbig_cat\ta lion\n", ["a lion", "a dog", "an owl"], 4),
    ],
)
def test_names_find_their_folders(tmp_path, lines, wanted, count):
    file = None
    if lines is not None:
        file = tmp_path / "classes.txt"
        file.write_text(lines)
    source, names = with_classes(Folders(3), file)
    assert len(names) == count
    assert called(source, names) == wanted


def test_numbers_are_names_where_the_user_says_so(tmp_path):
    file = tmp_path / "digits.txt"
    file.write_text("0\n1\n2\n")
    source, names = with_classes(Names(["2", "0"]), file)
    assert called(source, names) == ["2", "0"]
    source, names = with_classes(Names(["2", "two"]), None)
    assert called(source, names) == ["2", "two"]


def test_labels_of_records(tmp_path):
    source, names = with_classes(Names(["b", "a_c", "b"]), None)
    assert called(source, names) == ["b", "a c", "b"]
    file = tmp_path / "classes.txt"
    file.write_text("x\ny\nz\n")
    source, names = with_classes(Names([2, 0]), file)
    assert called(source, names) == ["z", "x"]
    source, names = with_classes(Names(["z", "x"]), file)
    assert called(source, names) == ["z", "x"]


@pytest.mark.parametrize(
    ("source", "lines", "message"),
    [
        (Folders(3), "a\nb\n", r"classes\.txt: 2 classes do not fit the 3 labels of the pictures; no line for big_cat"),
        (Folders(3), "dog\tx\nowl\ty\nfish\tz\n", "no line for big_cat"),
        (Folders(3), "dog\tx\nowl\n", "1 of 2 lines have a tab"),
        (Folders(3), "# none\n", "no class names in this file"),
        (Names([0, 3]), "a\nb\nc\n", "3 classes, but a record has the label 3"),
        (Names([0, 3]), None, r"give the names of the classes \(--classes"),
        (Names(["a", None]), None, r'picture 1: no "label" \(null\)'),
        (Names([0, True]), "a\nb\n", 'picture 1: "label" must be a class name or a whole number, not true'),
        (Names(["0", "10", "1"]), None, r"labels are numbers \(0, 1, 10\).*--classes FILE"),  # as a CSV has them
        (Names(["dog", "cat"]), "dog\tx\nfish\ty\n", r"no line for cat.*; no pictures for fish\. Write"),
        (Names(["dog", "cat"]), "dog\tx\n", r"no line for cat\. Write"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, source, lines, message):
    file = None
    if lines is not None:
        file = tmp_path / "classes.txt"
        file.write_text(lines)
    with pytest.raises(UserError, match=message):
        with_classes(source, file)


TWELVE = ["cat", "dog", "owl", "bee", "ant", "fox", "hen", "cow", "pig", "bat", "elk", "emu"]


@pytest.mark.parametrize(
    "labels",
    [
        [float(i) for i in range(12)],  # as pandas makes them of a column with a gap
        [f"{i}.0" for i in range(12)],  # the same, written into a CSV
        [str(i) for i in range(12)],
        list(range(12)),
        [float(i) if i % 2 else i for i in range(12)],
        [f"class_{i}" for i in range(12)],
        [f"class {i + 1}" for i in range(12)],  # any first number, as these are texts
        [f"{i}_x" for i in range(12)],
        [f"{i:02d}" for i in range(12)],
    ],
    ids=str,
)
def test_labels_with_numbers_get_the_names_in_their_order(tmp_path, labels, caplog):
    """Sorted as text, "2.0" got the name of 4, and "class_10" that of 2."""
    file = tmp_path / "classes.txt"
    file.write_text("\n".join(TWELVE))
    logging.getLogger("mmkit").propagate = True
    order = [7, 0, 10, 2, 11, 1, 3, 9, 4, 8, 6, 5]
    with caplog.at_level(logging.INFO, "mmkit"):
        source, names = with_classes(Names([labels[i] for i in order]), file)
    assert called(source, names) == [TWELVE[i] for i in order]
    assert list(source.target("label")) == order
    assert "= cat, " in caplog.text  # what was paired is said
    assert caplog.text.index("= owl") < caplog.text.index("= elk")
    assert with_classes(Names([labels[i] for i in order]), TWELVE)[0].numbers == source.numbers  # as a config has them


def test_numbers_and_keys_that_are_numbers_meet(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("2\towl\n0\tcat\n1\tdog\n")
    for labels in ([2, 0, 1], ["2", "0", "1"], [2.0, 0.0, 1.0], ["2.0", "0.0", "1.0"]):
        source, names = with_classes(Names(labels), file)
        assert called(source, names) == ["owl", "cat", "dog"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1], r"has the label -1, which often stands for a class that is not known"),
        (["0", "1", "-1"], r"has the label -1"),
        (["0.0", "1.0", "-1.0"], r"has the label -1"),
        ([1, 2, 3], r"3 classes, but a record has the label 3.*the labels run from 1 to 3"),
        ([0.0, 1.0, 12.0], "has the label 12"),
        (["0", "1", "01"], "two labels are one number"),
        ([0, 1, 0.5], '"label" must be a class name or a whole number, not 0.5'),
        ([0, 1, float("nan")], r'no "label" \(NaN\)'),
        ([0, 1, float("inf")], "a whole number, not Infinity"),
        (["0.0", "0.5", "1.0"], "not all are whole numbers"),
        (["0", "1", "dog"], r"numbers \(0, 1\) beside texts \(dog\)"),
        ([0, 1, "dog"], r"numbers \(0, 1\) beside texts \(dog\)"),
    ],
)
def test_numbers_that_are_no_class_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        with_classes(Names(labels), ["x", "y", "z"])


def test_numbers_alone_are_no_names():
    for labels in (["0.0", "1.0"], [0.0, 1.0], ["-1", "1"], ["0.5", "1.5"]):
        with pytest.raises(UserError, match="labels are numbers"):
            with_classes(Names(labels), None)


def test_classes_with_one_name_are_said_and_compared_normalised(caplog):
    logging.getLogger("mmkit").propagate = True
    composed, apart = "caf\u00e9", "cafe\u0301"
    for labels in (["hot_dog", "hot dog"], ["Red", "red"], [composed, apart]):
        caplog.clear()
        assert len(with_classes(Names(labels), None)[1]) == 2
        assert "classes with one name cannot be told apart" in caplog.text
        assert "share what is found" in caplog.text
    caplog.clear()
    assert with_classes(Names([apart]), None)[1] == [composed]  # one letter, as people write it
    source, names = with_classes(Names([apart, "dog"]), ["dog", composed])
    assert called(source, names) == [composed, "dog"]
    source, names = with_classes(Names(["stra\u00dfe", "dog"]), ["dog", "STRASSE"])
    assert called(source, names) == ["STRASSE", "dog"]
    assert not caplog.text
    with pytest.raises(UserError, match=r"'Red' and 'red' are one name"):
        with_classes(Names(["Red", "red"]), ["red", "blue", "green"])
    caplog.clear()
    with_classes(Names(["a", "b"]), ["crane", "crane"])
    assert "'crane' and 'crane'" in caplog.text


def test_a_source_with_names_of_its_own_is_paired_by_them_not_by_position():
    """Labels index the folders, sorted; a list in another order once took their numbers as its own."""
    source, names = with_classes(Folders(3), ["owl", "dog", "big cat"])
    assert called(source, names) == ["big cat", "dog", "owl"]
    with pytest.raises(UserError, match="no line for big_cat"):
        with_classes(Folders(3), ["owl", "dog"])


def test_whether_there_are_labels():
    assert unlabelled(Names([None, None]))
    assert unlabelled(Names([-1, -1]))
    assert not unlabelled(Names([None, "dog"]))
    assert not unlabelled(Folders(3))


@pytest.mark.parametrize(("labels", "warned"), [
    (("001.Black_footed_Albatross", "002.Laysan_Albatross"), True), (("1 cat", "2-dog"), True),
    (("001.Albatross", "finch"), False), (("2CV", "911"), False), (("n01 a", "n02 b"), False),
])  # fmt: skip
def test_numbers_before_the_labels_are_said(labels, warned, caplog):
    logging.getLogger("mmkit").propagate = True
    source = [Record(image=b"", captions=(), image_id=name, key=name, targets={"label": name}) for name in labels]
    with_classes(source, None)
    assert ("begin with numbers" in caplog.text) == warned
