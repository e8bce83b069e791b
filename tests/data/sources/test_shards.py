"""Tar shards: the index, reading at random, and every way in which shards can be wrong."""

import io
import json
import os
import pickle
import tarfile
import threading

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mmkit.cli.main import main
from mmkit.data import storage
from mmkit.data.images.opening import load_image
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.records import captions_of, described
from mmkit.data.sources import index
from mmkit.data.sources.index import INDEX, PARTS, Index, Part, build_index, shard_of, write_index
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import open_records, open_source
from mmkit.data.sources.samples import schema
from mmkit.data.sources.shards import Shards
from mmkit.errors import UserError


def jpeg(number):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 20 % 256, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def pack(path, files, **options):
    """Write (name, bytes) in order; options: of ``tarfile.open``."""
    with tarfile.open(path, "w", **options) as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def sample(number):
    """As img2dataset writes it."""
    about = json.dumps({"caption": f"other {number}", "width": 16}).encode()
    key = f"{number:09d}"
    return [(f"{key}.jpg", jpeg(number)), (f"{key}.json", about), (f"{key}.txt", f"picture {number}".encode())]


@pytest.fixture
def shards(tmp_path):
    """Two shards of four samples, and one of two below."""
    (tmp_path / "more").mkdir()
    for name, first, n in (("00000.tar", 0, 4), ("00001.tar", 4, 4), ("more/00002.tar", 8, 2)):
        pack(tmp_path / name, [file for number in range(first, first + n) for file in sample(number)])
    (tmp_path / "00000.parquet").write_bytes(b"img2dataset's table")
    (tmp_path / "00000_stats.json").write_bytes(b"{}")
    return tmp_path


def told(folder):
    """What is said of shards that cannot be indexed."""
    with pytest.raises(UserError) as error:
        build_index(folder)
    assert not (folder / INDEX).exists()
    return str(error.value)


def test_records_are_read_at_random(shards):
    assert build_index(shards) == {"shards": 3, "records": 10, "read": 3}
    source = Shards(shards)
    assert len(source) == 10
    for number in (9, 0, 4, 3, 7, 8):
        record = source[number]
        assert record.image == jpeg(number)
        assert record.captions == (f"picture {number}",)
        assert load_image(record).size == (16, 16)
    assert source[4].image_id == f"{shards}/00001.tar:000000004"
    assert source[9].key.startswith(f"{shards}/more/00002.tar:")
    start = int(source[5].key.partition(".tar:")[2].split()[0])
    assert (shards / "00001.tar").read_bytes()[start : start + 3] == b"\xff\xd8\xff"
    assert list(captions_of(source)) == [f"picture {number}" for number in range(10)]
    assert list(described(source)) == [(r.key, r.image_id, r.captions) for r in (source[i] for i in range(10))]
    with pytest.raises(IndexError):
        source[10]
    assert not (shards / PARTS).exists()


def test_every_command_finds_them(shards, tmp_path, capsys):
    assert main(["data", "check", str(shards)]) == 2
    assert f"tar shards without an index; make it, once: mmkit data index {shards}" in capsys.readouterr().err
    assert main(["data", "index", str(shards), "--workers", "1", "--json", str(tmp_path / "n")]) == 0
    assert json.loads((tmp_path / "n").read_text()) == {"shards": 3, "records": 10, "read": 3}
    assert main(["data", "check", str(shards), "--json", str(tmp_path / "n")]) == 0
    assert json.loads((tmp_path / "n").read_text())["records"] == 10
    assert isinstance(open_source(shards, {"caption"}), Shards)
    assert isinstance(open_source(shards), Shards)
    assert isinstance(open_records(shards), Shards)
    with pytest.raises(UserError, match="10 x missing label"):
        open_source(shards, {"label"})
    (shards / "more" / "00002.tar").write_bytes(b"")
    assert main(["data", "check", str(shards)]) == 2
    assert "00002.tar: was changed after its index" in capsys.readouterr().err
    assert main(["data", "index", str(shards), "--workers", "0"]) == 2
    assert "workers = 0" in capsys.readouterr().err


