"""A file appears whole or not at all, and a folder goes away whole or not at all."""

import json
import os
import socket
import stat

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from mmkit import files
from mmkit.errors import UserError
from mmkit.files import (
    beside,
    check_new_folder,
    check_writable,
    inside,
    read_json,
    remove_folder,
    replace_folder,
    save_picture,
    to_disk,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
    writing,
)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with writing(path) as file:
        file.write("ne")
        file.flush()
        assert path.read_text() == "old"
        (other,) = set(names(tmp_path)) - {"notes.txt"}
        assert other.startswith(".")
        file.write("w é")
    assert path.read_bytes() == "new é".encode()
    assert names(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "notes.txt"
    path.write_text("old")

    def stopped():
        with writing(path) as file:
            file.write("new")
            raise error

    with pytest.raises(type(error)):
        stopped()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["notes.txt"]


def test_two_writers_do_not_share_a_part(tmp_path):
    path = tmp_path / "notes.txt"
    with writing(path) as one, writing(path) as two:
        one.write("one")
        two.write("two")
    assert path.read_text() == "one"  # the outer block ends last
    assert names(tmp_path) == ["notes.txt"]


def test_bytes_and_line_ends_are_kept(tmp_path):
    with writing(tmp_path / "b", "wb") as file:
        file.write(b"\x00\r\n")
    with writing(tmp_path / "t", newline="") as file:
        file.write("a\r\nb\n")
    with writing(tmp_path / "n", newline="\r\n") as file:
        file.write("a\nb\n")
    assert (tmp_path / "b").read_bytes() == b"\x00\r\n"
    assert (tmp_path / "n").read_bytes() == b"a\r\nb\r\n"
    assert (tmp_path / "t").read_bytes() == b"a\r\nb\n"


def test_it_has_reached_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append((tmp_path / "x.json").exists()), real(handle)))
    write_json(tmp_path / "x.json", {})
    assert seen == [False, True]  # the file, then the folder's names


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_bytes_that_are_there_are_not_written_again(tmp_path):
    """A file of other bytes, of more or of less is replaced; what is no plain file is not read."""
    path = tmp_path / "a" / "x"
    path.parent.mkdir()
    for data, again in ((b"one", False), (b"one", True), (b"two", False), (b"tw", False), (b"two", False)):
        before = path.stat().st_ino if path.exists() else None
        write_bytes(path, data)
        assert path.read_bytes() == data
        assert (path.stat().st_ino == before) == again
    assert [file.name for file in path.parent.iterdir()] == ["x"]
    write_bytes("/dev/null", b"x")


def test_permissions_are_those_of_a_plain_open(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    write_text(tmp_path / "new", "y")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    write_tensors(tmp_path / "new", {"a": torch.arange(3)})
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    (tmp_path / "plain").touch()
    write_tensors(tmp_path / "weights", {"a": torch.arange(3)})
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_write_protected_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)  # root may write everything
    with pytest.raises(UserError, match=r"x: cannot be written \(it is there, and write-protected\)"):
        write_text(path, "new")
    assert path.read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "file")
    write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "new"
    assert names(tmp_path / "there") == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="no named pipes there")
def test_what_is_no_plain_file_is_written_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with beside(tmp_path / "pipe") as part:
        assert part == tmp_path / "pipe"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no sockets that have a name")
def test_what_is_no_plain_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # its name may not be long
    with socket.socket(socket.AF_UNIX) as open_one:
        open_one.bind("x.json")
        with pytest.raises(UserError, match=r"x\.json: damaged or missing \(not a file\)"):
            read_json("x.json")


def test_no_file_stays_open(tmp_path, monkeypatch):
    handles, real = [], os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: (handles.append(real(*a, **k)), handles[-1])[1])
    write_text(tmp_path / "x", "x")
    remove_folder(tmp_path / "none")
    assert len(handles) == 3  # to make it, to wait for it, to wait for its name
    for handle in set(handles):
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(handle)


def test_a_folder_that_cannot_be_waited_for_is_no_error_and_a_file_is(tmp_path, monkeypatch):
    def of(kind):
        def fsync(handle):
            if kind(os.fstat(handle).st_mode):
                raise OSError(22, "Invalid argument")

        return fsync

    monkeypatch.setattr(os, "fsync", of(stat.S_ISDIR))
    write_text(tmp_path / "x", "new")
    to_disk(tmp_path)
    monkeypatch.setattr(os, "fsync", of(stat.S_ISREG))
    with pytest.raises(UserError, match=r"x: cannot be written \(Invalid argument\)"):
        write_text(tmp_path / "x", "newer")
    assert (tmp_path / "x").read_text() == "new"


