"""Which records are of one picture: ids that are absent, ids of several pictures, names of one file."""

import json
import os
import pickle
import shutil
import unicodedata

import pytest

from mmkit.data.picture_files import PictureFiles, several
from mmkit.data.records import JsonLines
from mmkit.data.sources.joined import Joined
from mmkit.errors import UserError
from tests.data.conftest import write


def lines(folder, ids, images=None):
    images = images or [f"{i}.png" for i in range(len(ids))]
    rows = [{"image": image, "caption": "x"} | given for image, given in zip(images, ids, strict=True)]
    return JsonLines(write(folder / "b.jsonl", rows))


@pytest.mark.parametrize("given", [None, "", "  ", float("nan")])
def test_an_id_that_is_null_or_empty_is_absent(pictures, given):
    source = lines(pictures, [{"image_id": given}] * 6)
    assert [source[i].image_id for i in range(6)] == [f"{i}.png" for i in range(6)]


def test_ids_of_one_value_are_one(pictures):
    source = lines(pictures, [{"image_id": i} for i in (10, "10", 10.0, 7)], ["0.png", "0.png", "0.png", "1.png"])
    assert [source[i].image_id for i in range(4)] == ["10", "10", "10", "7"]


@pytest.mark.parametrize("given", [True, [1], {"a": 1}])
def test_what_is_no_id_is_refused(pictures, given):
    with pytest.raises(UserError, match=r"b.jsonl:1: \"image_id\" must be a string or a number"):
        lines(pictures, [{"image_id": given}])


def test_one_id_for_different_pictures_is_refused_with_both_lines(pictures):
    with pytest.raises(UserError, match=r"3 of 6 lines .*3 x one id for different pictures") as error:
        lines(pictures, [{"image_id": i % 3} for i in range(6)])
    assert "b.jsonl:4: image_id '0' is of 3.png here and of 0.png in line 1" in str(error.value)


def test_a_given_id_may_not_be_the_name_of_another_picture(pictures):
    with pytest.raises(UserError, match=r"image_id '1.png' is of 1.png here and of 0.png in line 1"):
        lines(pictures, [{"image_id": "1.png"}, {}])
    with pytest.raises(UserError, match=r"image_id '1.png' is of \./1.png here and of 0.png in line 1"):
        lines(pictures, [{"image_id": "1.png"}, {}], ["0.png", "./1.png"])


def test_equal_bytes_under_two_names_may_have_one_id(pictures):
    shutil.copy(pictures / "0.png", pictures / "copy.png")
    source = lines(pictures, [{"image_id": 1}, {"image_id": 1}], ["0.png", "copy.png"])
    assert source[0].image_id == source[1].image_id == "1"


def test_equal_size_and_time_do_not_make_one_picture_of_two(pictures):
    for name, letter in (("a.png", b"a"), ("b.png", b"b")):
        (pictures / name).write_bytes(letter * 100)
        os.utime(pictures / name, ns=(1, 1))
    with pytest.raises(UserError, match="one id for different pictures"):
        lines(pictures, [{"image_id": 1}, {"image_id": 1}], ["a.png", "b.png"])


def test_spellings_of_one_path_are_one_picture(pictures):
    (pictures / "sub").mkdir()
    names = ["0.png", "./0.png", "sub/../0.png", ".//0.png", ".\\0.png", "sub\\..\\0.png"]
    source = lines(pictures, [{}] * 6, names)
    assert {source[i].image_id for i in range(6)} == {"0.png"}
    assert {source[i].image for i in range(6)} == {pictures / "0.png"}


def test_a_path_has_one_name_though_nobody_looks_whether_it_is_there(pictures):
    (pictures / "sub").mkdir()
    files = PictureFiles(pictures)
    for image in ("sub/none.png", "./sub/none.png", "sub/./none.png", "sub//none.png", "sub\\none.png"):
        assert files.name(image) == "sub/none.png"
    (pictures / "sub" / "a.png").touch()
    assert files.name("sub/../sub/a.png") == "sub/a.png"
    assert files.name("a b/c...png") == "a b/c...png"


def test_links_to_one_file_are_one_picture(pictures):
    (pictures / "link.png").symlink_to("0.png")
    (pictures / "folder").symlink_to(".")
    os.link(pictures / "0.png", pictures / "hard.png")
    names = ["0.png", "link.png", "folder/0.png", "hard.png", "1.png"]
    source = pickle.loads(pickle.dumps(lines(pictures, [{}] * 5, names)))
    assert [source[i].image_id for i in range(5)] == ["0.png"] * 4 + ["1.png"]


def test_an_id_is_compared_as_it_was_given_and_one_fault_is_said_once(pictures, caplog):
    (pictures / "link.png").symlink_to("0.png")
    source = lines(pictures, [{}, {}, {"image_id": "link.png"}], ["0.png", "link.png", "1.png"])
    assert [source[i].image_id for i in range(3)] == ["0.png", "0.png", "link.png"]
    with pytest.raises(UserError, match="1 x one id for different pictures"):
        lines(pictures, [{"image_id": i} for i in (1, 1, 2)], ["0.png", "1.png", "1.png"])
    assert "several image_ids" not in caplog.text


def test_two_dots_behind_a_link_are_the_links_own_folder(pictures, tmp_path):
    (pictures / "real" / "deep").mkdir(parents=True)
    shutil.copy(pictures / "1.png", pictures / "real" / "0.png")
    (pictures / "link").symlink_to(pictures / "real" / "deep")
    source = lines(pictures, [{}], ["link/../0.png"])
    assert source[0].image.read_bytes() == (pictures / "1.png").read_bytes()