def test_one_process_or_several_make_one_index(shards):
    build_index(shards)
    alone = (shards / INDEX).read_bytes()
    (shards / INDEX).unlink()
    assert build_index(shards, workers=2)["read"] == 3
    assert (shards / INDEX).read_bytes() == alone


def test_what_was_read_is_not_read_again(shards, monkeypatch):
    whole, seen = index.scan, []

    def stopping(place, name, stamp):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(name)
        return whole(place, name, stamp)

    monkeypatch.setattr(index, "scan", stopping)
    with pytest.raises(KeyboardInterrupt):
        build_index(shards)
    assert not (shards / INDEX).exists()
    monkeypatch.setattr(index, "scan", whole)
    counts = []
    assert build_index(shards, progress=lambda *at: counts.append(at))["read"] == 1
    assert counts == [(1, 1)]
    assert build_index(shards)["read"] == 0
    pack(shards / "00001.tar", sample(77))
    pack(shards / "00003.tar", sample(78))
    (shards / "00000.tar").unlink()
    assert build_index(shards) == {"shards": 3, "records": 4, "read": 2}
    assert list(captions_of(Shards(shards))) == ["picture 77", "picture 78", "picture 8", "picture 9"]


def test_of_two_that_make_the_index_at_once_one_reads_and_the_other_waits(shards, monkeypatch, caplog):
    whole, seen, begun, found = index.scan, [], threading.Event(), []

    def slow(place, name, stamp):
        seen.append(name)
        begun.set()
        second.join(0.2)
        return whole(place, name, stamp)

    caplog.set_level("INFO", "mmkit")
    monkeypatch.setattr(index, "scan", slow)
    second = threading.Thread(target=lambda: begun.wait() and found.append(build_index(shards)))
    second.start()
    assert build_index(shards) == {"shards": 3, "records": 10, "read": 3}
    second.join()
    assert found == [{"shards": 3, "records": 10, "read": 0}]
    assert len(seen) == 3
    assert "another process makes its index; waiting for it" in caplog.text
    assert not (shards / PARTS).exists()


def test_workers_and_ranks_read_the_same(shards, tokenizer):
    build_index(shards)
    data = PairDataset(source=Shards(shards), transform=TrainTransform(size=16), tokenizer=tokenizer, max_tokens=8)
    plan = dict(rank_batch=2, steps=3, seed=1)
    one, two = (list(make_loader(data, StepSampler(10, **plan), workers=workers)) for workers in (0, 2))
    assert [b.keys for b in one] == [b.keys for b in two]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(one, two, strict=True))


def test_a_copy_in_another_process_maps_the_index_anew(shards):
    build_index(shards)
    source = Shards(shards)
    assert len(pickle.dumps(source)) < 1_000
    told = pickle.dumps(source)
    assert pickle.loads(told)[9].captions == ("picture 9",)
    os.utime(shards / "00001.tar", ns=(1, 1))
    build_index(shards)
    with pytest.raises(UserError, match="the index was made anew while it was in use"):
        pickle.loads(told)  # rows of other numbers


