"""Shards elsewhere: blocks of them, tries, time-outs, files that change, and a web server that lists or does not."""

import json
import pickle
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mmkit.cli.main import main
from mmkit.data import blocks, remote
from mmkit.data.images.opening import load_image
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.order import WINDOW, order_of
from mmkit.data.remote import Gone, Remote, is_url, place_of
from mmkit.data.sources import shards as shards_module
from mmkit.data.sources.index import INDEX, build_index
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import open_records, open_source
from mmkit.data.sources.shards import Shards, is_shards
from mmkit.data.storage import Folder, NoListing
from mmkit.errors import Unreadable, UserError
from tests.data.elsewhere import packed, picture, serving

SIZE = 4096
URL = "memory://bucket/set"


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Small blocks, no waiting, a cache of the test's own, an empty memory."""
    for module in (blocks, remote, shards_module):
        monkeypatch.setattr(module, "BLOCK", SIZE)
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("MMKIT_CACHE", str(tmp_path / "cache"))
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def memory():
    """Two shards of four samples, one below; and what was asked of the store."""
    system = fsspec.filesystem("memory")
    for name, first in (("00000.tar", 0), ("more/00001.tar", 4)):
        system.pipe_file(f"/bucket/set/{name}", packed(range(first, first + 4)))
    system.pipe_file("/bucket/set/.hidden/00009.tar", b"none")
    system.pipe_file("/bucket/set/00000.parquet", b"none")
    return system


@pytest.fixture
def asked(monkeypatch):
    """(what, path, first byte) of all that the store is asked; and what may raise, or give other bytes."""
    found, then = [], []

    def watched(name):
        real = getattr(MemoryFileSystem, name)

        def method(self, path, *args, **options):
            found.append((name, path.rpartition("/")[2], options.get("start")))
            answer = then[0](name, path) if then else None
            return real(self, path, *args, **options) if answer is None else answer

        monkeypatch.setattr(MemoryFileSystem, name, method)

    for name in ("cat_file", "info"):
        watched(name)
    return found, then


def test_records_from_elsewhere(memory):
    assert build_index(URL) == {"shards": 2, "records": 8, "read": 2}
    source = open_source(URL, ["caption"])
    assert isinstance(source, Shards)
    assert [source[n].image for n in range(8)] == [picture(n) for n in range(8)]
    assert source[6].captions == ("picture 6",)
    assert source[6].key.startswith(f"{URL}/more/00001.tar:")
    assert source[6].image_id == f"{URL}/more/00001.tar:000000006"
    assert list(source.captions()) == [f"picture {n}" for n in range(8)]
    assert pickle.loads(pickle.dumps(source))[5].image == picture(5)
    assert isinstance(open_records(URL), Shards)
    assert isinstance(open_records(f"{URL}/"), Shards)
    assert build_index(URL)["read"] == 0


def test_every_byte_is_the_files_own(memory):
    content = bytes(range(256)) * 40  # 10,240: two and a half blocks
    memory.pipe_file("/bucket/set/x", content)
    place = Remote(URL)
    for start, size in ((0, 1), (0, 4096), (4095, 2), (4096, 4096), (1, 9999), (8192, 2048), (10239, 1), (0, 10240)):
        assert place.read("x", start, size) == content[start : start + size]
    assert place.read("x", 10000, 9999) == content[10000:]  # fewer at the end
    assert place.read("x", 10240, 5) == place.read("x", 99999, 5) == b""
    assert place.read("x", 7, 0) == b""


def test_whole_blocks_are_fetched_once_each(memory, asked):
    build_index(URL)
    source, (found, _) = Shards(URL), asked
    total = memory.info("/bucket/set/00000.tar")["size"]
    for path in (Path(source.place.cache.folder)).glob("0*/*"):
        path.unlink()
    found.clear()
    for _ in range(2):
        for number in range(4):
            assert source[number].image == picture(number)
    starts = [start for what, _, start in found if what == "cat_file"]
    assert sorted(starts) == sorted(set(starts))
    assert set(starts) <= set(range(0, total, SIZE))
    assert [what for what, *_ in found].count("info") == len(starts)  # each block of a file that is still the same
    found.clear()
    assert Shards(URL)[2].image == picture(2)
    assert [what for what, name, _ in found if name == "00000.tar"] == []  # kept: nothing is asked