@pytest.mark.parametrize(("name", "says"), [
    ("folder", "--json x: is a folder; name a file in it"),
    ("file/x", r"--json x: cannot be written \(.*file is a file, not a folder\)"),
    ("new/deep/x", None),
    ("file", None),
])  # fmt: skip
def test_whether_a_file_can_be_written_is_known_before_any_work(tmp_path, name, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    if says is None:
        check_writable(tmp_path / name, "--json x")
    else:
        with pytest.raises(UserError, match=says):
            check_writable(tmp_path / name, "--json x")
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_place_without_permission_is_known_before_any_work(tmp_path, monkeypatch):
    def denied(dir):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(files.tempfile, "TemporaryFile", denied)
    with pytest.raises(UserError, match=rf"o: cannot be written \({tmp_path}: Permission denied\)"):
        check_writable(tmp_path / "new" / "x", "o")
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)  # root may write everything
    with pytest.raises(UserError, match=r"o: cannot be written \(no permission for .*file\)"):
        check_writable(tmp_path / "file", "o")


def test_folders_above_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c", "x")
    assert (tmp_path / "a" / "b" / "c").read_text() == "x"


def test_a_long_name_has_room_for_its_part(tmp_path):
    write_text(tmp_path / ("é" * 120), "x")
    assert (tmp_path / ("é" * 120)).read_text() == "x"


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match=r"x\.json: cannot be written \(.*file: .+\)"):
        write_json(tmp_path / "file" / "x.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder: cannot be written \(is a folder; name a file in it\)"):
        write_json(tmp_path / "folder", {})
    assert names(tmp_path) == ["file", "folder"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    def full():
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(UserError, match=r"x\.bin: cannot be written \(No space left on device\)"),
        writing(tmp_path / "x.bin", "wb"),
    ):
        full()
    assert names(tmp_path) == []


def test_an_error_about_another_file_is_not_put_on_this_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="picture"), writing(tmp_path / "out"):
        (tmp_path / "picture.png").read_bytes()
    assert names(tmp_path) == []


def test_tensors_are_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(3)}, {"about": "x"})
    assert load_file(path)["a"].tolist() == [0, 1, 2]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"about": "x"}
    with pytest.raises(UserError, match=r"x\.safetensors: cannot be written"):
        write_tensors(path, {"a": torch.arange(4)}, {"about": "x" * 110_000_000})  # more than a header may hold
    assert load_file(path)["a"].tolist() == [0, 1, 2]
    assert names(tmp_path) == ["x.safetensors"]
    with beside(path) as part:
        assert part.parent == tmp_path
        assert part.read_bytes() == b""


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "damaged or missing"), ("[]", "expected a JSON object"), ("[" * 100_000, "damaged or missing")],
)
def test_damaged_json_is_named(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=rf"x\.json: {message}.*; write it again"):
        read_json(tmp_path / "x.json", "write it again")
    with pytest.raises(UserError, match=r"none\.json: damaged or missing"):
        read_json(tmp_path / "none.json")


def test_json_comes_back_with_and_without_a_mark_of_its_encoding(tmp_path):
    write_json(tmp_path / "x.json", {"é": [1]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n "é": [\n  1\n ]\n}\n'
    assert read_json(tmp_path / "x.json") == {"é": [1]}
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "x.json") == {"a": 1}


def deep(levels):
    return '{"a": ' * (levels - 1) + "[]" + "}" * (levels - 1)