def test_more_shards_than_files_may_be_open(shards, monkeypatch):
    monkeypatch.setattr(storage, "OPEN", 1)
    build_index(shards)
    source = Shards(shards)
    assert [source[i].image for i in (0, 5, 9, 1, 6)] == [jpeg(i) for i in (0, 5, 9, 1, 6)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_form_of_tar(form, tmp_path):
    long = "d" * 90 + "/" + "e" * (60 if form == tarfile.USTAR_FORMAT else 120)
    pack(tmp_path / "0.tar", [*sample(1), (f"{long}.jpg", jpeg(2)), (f"{long}.txt", b"two"), *sample(3)], format=form)
    build_index(tmp_path)
    source = Shards(tmp_path)
    assert [source[i].image for i in range(3)] == [jpeg(1), jpeg(2), jpeg(3)]
    assert source[1].image_id == f"{tmp_path}/0.tar:{long}"


def test_names_that_are_not_ascii_and_files_of_no_concern(tmp_path):
    files = [
        ("猫/a.seg.png", b"x"), ("猫/a.JPG", jpeg(1)), ("猫/a.txt", "eine Katze\n\n 一只猫 \n".encode()),
        ("猫/._a.txt", b"\xff"), ("猫/a.cls", b"3"),
    ]  # fmt: skip
    pack(tmp_path / "0.tar", files)
    build_index(tmp_path)
    [record] = [Shards(tmp_path)[0]]
    assert (record.captions, record.image_id, record.image) == (
        ("eine Katze", "一只猫"),
        f"{tmp_path}/0.tar:猫/a",
        jpeg(1),
    )
    assert record.targets == {"label": 3}


@pytest.mark.parametrize(
    ("about", "captions"),
    [({"caption": "a"}, ("a",)), ({"caption": ["a", "b "]}, ("a", "b")), ({"caption": None}, ()), ({}, ())],
)
def test_captions_from_json(tmp_path, about, captions):
    pack(tmp_path / "0.tar", [("1.jpg", jpeg(1)), ("1.json", json.dumps(about).encode())])
    build_index(tmp_path)
    assert Shards(tmp_path, needs=())[0].captions == captions


def test_targets_stand_beside_captions(tmp_path):
    """All that .json says but what img2dataset notes; labels of .cls too."""
    noted = {"url": "u", "key": "1", "status": "success", "sha256": "x", "exif": "{}", "original_width": 9, "width": 16}
    boxes = [{"name": "a", "box": [0, 0, 1, 1]}]
    rows = [
        [("1.jpg", jpeg(1)), ("1.json", json.dumps({"boxes": boxes, "caption": "a", "n": None} | noted).encode())],
        [("2.jpg", jpeg(2)), ("2.cls", b"3\n"), ("2.json", b'{"similarity": 0.5, "image_id": 7.0}')],
        [("3.jpg", jpeg(3)), ("3.cls", "Ähre".encode()), ("3.json", b'{"image_id": "7"}')],
    ]
    pack(tmp_path / "0.tar", [file for row in rows for file in row])
    build_index(tmp_path)
    source = Shards(tmp_path, needs=())
    wanted = [{"boxes": boxes}, {"similarity": 0.5, "label": 3}, {"label": "Ähre"}]
    assert [source[i].targets for i in range(3)] == wanted
    assert list(source.target("label")) == [None, 3, "Ähre"]
    assert [source[i].image_id for i in range(3)] == [f"{tmp_path}/0.tar:1", f"{tmp_path}:7", f"{tmp_path}:7"]
    assert [image_id for _, image_id, _ in described(source)] == [source[i].image_id for i in range(3)]
    start = (tmp_path / "0.tar").read_bytes().index(jpeg(1))
    with pytest.raises(UserError, match=rf"1 of 3 samples .*\n.*:0.tar:{start}: 1: neither a .cls beside it"):
        open_source(tmp_path, {"label"})
    with pytest.raises(UserError, match=r"3 x missing question"):
        open_source(tmp_path, {"question"})


def test_questions_in_shards(tmp_path):
    for shard in range(2):
        said = [{"question": f"what {shard}{n}?", "answers": ["a", f"b{n}"], "caption": "c"} for n in range(2)]
        files = [[(f"{n}.jpg", jpeg(n)), (f"{n}.json", json.dumps(said[n]).encode())] for n in range(2)]
        pack(tmp_path / f"{shard}.tar", [file for row in files for file in row])
    build_index(tmp_path)
    source = open_source(tmp_path, {"question"})
    assert list(source.captions()) == ["what 00?", "what 01?", "what 10?", "what 11?"]
    assert source[3].targets["answers"] == ["a", "b1"]
    pack(tmp_path / "1.tar", [("1.jpg", jpeg(1)), ("1.json", b'{"question": "what?"}')])
    build_index(tmp_path)
    with pytest.raises(UserError, match=r':2: no key "answers"; the row has "image", "question"'):
        open_source(tmp_path, {"question"})
    assert len(open_source(tmp_path, {"question"}, answers_needed=False)) == 3


def test_small_pictures_and_silent_ones_are_left_out(tmp_path):
    sides = [(16, 9), (300, 256), (256, 255), (256, 256), (1000, 400)]
    for shard, numbers in enumerate(([0, 1, 2], [3, 4])):
        files = []
        for n in numbers:
            said = {"width": sides[n][0], "height": sides[n][1]} | ({"caption": f"c{n}"} if n != 3 else {})
            files += [(f"{n}.jpg", jpeg(n)), (f"{n}.json", json.dumps(said).encode())]
        pack(tmp_path / f"{shard}.tar", files)
    build_index(tmp_path)
    large = Shards(tmp_path, min_size=256, needs=())
    assert [r.image for r in map(large.__getitem__, range(len(large)))] == [jpeg(1), jpeg(3), jpeg(4)]
    assert list(large.captions()) == ["c1", "c4"]
    assert [key for key, _, _ in described(large)] == [large[i].key for i in range(3)]
    with pytest.raises(IndexError):
        large[3]
    with pytest.raises(UserError, match="1 of 3 samples cannot be used"):
        Shards(tmp_path, min_size=256)
    assert len(Shards(tmp_path, captioned=True)) == 4
    both = pickle.loads(pickle.dumps(Shards(tmp_path, min_size=256, captioned=True)))
    assert [both[i].captions for i in range(len(both))] == [("c1",), ("c4",)]
    with pytest.raises(UserError, match="all samples are left out"):
        Shards(tmp_path, min_size=401)
    pack(tmp_path / "2.tar", [*sample(5), ("6.jpg", jpeg(6)), ("6.txt", b"six")])
    build_index(tmp_path)
    with pytest.raises(UserError, match=r"2.tar:512 \(000000005\): no width and height in its .json"):
        Shards(tmp_path, min_size=1)


def test_shards_of_one_name_in_two_folders_are_of_different_pictures(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        pack(tmp_path / name / "00000.tar", sample(1))
        build_index(tmp_path / name)
    both = Joined([Shards(tmp_path / "a"), Shards(tmp_path / "b")])
    assert both[0].image_id != both[1].image_id
    assert [image_id for _, image_id, _ in described(both)] == [both[i].image_id for i in range(2)]


def test_check_counts_a_sample_without_a_caption_among_others(tmp_path, capsys):
    pack(tmp_path / "0.tar", [*sample(1), ("2.jpg", jpeg(2)), *sample(3)])
    build_index(tmp_path)
    assert main(["data", "check", str(tmp_path)]) == 2
    start = (tmp_path / "0.tar").read_bytes().index(jpeg(2))
    assert f"0.tar:{start}: 2: neither a .txt" in capsys.readouterr().err
    pack(tmp_path / "0.tar", [("2.jpg", jpeg(2)), ("3.jpg", jpeg(3))])
    build_index(tmp_path)
    assert main(["data", "check", str(tmp_path)]) == 0  # of pictures alone


def test_a_missing_caption_is_named_with_shard_and_byte(tmp_path):
    pack(tmp_path / "0.tar", [*sample(1), ("2.jpg", jpeg(2)), ("2.txt", b" \n"), ("3.jpg", jpeg(3))])
    build_index(tmp_path)
    assert [len(Shards(tmp_path, needs=())[i].captions) for i in range(3)] == [1, 0, 0]
    starts = [(tmp_path / "0.tar").read_bytes().index(jpeg(n)) for n in (2, 3)]
    with pytest.raises(UserError, match=r"2 of 3 samples cannot be used \(2 x missing caption\)") as error:
        open_source(tmp_path, {"caption"})
    for number, start in zip((2, 3), starts, strict=True):
        assert f":0.tar:{start}: {number}: neither a .txt with words" in str(error.value)


@pytest.mark.parametrize(
    ("files", "at", "said"),
    [
        ([*sample(1), ("000000001.jpg", jpeg(1))], 4, "repeated key"),
        ([*sample(1), *sample(2), *sample(1)], 7, "repeated key"),
        ([("1.jpg", jpeg(1)), ("2.jpg", jpeg(2)), ("1.txt", b"a")], 3, "the files of a sample stand one behind the"),
        ([*sample(1), ("000000001.txt", b"again")], 4, "000000001.txt: the sample has such a file already"),
        ([*sample(1), ("2.txt", b"alone")], 4, "2: a sample without a picture; it has .txt"),
        (
            [*sample(1), ("2.jpg", jpeg(2)), ("2.txt", b"a\xff")],
            4,
            "2: the .txt is not UTF-8 (byte 0xff, byte 2 of it)",
        ),
        ([*sample(1), ("2.jpg", jpeg(2)), ("2.json", b"{")], 4, "2: malformed JSON"),
        ([*sample(1), ("2.jpg", jpeg(2)), ("2.json", b"[]")], 4, "2: the .json is no object"),
        ([*sample(1), ("2.jpg", jpeg(2)), ("2.json", b'{"caption": 3}')], 4, '2: "caption" must be a string'),
        (
            [*sample(1), ("2.jpg", jpeg(2)), ("2.json", b'{"image_id": []}')],
            4,
            '2: "image_id" must be a string or a nu',
        ),
        ([*sample(1), ("2.jpg", jpeg(2)), ("2.cls", b" ")], 4, "2: the .cls is empty"),
        ([*sample(1), ("2.jpg", jpeg(2)), ("2.cls", b"\xff")], 4, "2: the .cls is not UTF-8"),
        ([*sample(1), ("2.jpg", jpeg(2)), ("2.cls", b"2"), ("2.json", b'{"label": 3}')], 4, 'says 2, and "label" in'),
        ([*sample(1), ("000000001.png", jpeg(1))], 4, "has another picture (000000001.jpg); keep one"),
    ],
)
def test_wrong_samples_are_named_with_shard_and_byte(tmp_path, files, at, said):
    pack(tmp_path / "0.tar", files)
    pack(tmp_path / "1.tar", sample(5))
    with tarfile.open(tmp_path / "0.tar") as archive:
        byte = archive.getmembers()[min(at, len(files)) - 1].offset
    message = told(tmp_path)
    assert f":0.tar:{byte}: " in message
    assert said in message
    values = any(word in said for word in (".cls", "JSON", ".json", "image_id", '"label"'))
    words = any(word in said for word in ('"caption"', ".txt is not"))
    assert ("1 x bad values" in message, "1 x bad caption" in message) == (values, words)
    assert (tmp_path / PARTS / "1.tar").is_file()  # which is not read again


def test_samples_with_which_something_is_wrong_can_be_left_out(tmp_path, capsys):
    files = [
        *sample(1), ("2.jpg", jpeg(2)), ("2.txt", b"\xff"), ("3.jpg", jpeg(3)), ("3.png", jpeg(3)), ("4.txt", b"a"),
        *sample(5), *sample(1), *sample(6),
    ]  # fmt: skip
    pack(tmp_path / "0.tar", files)
    pack(tmp_path / "1.tar", sample(7))
    assert main(["data", "index", str(tmp_path), "--workers", "1"]) == 2
    capsys.readouterr()
    call = ["data", "index", str(tmp_path), "--workers", "1", "--leave-out", "--json", str(tmp_path / "n")]
    assert main(call) == 0
    assert json.loads((tmp_path / "n").read_text()) == {"shards": 2, "records": 4, "read": 1}
    said = capsys.readouterr().err
    assert "samples are left out (1 x bad caption, 1 x several pictures, 1 x no picture, 1 x repeated key)" in said
    assert ":0.tar:" in said
    source = Shards(tmp_path)
    assert "its index leaves samples out, in which 4 things were wrong" in capsys.readouterr().err
    assert [source[i].image for i in range(4)] == [jpeg(1), jpeg(5), jpeg(6), jpeg(7)]
    assert build_index(tmp_path, leave_out=True)["read"] == 0
    with pytest.raises(UserError, match=r"4 of 7 samples cannot be used \(1 x bad caption"):
        build_index(tmp_path)  # which reads that shard again
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:9_000])
    with pytest.raises(UserError, match=r"(?s)1 x damaged shard.*again.*folder; --leave-out leaves out samples"):
        build_index(tmp_path, leave_out=True)
    (tmp_path / "a.jsonl").write_text("{}")
    assert main(["data", "index", str(tmp_path / "a.jsonl"), "--leave-out"]) == 2
    assert "--leave-out: has no meaning" in capsys.readouterr().err