def test_the_list_of_files_is_checked(memory):
    build_index(URL)
    memory.pipe_file("/bucket/set/00002.tar", packed([9]))
    with pytest.raises(UserError, match=rf"{URL}/00002.tar: is not in the index; .*mmkit data index {URL}"):
        Shards(URL)
    assert build_index(URL)["records"] == 9
    memory.rm("/bucket/set/00002.tar")
    with pytest.raises(UserError, match=r"00002.tar: is gone; make the index again"):
        Shards(URL)
    build_index(URL)
    memory.pipe_file("/bucket/set/00000.tar", packed(range(5)))
    with pytest.raises(UserError, match=r"00000.tar: was changed after its index; make it again"):
        Shards(URL)


def without_blocks(source):
    for path in source.place.cache.folder.glob("0*/*"):
        path.unlink()
    return source


def test_a_shard_that_is_another_one_of_the_same_size_is_an_error(memory):
    build_index(URL)
    source = without_blocks(Shards(URL))
    memory.pipe_file("/bucket/set/00000.tar", packed(range(4)))
    with pytest.raises(
        UserError, match=rf"{URL}/00000.tar: was changed after its index; .*mmkit data index {URL}"
    ) as error:
        source[1]
    assert not isinstance(error.value, Unreadable)
    assert source[5].image == picture(5)  # the other shard is as it was
    memory.rm("/bucket/set/more/00001.tar")
    with pytest.raises(UserError, match=r"00001.tar: is not there"):
        without_blocks(source)[5]


def test_an_index_made_where_the_shards_lay_on_a_disk(memory, tmp_path):
    """Times of a disk are no ETags: the size is compared, and what a process saw first must stay."""
    (tmp_path / "disk" / "more").mkdir(parents=True)
    for name in ("00000.tar", "more/00001.tar"):
        (tmp_path / "disk" / name).write_bytes(memory.cat_file(f"/bucket/set/{name}"))
    build_index(tmp_path / "disk")
    memory.put_file(str(tmp_path / "disk" / INDEX), f"/bucket/set/{INDEX}")
    source = Shards(URL)
    assert source[3].image == picture(3)
    assert Shards(URL)[3].image == picture(3)
    memory.pipe_file("/bucket/set/00000.tar", packed(range(4)))
    with pytest.raises(UserError, match=r"00000.tar: was changed while it was in use"):
        without_blocks(source)[3]
    memory.rm(f"/bucket/set/{INDEX}")
    with pytest.raises(UserError, match=f"without an index; make it, once: mmkit data index {URL}"):
        Shards(URL)


def test_a_fault_that_passes_is_not_seen(memory, asked):
    build_index(URL)
    source, (found, then) = without_blocks(Shards(URL)), asked
    faults = iter([OSError("reset"), RuntimeError("throttled")])

    def fails_twice(what, path):
        if what == "cat_file" and (fault := next(faults, None)):
            raise fault

    then.append(fails_twice)
    found.clear()
    assert source[0].image == picture(0)
    assert [what for what, *_ in found] == ["info", "cat_file", "cat_file", "cat_file"]


def test_after_three_tries_a_record_is_unreadable_and_its_neighbours_at_once(memory, asked, monkeypatch):
    build_index(URL)
    source, (found, then) = without_blocks(Shards(URL)), asked

    def fails(what, path):
        if what == "cat_file" and path.endswith("00000.tar"):
            raise OSError("reset by peer")

    then.append(fails)
    said = rf"{URL}/00000.tar: cannot be read at byte 0, 3 tries \(OSError: reset by peer\)"
    found.clear()
    with pytest.raises(Unreadable, match=said):
        source[0]
    assert len(found) == 4
    with pytest.raises(Unreadable, match=said):
        source[1]
    assert len(found) == 4  # not asked for again
    assert source[5].image == picture(5)
    then.clear()
    later = time.monotonic() + 31
    monkeypatch.setattr(remote.time, "monotonic", lambda: later)
    assert source[0].image == picture(0)


def test_fewer_bytes_than_asked_for_are_no_answer(memory, asked):
    build_index(URL)
    source, (_, then) = without_blocks(Shards(URL)), asked
    then.append(lambda what, path: b"short" if what == "cat_file" else None)
    with pytest.raises(Unreadable, match=r"5 bytes came in place of \d+"):
        source[0]
    then[:] = [lambda what, path: bytes(99_999) if what == "cat_file" else None]
    with pytest.raises(UserError, match=r"gives no parts of a file"):
        source[5]


