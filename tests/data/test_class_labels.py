"""Names of classes as numbers, and where the names come from."""

from random import Random

import pytest
from PIL import Image

from mmkit.data.sources.class_folder import ClassFolder
from mmkit.data.sources.classes import class_names
from mmkit.data.targets import ClassLabels, Given
from mmkit.errors import UserError

NAMES = ("red", "dark blue", "10")


class Named:
    class_names = ("10", "Dark_Blue")


def encode(encoder, label):
    return encoder.encode({"label": label, "other": 1}, Random(0))


def test_names_become_their_numbers():
    encoder = ClassLabels(Given(), NAMES)
    assert [encode(encoder, label)["label"] for label in ("red", "DARK_BLUE", "10", 10)] == [0, 1, 2, 2]
    assert encode(encoder, "red") == {"label": 0}
    assert encoder.collate([{"label": 2}, {"label": 0}])["label"].tolist() == [2, 0]


def test_numbers_of_a_source_are_those_of_its_own_names():
    encoder = ClassLabels(Given(source=Named()), NAMES)
    assert [encode(encoder, label)["label"] for label in (0, 1, "red")] == [2, 1, 0]
    for label in (2, -1):
        with pytest.raises(UserError, match=f"label {label} is none of the 3 classes"):
            encode(encoder, label)


def test_what_is_no_class_is_refused():
    encoder = ClassLabels(Given(), NAMES)
    for label, says in (("blue", "label 'blue' is none of the 3 classes: red, dark blue, 10"), (None, 'no "label"')):
        with pytest.raises(UserError, match=says):
            encode(encoder, label)
    with pytest.raises(UserError, match="'a b' and 'A_b' are one name"):
        ClassLabels(Given(), ("a b", "A_b"))
    with pytest.raises(UserError, match="classes that are none of the 1: Dark_Blue"):
        ClassLabels(Given(source=Named()), ("10",))


def test_the_names_in_a_folder_and_in_a_table(tmp_path):
    for name in ("class_10", "class_2"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / "a.png")
    assert (
        class_names(tmp_path / "data") == ("class_2", "class_10") == tuple(ClassFolder(tmp_path / "data").class_names)
    )
    table = tmp_path / "list.csv"
    table.write_text("path,label\ndata/class_2/a.png,b10\ndata/class_10/a.png,b9\ndata/class_2/a.png,b9\n")
    assert class_names(table) == ("b9", "b10")
    table.write_text("path,label\ndata/class_2/a.png,0\ndata/class_10/a.png,1\n")
    with pytest.raises(UserError, match=r"the labels are numbers \(0, 1\)"):
        class_names(table)