def test_a_torn_shard_is_named_with_its_byte(tmp_path):
    """Wherever it was cut, between two files too."""
    pack(tmp_path / "0.tar", [file for number in range(3) for file in sample(number)])
    whole = (tmp_path / "0.tar").read_bytes()
    with tarfile.open(tmp_path / "0.tar") as archive:
        end = archive.getmembers()[-1].offset_data + 512
    for size in (1, 511, 512, 700, 3_000, end - 512, end - 100, end):
        (tmp_path / "0.tar").write_bytes(whole[:size])
        message = told(tmp_path)
        assert "1 x damaged shard" in message
        assert message.endswith("Fetch or write damaged shards again, or take them out of the folder.")
        assert "cut off: " in message
        assert f"ends at {size}" in message or f"ends at byte {size}" in message
    (tmp_path / "0.tar").write_bytes(whole[: end + 512])
    assert build_index(tmp_path)["records"] == 3


def test_what_is_no_tar_and_two_in_one_file_are_named(tmp_path):
    pack(tmp_path / "0.tar", sample(1))
    whole = (tmp_path / "0.tar").read_bytes()
    for damaged, said in (
        (whole + whole, f":0.tar:{whole.rstrip(bytes(1)).__len__() // 512 * 512 + 1024}: something follows"),
        (b"\x1f\x8b" + whole[2:], ":0.tar:0: no header of a tar archive; damaged, or compressed"),
        (whole[:512] + b"\xff" * 5 + whole[517:1024] + b"x" + whole[1025:], None),
        (whole[:124] + b"-" + whole[125:], ":0.tar:0: no header"),
    ):
        (tmp_path / "0.tar").write_bytes(damaged)
        if said is not None:
            assert said.rpartition(":")[2] in told(tmp_path)
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert ":0.tar:0: a.jpg: a link or something else" in told(tmp_path)