def test_a_name_with_a_backslash_that_is_there_is_taken_as_it_is(pictures):
    shutil.copy(pictures / "2.png", pictures / "a\\b.png")
    assert lines(pictures, [{}], ["a\\b.png"])[0].image == pictures / "a\\b.png"


def test_a_picture_with_several_ids_is_warned_of(pictures, caplog):
    source = lines(pictures, [{"image_id": i} for i in (1, 2, 3)], ["0.png", "./0.png", "1.png"])
    assert [source[i].image_id for i in range(3)] == ["1", "2", "3"]
    assert "several image_ids (1 times)" in caplog.text
    assert "./0.png is 1 in line 1, 2 in line 2" in caplog.text
    caplog.clear()
    lines(pictures, [{"image_id": i} for i in (1, 2)], ["0.png", str(pictures / "0.png")])
    assert "several image_ids (1 times)" in caplog.text
    caplog.clear()
    lines(pictures, [{"image_id": 1}, {"image_id": 1}, {}], ["0.png", "./0.png", "1.png"])
    (pictures / "link.png").symlink_to("0.png")
    lines(pictures, [{}, {}, {"image_id": "0.png"}], ["0.png", "link.png", "link.png"])  # of one file, by its one name
    assert not caplog.text


@pytest.mark.parametrize("image", ["https://a/b.png", "s3://bucket/a.png", "file:///a.png", "data:image/png;base64,xx"])
def test_addresses_are_named_in_whatever_row(pictures, monkeypatch, image):
    monkeypatch.setattr("mmkit.data.picture_files.CHECK_LIMIT", 1)
    with pytest.raises(UserError, match=r"b.jsonl:6: .*must be downloaded first"):
        lines(pictures, [{}] * 6, ["0.png"] * 5 + [image])


def test_of_long_files_some_pictures_are_looked_for(pictures, monkeypatch, caplog):
    monkeypatch.setattr("mmkit.data.picture_files.CHECK_LIMIT", 3)
    caplog.set_level("INFO")
    lines(pictures, [{}] * 20, ["0.png"] * 19 + ["none.png"])
    assert "every 4. of 20 rows only" in caplog.text
    with pytest.raises(UserError, match=r"b.jsonl:17: no picture"):
        lines(pictures, [{}] * 20, ["0.png"] * 16 + ["none.png"] + ["0.png"] * 3)
    caplog.clear()
    lines(pictures, [{}] * 5, ["0.png", "none.png", "0.png", "0.png", "0.png"])
    assert "every 2. of 5 rows only" in caplog.text
    with pytest.raises(UserError, match=r"b.jsonl:3: no picture"):
        lines(pictures, [{}] * 5, ["0.png", "0.png", "none.png", "0.png", "0.png"])


def test_a_folder_is_no_picture(pictures):
    (pictures / "sub").mkdir()
    with pytest.raises(UserError, match=r"no picture .*sub \(a folder\)"):
        lines(pictures, [{}], ["sub"])


def test_several_finds_each_further_value_once():
    assert several([5, 5, 7, 5, 7, 5], [1, 2, 3, 1, 3, 9]) == [(1, 3), (1, 5)]
    assert several([9, 9, 1, 1, 9], [2, 1, 4, 3, 0]) == [(0, 1), (1, 4), (2, 3)]  # by row
    assert several([], []) == []
    files = PictureFiles("x")
    assert len(files) == 0
    files.note("a.png", "1")
    assert [len(found) for found in files.hashes()] == [1, 1]
    assert len(pickle.loads(pickle.dumps(files))) == 0  # hashes are of this process alone


def test_keys_may_be_called_otherwise_and_null_is_absent(pictures):
    row = {"file_name": "0.png", "text": "a dog", "caption": "other", "label": None, "n": float("nan"), "k": 0}
    (pictures / "c.jsonl").write_text(json.dumps(row))
    record = JsonLines(pictures / "c.jsonl", columns={"image": "file_name", "caption": "text"})[0]
    assert (record.image, record.captions, record.targets) == (pictures / "0.png", ("a dog",), {"k": 0})
    with pytest.raises(UserError, match=r'no key "path"; the line has "file_name"'):
        JsonLines(pictures / "c.jsonl", columns={"image": "path"})
    with pytest.raises(UserError, match=r'c.jsonl:1: "label" is null'):
        JsonLines(pictures / "c.jsonl", columns={"image": "file_name"}, needs=("label",))


def test_joined_sources_have_no_record_before_the_first(pictures):
    source = Joined([JsonLines(pictures / "a.jsonl")])
    for index in (-1, 6):
        with pytest.raises(IndexError):
            source[index]


@pytest.mark.parametrize(("there", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_picture_whose_accents_are_spelled_otherwise_is_pointed_to(pictures, there, named):
    name = "café.png"
    (pictures / "0.png").rename(pictures / unicodedata.normalize(there, name))
    rows = [{"image": unicodedata.normalize(named, name), "caption": "a"}, {"image": "gone.png", "caption": "b"}]
    write(pictures / "a.jsonl", rows)
    with pytest.raises(UserError) as error:
        JsonLines(pictures / "a.jsonl")
    first, second = str(error.value).splitlines()[1:3]
    assert first.endswith(f"one whose accents are spelled otherwise is there ({there} of Unicode): rename it")
    assert second.endswith("gone.png")