def test_what_may_be_a_strangers_is_read_within_bounds(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    monkeypatch.setattr(files, "LARGEST", 2000)
    for text, says in (
        (deep(100), None), (deep(101), "nested more than 100 levels deep"), ('{"a": NaN}', "NaN is no number of JSON"),
        ('{"a": -Infinity}', "-Infinity is no number"), ('{"a": "' + "x" * 1991 + '"}', None),
        ('{"a": "' + "x" * 1992 + '"}', "2,001 bytes, and no more than 2,000 are read"),
    ):  # fmt: skip
        path.write_text(text)
        assert list(read_json(path)) == ["a"]
        if says is None:
            assert list(read_json(path, strict=True)) == ["a"]
            continue
        with pytest.raises(UserError, match=rf"x\.json: damaged or missing \({says}"):
            read_json(path, strict=True)


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_what_a_folder_names_is_inside_it(tmp_path):
    """Links that stay inside are right, also where the folder is reached by a link; the hub's cache has its blobs."""
    model = tmp_path / "models--a--b" / "snapshots" / "1"
    for name in ("blobs/1", "refs/main", "snapshots/1/config.json", "snapshots/1/deep/x", "snapshots/2/x"):
        write_text(tmp_path / "models--a--b" / name, "x")
    for name, there in (("blob", "../../blobs/1"), ("ref", "../../refs/main"), ("next", "../2/x"), ("own", "deep/x")):
        (model / name).symlink_to(there)
    (tmp_path / "link").symlink_to(model)
    for folder in (model, tmp_path / "link"):
        for name in ("config.json", "deep/x", "deep/../config.json", "own", "blob", "none"):
            assert inside(folder, name) == folder / name
        for name in ("ref", "next", "../2/x", "../../blobs/../refs/main", "/etc/passwd", "..", "../1x/y"):
            with pytest.raises(UserError, match="leads out of its folder"):
                inside(folder, name)
    plain = tmp_path / "plain" / "snapshots" / "1"
    write_text(tmp_path / "plain" / "blobs" / "1", "x")
    plain.mkdir(parents=True)
    (plain / "blob").symlink_to("../../blobs/1")
    with pytest.raises(UserError, match=rf"leads out of its folder, to {tmp_path / 'plain' / 'blobs' / '1'}; copy"):
        inside(plain, "blob")


def test_a_removal_that_is_killed_leaves_no_half_folder(tmp_path, monkeypatch):
    folder = tmp_path / "step-1"
    folder.mkdir()
    (folder / "a").write_text("a")

    def killed(path):
        assert not folder.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(files.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(folder)
    assert not folder.exists()
    assert all(name.startswith(".") for name in names(tmp_path))
    monkeypatch.undo()
    folder.mkdir()
    (folder / "a").write_text("a")
    remove_folder(folder)
    remove_folder(folder)  # nothing there is no error
    assert not folder.exists()


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    for name in ("new", "old"):
        write_text(tmp_path / name / name, name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == ["new"]


def test_a_folder_is_there_whole_until_the_new_one_has_reached_the_disk(tmp_path, monkeypatch):
    """Whenever the process is killed: the new one by its name, or the one before under a hidden name."""
    for name in ("new", "place"):
        write_text(tmp_path / name / name, name)
    seen, real = [], files.shutil.rmtree
    monkeypatch.setattr(files, "to_disk", lambda path: seen.append((path, names(tmp_path))))
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, **k: (seen.append((path, names(path))), real(path, **k)))
    replace_folder(tmp_path / "new", tmp_path / "place")
    (path, there), (gone, inside_it) = seen
    assert path == tmp_path
    assert there == [gone.name, "place"]
    assert inside_it == ["place"]
    assert gone.name.startswith(".place.")
    assert names(tmp_path) == ["place"]


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")])
def test_a_picture_is_of_the_kind_that_its_name_says(tmp_path, name, kind):
    save_picture(Image.new("RGB", (4, 4)), tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == kind
    assert names(tmp_path) == [name]


def test_a_picture_that_cannot_be_written_leaves_what_was_there(tmp_path):
    for name in ("a.txt", "a", "a.xyz", "a.psd"):
        with pytest.raises(UserError, match=f"{name}: no kind of picture; give a name that ends in .png"):
            save_picture(Image.new("RGB", (4, 4)), tmp_path / name)
    (tmp_path / "a.jpg").write_text("old")
    with pytest.raises(UserError, match=r"a\.jpg: cannot be written"):
        save_picture(Image.new("RGBA", (4, 4)), tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").read_text() == "old"
    assert names(tmp_path) == ["a.jpg"]


def test_a_new_folder_is_not_there_or_empty(tmp_path):
    check_new_folder(tmp_path / "new")
    check_new_folder(tmp_path)
    (tmp_path / ".file").touch()
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        check_new_folder(tmp_path)
    with pytest.raises(UserError, match="is a file; name a new folder"):
        check_new_folder(tmp_path / ".file")
    with pytest.raises(UserError, match=r"new: cannot be written \(.*\.file is a file, not a folder\)"):
        check_new_folder(tmp_path / ".file" / "new")


def test_odd_bytes_of_a_name_are_written_as_escapes(tmp_path):
    """They read as half characters, which no text file can hold; in JSON the escape reads back as the name."""
    write_text(tmp_path / "a.txt", "\udcff.png é")
    assert (tmp_path / "a.txt").read_bytes() == "\\udcff.png é".encode()
    write_json(tmp_path / "a.json", {"name": "\udcff.png"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"name": "\udcff.png"}