def test_an_answer_that_does_not_come_is_not_waited_for(memory, asked, monkeypatch):
    build_index(URL)
    source, (_, then) = without_blocks(Shards(URL)), asked
    monkeypatch.setattr(remote, "SECONDS", 0.05)
    come = threading.Event()
    then.append(lambda what, path: come.wait(20) and None if what == "cat_file" else None)
    start = time.monotonic()
    with pytest.raises(Unreadable, match=r"TimeoutError: no answer in 0.05 s"):
        source[0]
    assert time.monotonic() - start < 10
    come.set()


def dataset(source, tokenizer):
    return PairDataset(
        source=source, transform=TrainTransform(size=8, randaugment=None), tokenizer=tokenizer, max_tokens=8
    )


def test_the_loader_replaces_what_cannot_be_fetched(memory, asked, tokenizer):
    build_index(URL)
    data, (_, then) = dataset(without_blocks(Shards(URL)), tokenizer), asked

    def fails(what, path):
        if what == "cat_file" and path.endswith("00000.tar"):
            raise OSError("reset by peer")

    then.append(fails)
    sample = data[0, 1]
    assert sample.key.endswith("(000000004)")
    assert len(sample.skipped) == 3
    assert "00000.tar: cannot be read at byte 0" in sample.skipped[0]
    memory.pipe_file("/bucket/set/more/00001.tar", packed(range(4, 8)))
    without_blocks(data.source)
    with pytest.raises(UserError, match="was changed after its index"):  # no matter of one record
        data[0, 4]