def test_shards_that_changed_came_or_went_are_named(shards):
    build_index(shards)
    source = Shards(shards)
    assert source[5].captions
    pack(shards / "00001.tar", [file for number in range(4, 9) for file in sample(number)])
    with pytest.raises(UserError, match=r"00001.tar: was changed after its index; make it again: mmkit data index"):
        Shards(shards)
    with pytest.raises(UserError, match=r"00001.tar: was changed while it was in use"):
        source[5]
    build_index(shards)
    pack(shards / "00009.tar", sample(9))
    with pytest.raises(UserError, match=r"00009.tar: is not in the index; make the index again"):
        Shards(shards)
    (shards / "00009.tar").unlink()
    (shards / "00000.tar").unlink()
    with pytest.raises(UserError, match=r"00000.tar: is gone; make the index again"):
        Shards(shards)


def test_a_damaged_index_is_named_and_made_again(shards):
    build_index(shards)
    whole = (shards / INDEX).read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"x" * 2_000, whole.replace(b"shards 3", b"shards 2")):
        (shards / INDEX).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{INDEX}: damaged, or of another version .*build it again"):
            Shards(shards)
        assert build_index(shards)["read"] == 3
    assert (shards / INDEX).read_bytes() == whole


def test_a_folder_that_cannot_be_written_to_has_its_index_with_the_user(shards, tmp_path_factory, monkeypatch):
    kept = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MMKIT_CACHE", str(kept))
    access = os.access
    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "access", lambda path, mode: path != shards and access(path, mode))
        assert main(["data", "index", str(shards), "--workers", "1"]) == 0
        assert build_index(shards)["read"] == 0
    assert not (shards / INDEX).exists()
    [index_file] = (path for path in (kept / "indexes").rglob("*") if path.is_file())
    assert index_file.name == INDEX
    assert open_source(shards, {"caption"})[9].captions == ("picture 9",)
    pack(shards / "00001.tar", sample(7))
    with pytest.raises(UserError, match=r"00001.tar: was changed after its index"):
        Shards(shards)
    assert build_index(shards)["read"] == 3  # now that it can be written there
    assert Shards(shards)[4].captions == ("picture 7",)


