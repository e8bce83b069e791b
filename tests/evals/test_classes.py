import pytest

from mmkit.errors import UserError
from mmkit.evals.classes import with_classes
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
        (Names([0, 3]), None, "give the names of the classes with --classes"),
        (Names(["a", None]), None, 'picture 1: "label" must be a class name or number, not null'),
        (Names([0, True]), "a\nb\n", 'picture 1: "label" must be a class name or number, not true'),
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