def test_workers_and_ranks_read_what_a_disk_gives(memory, tokenizer, tmp_path):
    build_index(URL)
    (tmp_path / "more").mkdir()
    for name in ("00000.tar", "more/00001.tar"):
        (tmp_path / name).write_bytes(memory.cat_file(f"/bucket/set/{name}"))
    build_index(tmp_path)

    def seen(source, workers, rank=0, world=1):
        sampler = StepSampler(len(source), rank_batch=4 // world, steps=4, rank=rank, world=world)
        loader = make_loader(dataset(source, tokenizer), sampler, workers=workers)
        return [(batch.pixels.tolist(), batch.ids.tolist()) for batch in loader]

    wanted = seen(Shards(tmp_path), 0)
    assert seen(Shards(URL), 0) == seen(without_blocks(Shards(URL)), 2) == wanted
    halves = [seen(Shards(URL), 0, rank, 2) for rank in range(2)]
    assert [a[0] + b[0] for a, b in zip(*halves, strict=True)] == [pixels for pixels, _ in wanted]


def test_neighbours_are_read_together(memory, tmp_path):
    build_index(URL)
    source, part = Shards(URL), memory.info("/bucket/set/00000.tar")["size"]
    block = SIZE * 8 // (2 * part)
    assert source.neighbours == (max(1, block), WINDOW)
    assert order_of(source).block == max(1, block)
    assert source.held_blocks == 20_000_000_000 // SIZE
    (tmp_path / "00000.tar").write_bytes(packed([1]))
    build_index(tmp_path)
    here = Shards(tmp_path)
    assert here.neighbours is None
    assert (here.held_blocks, here.fetches(0)) == (0, ())
    joined = Joined([here, source])
    assert joined.held_blocks == source.held_blocks
    assert joined.fetches(0) == ()
    assert joined.fetches(1) == source.fetches(0)
    assert [fetch.number for fetch in source.fetches(3)] == sorted({fetch.number for fetch in source.fetches(3)})


def test_what_is_fetched_ahead_is_there(memory, asked):
    build_index(URL)
    source, (found, then) = without_blocks(Shards(URL)), asked
    for fetch in source.fetches(2):
        fetch()
    found.clear()
    assert source[2].image == picture(2)
    assert not found
    then.append(lambda what, path: (_ for _ in ()).throw(OSError("no")))
    for fetch in source.fetches(6):
        fetch()  # says nothing: whoever reads will
    with pytest.raises(Unreadable):
        source[6]


def test_the_command_makes_the_index_of_an_address(memory, capsys, tmp_path):
    assert main(["data", "index", URL, "--workers", "1", "--json", str(tmp_path / "said.json")]) == 0
    found = json.loads((tmp_path / "said.json").read_text())
    assert found["records"] == 8
    assert Path(found["index"]).is_file()
    assert len(list((tmp_path / "cache" / "indexes").glob(f"*/{INDEX}"))) == 1
    assert not memory.exists(f"/bucket/set/{INDEX}")
    assert main(["data", "index", URL, "--workers", "1", "--upload"]) == 0
    assert memory.exists(f"/bucket/set/{INDEX}")
    for path in (tmp_path / "cache" / "indexes").glob("*/*"):
        path.unlink()
    assert Shards(URL)[7].image == picture(7)  # by the one that lies there
    assert main(["data", "check", URL]) == 0
    capsys.readouterr()
    assert main(["data", "index", str(tmp_path), "--upload"]) != 0
    assert f"--upload: {tmp_path} lies on this machine" in capsys.readouterr().err


def test_processes_that_start_together_fetch_an_index_once(memory, monkeypatch):
    main(["data", "index", URL, "--workers", "1", "--upload"])
    Remote(URL).home(INDEX).unlink()
    times, real = [], MemoryFileSystem.get_file

    def slow(self, path, *args, **options):
        times.append(path)
        time.sleep(0.05)
        return real(self, path, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", slow)
    found = []
    threads = [threading.Thread(target=lambda: found.append(Shards(URL)[1].image)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [picture(1)] * 3
    assert len(times) == 1
    memory.pipe_file("/bucket/set/00002.tar", packed([9]))
    build_index(URL)
    memory.put_file(str(Remote(URL).home(INDEX)), f"/bucket/set/{INDEX}")
    Remote(URL).home(INDEX).unlink()
    assert len(Shards(URL)) == 9  # another one lies there now
    assert len(times) == 2


def test_a_disk_by_its_address(tmp_path):
    for name, first in (("00000.tar", 0), ("00001.tar", 4)):
        (tmp_path / name).write_bytes(packed(range(first, first + 4)))
    url = f"file://{tmp_path}"
    assert build_index(url)["records"] == 8
    assert [Shards(url)[n].image for n in (0, 7)] == [picture(0), picture(7)]
    (tmp_path / "00001.tar").write_bytes(packed(range(5, 9)))
    with pytest.raises(UserError, match=r"00001.tar: was changed after its index"):
        without_blocks(Shards(url))[7]


def test_a_damaged_shard_is_named_with_its_byte(memory):
    memory.pipe_file("/bucket/set/00000.tar", packed(range(4))[:5000])
    with pytest.raises(UserError, match=r"00000.tar:\d+: .*cut off"):
        build_index(URL)


@pytest.mark.parametrize(("url", "says"), [
    ("s3://bucket/set", r"s3:// needs another package \(Install s3fs"), ("nosuch://x", "Protocol not known: nosuch"),
    ("https://host/set?key=1", r"without \? and #"), ("memory://bucket/none", "no shards in it|without an index"),
    ("memory://bucket/set/00000.tar", "give the folder in which the shards lie, memory://bucket/set"),
])  # fmt: skip
def test_what_is_no_place_is_said(url, says, memory):
    for use in (build_index, Shards):
        with pytest.raises(UserError, match=says):
            use(url)


def test_a_store_that_connects_at_once_and_cannot_is_said(monkeypatch):
    def refused(*args, **options):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(fsspec, "url_to_fs", refused)
    with pytest.raises(Unreadable, match=r"ftp://host/set: cannot be reached \(ConnectionRefusedError: .*refused\)"):
        Remote("ftp://host/set")


def test_what_an_address_is(tmp_path):
    assert is_url("s3://a/b")
    assert not is_url(tmp_path)
    assert isinstance(place_of(tmp_path), Folder)
    assert is_shards("hf://datasets/owner/name")
    assert not is_shards("https://host/rows.jsonl")
    with pytest.raises(UserError, match="a cache is for shards that lie elsewhere"):
        Shards(tmp_path, cache=tmp_path)
    with pytest.raises(UserError, match=r"rows.jsonl: no such file or folder"):
        open_source("https://host/rows.jsonl")


def test_a_cache_that_is_too_small_for_the_order_is_told(memory, monkeypatch, tmp_path, caplog):
    build_index(URL)
    whole = sum(part.size for part in Shards(URL).index.parts)
    monkeypatch.setattr(shards_module, "WINDOW", 2)
    assert whole == 5 * SIZE
    for blocks_kept, told in ((6, False), (4, False), (3, True), (1, True)):
        caplog.clear()
        Shards(URL, cache=tmp_path / "own", cache_gb=blocks_kept * SIZE / 1e9)
        assert ("fetched again and again. Set MMKIT_BLOCKS_GB" in caplog.text) is told
        assert (f"data.window to {max(1, blocks_kept // 2)}" in caplog.text) is told


def test_a_cache_that_holds_all_is_large_enough(memory, monkeypatch, tmp_path, caplog):
    build_index(URL)
    monkeypatch.setattr(shards_module, "WINDOW", 3)
    Shards(URL, cache=tmp_path / "own", cache_gb=5 * SIZE / 1e9)
    assert "again and again" not in caplog.text


def test_the_cache_that_is_named_is_used(memory, tmp_path):
    build_index(URL)
    source = Shards(URL, cache=tmp_path / "disk", cache_gb=0.001)
    assert source[0].image == picture(0)
    assert source.place.cache.limit == 1_000_000
    assert len(list((tmp_path / "disk").glob("0*/*"))) >= 1
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.place.cache.folder, copy.place.cache.limit) == (tmp_path / "disk", 1_000_000)


def test_the_byte_that_cannot_be_read_is_told(memory, asked):
    memory.pipe_file("/bucket/set/x", bytes(3 * SIZE))
    place, (_, then) = Remote(URL), asked

    def fails(what, path):
        if what == "cat_file":
            raise OSError("reset")

    then.append(fails)
    with pytest.raises(Unreadable, match=rf"{URL}/x: cannot be read at byte {2 * SIZE}, 3 tries"):
        place.read("x", 2 * SIZE + 5, 1)


class Answered(Exception):
    """As a web client's error."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


@pytest.mark.parametrize(("status", "is_gone"), [
    (400, True), (403, True), (404, True), (410, True), (499, True), (408, False), (429, False), (500, False),
    (503, False), (399, False),
])  # fmt: skip
def test_which_answers_are_asked_for_again(status, is_gone):
    assert remote._is_gone(Answered(status)) is is_gone
    missing = FileNotFoundError("x")
    missing.__cause__ = Answered(status)
    assert remote._is_gone(missing) is is_gone


def test_what_is_missing_is_gone():
    assert remote._is_gone(FileNotFoundError("x"))
    missing = FileNotFoundError("x")
    missing.__cause__ = KeyError("x")
    assert remote._is_gone(missing)
    assert not remote._is_gone(OSError("x"))
    assert not remote._is_gone(KeyError("x"))


# -- a web server --


@pytest.fixture
def web():
    pytest.importorskip("aiohttp")
    with serving({"00000.tar": packed(range(4)), "a b.tar": packed(range(4, 8))}) as server:
        yield server


def test_a_web_server_that_lists_its_files(web):
    assert build_index(web.url) == {"shards": 2, "records": 8, "read": 2}
    source = without_blocks(Shards(web.url))
    for path in source.place.cache.folder.glob("a*/*"):
        path.unlink()
    web.asked.clear()
    assert [source[n].image for n in range(8)] == [picture(n) for n in range(8)]
    ranges = [said for method, name, said in web.asked if method == "GET"]
    assert all(said and said.startswith("bytes=") for said in ranges)
    assert len(ranges) == len(set(web.asked) - {ask for ask in web.asked if ask[0] == "HEAD"})
    web.files["00000.tar"] = packed([0, 1, 2, 9])
    with pytest.raises(UserError, match=r"00000.tar: was changed after its index"):
        without_blocks(source)[1]


def test_a_web_server_that_lists_nothing(web, tmp_path):
    web.lists = False
    with pytest.raises(UserError, match=rf"lists no files, .*put {INDEX} beside them"):
        build_index(web.url)
    with pytest.raises(NoListing):
        Remote(web.url).names(".tar")
    for name, content in web.files.items():
        (tmp_path / name).write_bytes(content)
    build_index(tmp_path)
    web.files[INDEX] = (tmp_path / INDEX).read_bytes()
    source = Shards(web.url)
    assert [load_image(source[n]).size for n in (7, 0)] == [(16, 16)] * 2
    del web.files["00000.tar"]
    with pytest.raises(Gone, match=r"00000.tar: is not there"):
        without_blocks(source)[0]


def test_a_web_server_that_is_busy_is_asked_again(web):
    build_index(web.url)
    source = without_blocks(Shards(web.url))
    web.failing = 2
    assert source[0].image == picture(0)
    web.failing = 99
    with pytest.raises(Unreadable, match=r"3 tries .*503"):
        without_blocks(source)[1]


def test_a_web_server_without_ranges(web):
    build_index(web.url)
    web.ranges = False
    with pytest.raises(UserError, match="gives no parts of a file, only all of it"):
        without_blocks(Shards(web.url))[0]


def test_a_server_that_is_not_there(web):
    web.url = web.url.replace("/set", "").rpartition(":")[0] + ":9/set"
    for use in (build_index, Shards):
        with pytest.raises(Unreadable, match=r"3 tries .*127.0.0.1:9"):
            use(web.url)