def test_links_to_folders_are_followed_once_and_what_cannot_be_read_is_named(shards, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    pack(other / "1.tar", sample(1))
    (shards / "link").symlink_to(other)
    (shards / "more" / "back").symlink_to(shards)
    (shards / ".hidden.tar").write_bytes(b"x")
    assert storage.Folder(shards).names(".tar") == ["00000.tar", "00001.tar", "link/1.tar", "more/00002.tar"]
    with pytest.raises(UserError, match=r"x: cannot be read \(no\)"):
        storage._unreadable(PermissionError(13, "no", "x"))


def test_nothing_to_index(tmp_path):
    with pytest.raises(UserError, match="no shards in it"):
        build_index(tmp_path)
    with pytest.raises(UserError, match="none: no such folder"):
        build_index(tmp_path / "none")


def test_rows_are_not_copied_into_memory(tmp_path):
    """A large index opens at once: what Arrow holds afterwards is mapped."""
    rows, n = 50_000, 20
    words, nothing = pa.array([["a caption of some words"]] * rows), pa.nulls(rows)
    numbers = pa.array(np.arange(rows))
    columns = [pa.array(np.arange(rows).astype(str)), numbers, numbers, words, *[nothing] * 4]
    batch = pa.record_batch(
        [column.cast(to.type) for column, to in zip(columns, schema(), strict=True)], schema=schema()
    )
    write_index(tmp_path / INDEX, [Part(f"{i}.tar", 1, "1", rows, {}) for i in range(n)], [batch] * n)
    before = pa.total_allocated_bytes()
    found = Index(tmp_path / INDEX)
    assert len(found) == rows * n
    assert shard_of(found.ends, rows * 7 + 3) == (7, 3)
    assert [shard_of(found.ends, i)[0] for i in (0, rows - 1, rows, rows * n - 1)] == [0, 0, 1, n - 1]
    assert found.row(7, 3) == ("3", 3, 3, ["a caption of some words"], None, None)
    assert pa.total_allocated_bytes() - before < 100_000


def png(grey):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (grey,) * 3).save(file, "PNG")
    return file.getvalue()


