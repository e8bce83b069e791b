from pathlib import Path

import open_clip
import pytest

from mmkit.data.records import Record
from mmkit.errors import UserError
from mmkit.evals.labels import with_classes
from mmkit.evals.prompts import CIFAR100, built_in_classes, default_templates, read_lines, templates_named
from tests.evals.test_labels import Folders, Names, called


def test_templates_are_those_of_open_clip_as_texts():
    for name, made, n in (
        ("imagenet", open_clip.OPENAI_IMAGENET_TEMPLATES, 80),
        ("imagenet7", open_clip.SIMPLE_IMAGENET_TEMPLATES, 7),
    ):
        templates = templates_named(name)
        assert len(templates) == n
        assert [t.replace("{}", "tench") for t in templates] == [t("tench") for t in made]
    for name in ("photo", "openmoji", "zh"):
        assert all(t.count("{}") == 1 for t in templates_named(name))
    assert len(set(templates_named("zh"))) == len(templates_named("zh")) > 10


def test_templates_by_file_or_not_at_all(tmp_path):
    (tmp_path / "mine.txt").write_text("my {}\n")
    assert templates_named(tmp_path / "mine.txt") == ("my {}",)
    with pytest.raises(UserError, match="no file, none of imagenet, imagenet7, photo, openmoji, zh, and no"):
        templates_named("imagenet80")


def test_a_template_may_be_given_as_it_is():
    assert templates_named("a drawing of a {}.") == ("a drawing of a {}.",)
    long = "a {}" + " on a very long road" * 20
    assert templates_named(long) == (long,)
    with pytest.raises(UserError, match=r'--templates: "a \{\} and a \{\}" must hold \{\} once'):
        templates_named("a {} and a {}")


def test_a_class_set_brings_its_templates():
    assert len(default_templates("imagenet")) == 80
    assert default_templates("cifar10") == ("a photo of a {}.",)
    assert default_templates("openmoji") != default_templates("openmoji:zh") == default_templates(None) == ("{}",)


def test_imagenet_by_folder_by_name_and_by_number():
    """Folders are called by WordNet ids; a part of them still is measured against all 1,000 names."""
    wanted = ["goldfish", "tench", "toilet paper"]
    for labels in (
        ["n01443537", "n01440764", "n15075141"],
        ["goldfish", "Tench", "toilet_paper"],
        ["1", "0", "999"],
        [1, 0, 999],
    ):
        source, names = with_classes(Names(labels), "imagenet")
        assert len(names) == 1000
        assert called(source, names) == wanted


def test_numbers_are_not_sorted_as_words():
    """Ten folders "0" to "9" and one "10": as words, "10" would stand second."""
    source, names = with_classes(Names([str(i) for i in range(11)]), "cifar100")
    assert called(source, names) == list(CIFAR100[:11])


def test_sorted_folders_take_the_names_in_order_only_when_none_is_known(tmp_path):
    labels = [f"folder{i:03d}" for i in range(10)]
    source, names = with_classes(Names(labels), "cifar10")
    assert called(source, names)[0] == "airplane"
    (tmp_path / "c.txt").write_text("big_cat\ndgo\nowl\n")
    message = r"3 classes do not fit the 3 labels.*no line for dog \(perhaps dgo\?\); no pictures for dgo"
    with pytest.raises(UserError, match=message):
        with_classes(Folders(3), tmp_path / "c.txt")


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["n01440764", "n99999999"], "imagenet", "1000 classes do not fit the 2 labels.*no line for n99999999"),
        (
            ["cat", "unicorn"],
            "cifar10",
            r"no line for unicorn; no pictures for airplane, automobile, bird, deer",
        ),
        (["3", "10"], "cifar10", "10 classes, but a record has the label 10"),
        (["cat"], "cifar11", "cifar11: cannot read the class names; neither a file nor one of imagenet, cifar10"),
        (["cat"], "openmoji:xx", "no names in language 'xx'"),
    ],
)
def test_what_differs_is_named(labels, classes, message):
    with pytest.raises(UserError, match=message):
        with_classes(Names(labels), classes)


def test_openmoji_in_other_languages():
    assert built_in_classes("openmoji:zh").names[0] == "狗"
    source, names = with_classes(Names(["dog", "cat"]), "openmoji:zh")  # English labels find their Chinese names
    assert called(source, names) == ["狗", "猫"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n.txt", '[\n "cat",\n "dog"\n]\n'), ("n.txt", '["cat", "dog"]'), ("n.json", '\ufeff{"1": "dog", "0": "cat"}'),
        ("n.txt", "\ufeffcat\r\ndog\r\n"),
    ],
)  # fmt: skip
def test_names_and_templates_in_json_are_no_lines(tmp_path, name, text):
    """Indented JSON gave the classes "[" and '"cat",', without a word but what was paired."""
    (tmp_path / name).write_bytes(text.encode())
    assert read_lines(tmp_path / name, "class names") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["cat", "dog",]', "cannot be read as JSON"), ('{"cat": "dog"}', "no JSON list of class names"),
        ('["cat", 3]', "no JSON list of class names"), ('["cat", " "]', "no JSON list"),
        ('"cat"\n"dog"\n', "every line stands in quotes"), ('"cat",\n', "every line stands in quotes"),
        ("'cat'\n'dog'\n", "every line stands in quotes"),
    ],
)  # fmt: skip
def test_names_that_would_be_read_as_they_are_written(tmp_path, text, message):
    (tmp_path / "n.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_lines(tmp_path / "n.txt", "class names")


@pytest.mark.parametrize("names", ["0,cat\n1,dog\n", "0:cat\n1:dog\n"])
def test_names_that_begin_with_their_numbers(tmp_path, names):
    (tmp_path / "n.txt").write_text(names)
    source = [Record(image=Path("x"), captions=(), image_id=str(i), key=str(i), targets={"label": i}) for i in (0, 1)]
    with pytest.raises(UserError, match=r"the lines are numbered"):
        with_classes(source, tmp_path / "n.txt")
    with pytest.raises(UserError, match=r"begins with its label .*LABEL<TAB>name"):
        with_classes(source, names.split())


def test_names_that_begin_with_their_folders(tmp_path):
    (tmp_path / "n.txt").write_text("n01440764 tench, Tinca\nn01443537 goldfish\n")
    keys = ("n01440764", "n01443537")
    source = [Record(image=Path("x"), captions=(), image_id=k, key=k, targets={"label": k}) for k in keys]
    with pytest.raises(UserError, match="begins with its label"):
        with_classes(source, tmp_path / "n.txt")
    (tmp_path / "n.txt").write_text("1 cat\n0 dog\n")  # of other labels: names like others
    source = [Record(image=Path("x"), captions=(), image_id=str(i), key=str(i), targets={"label": i}) for i in (0, 1)]
    assert with_classes(source, tmp_path / "n.txt")[1] == ["1 cat", "0 dog"]


def test_one_label_with_two_names(tmp_path):
    (tmp_path / "n.txt").write_text("0\tcat\n1\tdog\n1\tbird\n")
    source = [Record(image=Path("x"), captions=(), image_id="0", key="0", targets={"label": 0})]
    with pytest.raises(UserError, match="label '1' stands in two lines"):
        with_classes(source, tmp_path / "n.txt")
