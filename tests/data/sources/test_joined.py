"""Sources joined: their targets, and what the numbers of their classes mean. Ids: published/test_ids.py."""

import pytest
from PIL import Image

from mmkit.data.records import Record, targets_of
from mmkit.data.sources.class_folder import ClassFolder
from mmkit.data.sources.classes import labels_in
from mmkit.data.sources.joined import Joined
from mmkit.evals.labels import with_classes

PICTURE = Image.new("RGB", (2, 2))


class Part:
    """Records with these targets; names: of its classes."""

    def __init__(self, rows, names=None):
        self.rows = rows
        if names is not None:
            self.class_names = names

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return Record(image=PICTURE, captions=(), image_id=str(index), key=str(index), targets=self.rows[index])


class Quick(Part):
    """One that knows its targets without its records."""

    def __getitem__(self, index):
        raise AssertionError("opened")

    def target(self, key):
        return iter([row.get(key) for row in self.rows])


@pytest.mark.parametrize(("first", "second", "labels", "names"), [
    (["cat", "dog"], ["cat", "dog"], [1, 0, 0, 1], ["cat", "dog"]),
    (["cat", "dog"], ["dog", "cat"], ["dog", "cat", "dog", "cat"], None),
    (["cat", "dog"], ["ant", "cat", "dog"], ["dog", "cat", "ant", "cat"], None),
    (["cat", "dog"], None, ["dog", "cat", 0, 1], None),
    (None, None, [1, 0, 0, 1], None),
])  # fmt: skip
def test_a_number_means_one_class(first, second, labels, names):
    rows = [{"label": 1, "weight": 2.0}, {"label": 0}], [{"label": 0}, {"label": 1, "weight": 3.0}]
    source = Joined([Part(rows[0], first), Part(rows[1], second)])
    assert [source[i].targets["label"] for i in range(4)] == labels == list(source.target("label"))
    assert source.class_names == names
    assert list(source.target("weight")) == [2.0, None, None, 3.0]
    assert source[3].targets["weight"] == 3.0
    assert rows[0][0] == {"label": 1, "weight": 2.0}


@pytest.mark.parametrize("label", [-1, 2, "bird", None, True, 1.0])
def test_what_is_no_number_of_a_class_stays(label):
    source = Joined([Part([{"label": label}], ["cat", "dog"]), Part([{}], ["ant"])])
    assert source[0].targets == {"label": label}
    assert list(source.target("label")) == [label, None]
    assert source[1].targets == {}


def test_targets_are_told_without_opening_records():
    parts = [Quick([{"label": 0}, {}], ["cat"]), Quick([{"label": 0}], ["dog"])]
    assert list(targets_of(Joined(parts), "label")) == ["cat", None, "dog"]


def test_class_folders_of_other_classes(tmp_path):
    for name in ("a/cat/0", "a/dog/1", "b/ant/2", "b/cat/3"):
        (tmp_path / name).parent.mkdir(parents=True)
        PICTURE.save(tmp_path / f"{name}.png")
    source = Joined([ClassFolder(tmp_path / "a"), ClassFolder(tmp_path / "b")])
    assert labels_in(source) == ["ant", "cat", "dog"]
    labelled, names = with_classes(source, ["dog", "cat", "ant"])
    assert [names[labelled[i].targets["label"]] for i in range(4)] == ["cat", "dog", "ant", "cat"]