def test_clips_lie_in_shards_as_videos_and_as_frames(tmp_path):
    frames = [(f"b.{i:03d}.png", png(60 * i)) for i in (2, 0, 1)]
    pack(tmp_path / "0.tar", [
        ("a.mp4", b"a video"), ("a.txt", b"one"), *frames[:1], ("b.txt", b"two"), *frames[1:],
        ("c.png", png(7)), ("c.txt", b"three"),
        ("d.frame_10.png", png(9)), ("d.txt", b"four"), ("d.frame_9.png", png(8)),
    ])  # fmt: skip
    assert build_index(tmp_path)["records"] == 4
    film, shown, picture, named = (Shards(tmp_path)[i] for i in range(4))
    assert film.image.frames == b"a video"
    assert [film.captions, shown.captions, picture.captions] == [("one",), ("two",), ("three",)]
    assert shown.image.frames == [png(0), png(60), png(120)]
    assert picture.image == png(7)
    assert named.image.frames == [png(8), png(9)]


@pytest.mark.parametrize(("names", "says"), [
    (("a.mp4", "a.png"), r"a\.png: the sample has another picture \(a\.mp4\)"),
    (("a.000.png", "a.mp4"), r"a\.mp4: the sample has another picture \(a\.000\.png\)"),
    (("a.png", "a.000.png"), r"a\.000\.png: stands beside a\.png"),
    (("a.000.png", "a.0.png"), r"a\.0\.png: stands beside a\.000\.png"),
])  # fmt: skip
def test_a_sample_shows_one_thing(tmp_path, names, says):
    pack(tmp_path / "0.tar", [*((name, png(0)) for name in names), ("a.txt", b"words")])
    with pytest.raises(UserError, match=says):
        build_index(tmp_path)
