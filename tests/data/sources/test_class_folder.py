"""Folders of classes as people have them: links, hidden things, other endings, folders in folders."""

import logging
import os

import pytest
from PIL import Image

from mmkit.data.sources.class_folder import ClassFolder, is_class_folder
from mmkit.data.sources.folder import Folder
from mmkit.data.sources.open import open_source
from mmkit.data.sources.walk import pictures_in, walk
from mmkit.errors import UserError
from mmkit.evals.labels import with_classes


@pytest.fixture(autouse=True)
def told(caplog):
    logging.getLogger("mmkit").propagate = True
    caplog.set_level(logging.INFO, "mmkit")
    return caplog


def put(path, form="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, form)
    return path


def found(folder):
    source = ClassFolder(folder)
    return [(source.class_names[source[i].targets["label"]], source[i].image_id) for i in range(len(source))]


def test_linked_class_folders_and_files_are_followed(tmp_path):
    put(tmp_path / "elsewhere" / "red" / "1.png")
    put(tmp_path / "elsewhere" / "2.png")
    put(tmp_path / "cls" / "blue" / "3.png")
    (tmp_path / "cls" / "red").symlink_to(tmp_path / "elsewhere" / "red")
    (tmp_path / "cls" / "blue" / "linked.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "data").symlink_to(tmp_path / "cls")
    wanted = [("blue", "blue/3.png"), ("blue", "blue/linked.png"), ("red", "red/1.png")]
    assert found(tmp_path / "cls") == wanted
    assert found(tmp_path / "data") == wanted  # the folder itself a link
    assert is_class_folder(tmp_path / "cls")
    assert len(pictures_in(tmp_path / "cls")) == 3


def test_links_in_a_circle_end_and_are_counted(tmp_path, told):
    put(tmp_path / "top" / "cls" / "red" / "1.png")
    for name, target in {"self": ".", "up": "..", "further": "../.."}.items():
        (tmp_path / "top" / "cls" / "red" / name).symlink_to(target)
    (tmp_path / "top" / "cls" / "red" / "gone.png").symlink_to("nowhere.png")
    assert found(tmp_path / "top" / "cls") == [("red", "red/1.png")]
    assert "3 x link to a folder that it lies in, 1 x link to nothing" in told.text


def test_one_picture_under_two_links_counts_once_and_in_two_classes_is_said(tmp_path, told):
    put(tmp_path / "red" / "1.png")
    (tmp_path / "red" / "again.png").symlink_to("1.png")
    assert found(tmp_path) == [("red", "red/1.png")]
    assert "1 links name a picture that its class has already" in told.text
    (tmp_path / "crimson").symlink_to("red")
    assert found(tmp_path) == [("crimson", "crimson/1.png"), ("red", "red/1.png")]
    assert "1 pictures lie in several class folders" in told.text


def test_hidden_things_are_no_classes_and_other_endings_are_pictures(tmp_path, told):
    for i, name in enumerate(("a.jfif", "b.JPG", "c.ppm", "d.PNG", "e", "f.webp", "g.pgm", "h.Tiff", "i.jpe")):
        form = {"a": "JPEG", "b": "JPEG", "c": "PPM", "e": "JPEG", "f": "WEBP", "g": "PPM", "h": "TIFF", "i": "JPEG"}
        put(tmp_path / ("red" if i % 2 else "blue") / name, form.get(name[0], "PNG"))
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".hidden", "$RECYCLE.BIN"):
        put(tmp_path / name / "x.png")
        put(tmp_path / "red" / name / "x.png")
    put(tmp_path / "red" / "._b.JPG", "JPEG")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / "red" / name).write_bytes(b"system")
        (tmp_path / name).write_bytes(b"system")
    (tmp_path / "red" / "notes.txt").write_text("mine")
    (tmp_path / "red" / "1.heic").write_bytes(b"other")
    (tmp_path / "red" / "LICENSE").write_text("no picture")
    names = {name for _, name in found(tmp_path)}
    assert names == {
        "blue/a.jfif", "red/b.JPG", "blue/c.ppm", "red/d.PNG", "blue/e", "red/f.webp", "blue/g.pgm", "red/h.Tiff",
        "blue/i.jpe",
    }  # fmt: skip
    assert ClassFolder(tmp_path).class_names == ["blue", "red"]
    assert "1 x .heic, 1 x .txt, 1 x file without an ending, 17 x hidden" in told.text
    assert {p.name for p in pictures_in(tmp_path)} == {name.split("/")[1] for name in names}


def test_an_empty_class_folder_is_said(tmp_path, told):
    put(tmp_path / "red" / "1.png")
    (tmp_path / "blue").mkdir()
    (tmp_path / "green").mkdir()
    (tmp_path / "green" / "notes.txt").write_text("later")
    (tmp_path / ".git").mkdir()
    assert ClassFolder(tmp_path).class_names == ["red"]
    assert "folders without pictures, left out of the classes: blue, green" in told.text


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "1.heic").write_bytes(b"x")
    for read in (ClassFolder, pictures_in):
        with pytest.raises(UserError, match=r"no pictures in it .*; it holds 1 x .heic"):
            read(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        ClassFolder(tmp_path / "none")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train/red/1", "test/red/2", "val/red/3"), r"train, val: parts of a data set.*class folders: .*test, .*val,"),
        (("train/red/1", "train/blue/1"), r"train: parts of a data set.*Give .*class folders: \S*train, or"),
        (("Train/red/1", "Test/blue/1"), "parts of a data set, not classes"),
        (("train/1", "val/2", "test/3"), "parts of a data set, not classes. Sort the pictures"),
        (("train/1", "val/red/2"), "parts of a data set"),
        (("train/red/1", "other/2"), r"train: parts of a data set, not classes.*class folders: \S*train, or"),
        (("images/red/1", "images/blue/2"), r"images: hold folders.*Give the folder .*: \S*images, or list"),
        (("animals/dog/1", "animals/cat/2", "cars/audi/3"), "animals, cars: hold folders"),
        (("dog/1", "cat/old/2"), "cat: hold folders"),
        (("a/b/c/1", "a/b/d/2"), r"a: hold folders.*: \S*a/b, or list"),
        (("2019/val/dog/1", "2019/train/cat/2"), r"2019: hold folders.*: \S*2019/val, \S*2019/train"),
    ],
)
def test_folders_of_folders_are_refused_with_the_likely_right_one(tmp_path, files, message):
    for name in files:
        put(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=message):
        ClassFolder(tmp_path)


def test_what_is_no_folder_of_folders(tmp_path):
    for name in ("n1/images/1", "n2/images/2"):  # as tiny-imagenet has it
        put(tmp_path / "tiny" / f"{name}.png")
    assert [name for name, _ in found(tmp_path / "tiny")] == ["n1", "n2"]
    for name in ("train/1", "car/2", "bus/3"):  # a train is a class among vehicles
        put(tmp_path / "vehicles" / f"{name}.png")
    assert ClassFolder(tmp_path / "vehicles").class_names == ["bus", "car", "train"]
    for name in ("dog/1", "dog/more/2", "cat/3"):
        put(tmp_path / "more" / f"{name}.png")
    assert [name for name, _ in found(tmp_path / "more")] == ["cat", "dog", "dog"]


def test_folders_with_numbers_stand_as_people_count(tmp_path):
    """And take the names of a file in that order; as text, "10" stood behind "1"."""
    for i in range(12):
        put(tmp_path / "numbers" / str(i) / "x.png")
        put(tmp_path / "texts" / f"class_{i}" / "x.png")
    assert ClassFolder(tmp_path / "numbers").class_names == [str(i) for i in range(12)]
    names = [f"name {i}" for i in range(12)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    for kind in ("numbers", "texts"):
        source, called = with_classes(ClassFolder(tmp_path / kind), tmp_path / "names.txt")
        for record in map(source.__getitem__, range(12)):
            number = int(record.image_id.partition("/")[0].rpartition("_")[2])
            assert called[record.targets["label"]] == f"name {number}"
    put(tmp_path / "numbers" / "-1" / "x.png")
    with pytest.raises(UserError, match="label -1"):
        with_classes(ClassFolder(tmp_path / "numbers"), tmp_path / "names.txt")


def test_two_folders_of_one_name_are_said(tmp_path, told):
    for name in ("hot_dog", "hot dog", "caf\u00e9", "cafe\u0301"):
        put(tmp_path / name / "x.png")
    assert len(ClassFolder(tmp_path).class_names) == 4
    assert "the folders 'hot dog' and 'hot_dog' have one name" in told.text
    assert told.text.count("have one name") == 2


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    put(tmp_path / "red" / "1.png")
    (tmp_path / "red").chmod(0)
    try:
        with pytest.raises(UserError, match="red: cannot be read"):
            ClassFolder(tmp_path)
    finally:
        (tmp_path / "red").chmod(0o755)


def test_pictures_are_sorted_by_their_whole_path(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "a-b.png", "a/1.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = walk(tmp_path, beside=(".txt",))
    assert found.pictures == sorted([tmp_path / "a" / "1.png", tmp_path / "a-b.png"])
    assert found.told() == ""
    assert walk(tmp_path).told() == "1 x .txt"


def test_captions_without_a_picture_are_counted(tmp_path, told):
    for name in ("a.png", "b.c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    for name in ("a.txt", "b.c.txt", "b.txt", "A.txt"):
        (tmp_path / name).write_text("a dog")
    assert [Folder(tmp_path)[i].captions for i in range(2)] == [("a dog",)] * 2
    assert "left out, as they are no pictures: 2 x .txt without its picture" in told.text


def test_two_files_of_metadata_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\n")
    assert open_source(tmp_path, {"caption"})[0].captions == ("one",)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "two"}\n')
    with pytest.raises(UserError, match=r"metadata\.jsonl and metadata\.csv may say different things; keep one"):
        open_source(tmp_path, {"caption"})
