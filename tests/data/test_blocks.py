"""Blocks on this machine: fetched once by whoever comes first, whole or not at all, the oldest removed."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmkit.data import blocks
from mmkit.data.blocks import Blocks, limit_gb
from mmkit.errors import UserError

SIZE = 1000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", SIZE)


@pytest.fixture
def cache(tmp_path):
    return Blocks(tmp_path / "blocks", gb=10 * SIZE / 1e9)


class Fetch:
    """Counts."""

    def __init__(self, content=b"0123456789" * 100):
        self.content, self.times = content, 0

    def __call__(self):
        self.times += 1
        return self.content


def test_a_block_is_fetched_once(cache):
    fetch = Fetch()
    assert cache.read("a", 3, SIZE, 5, 7, fetch) == b"5678901"
    assert cache.read("a", 3, SIZE, 995, 5, fetch) == b"56789"
    assert cache.read("a", 3, SIZE, 0, SIZE, fetch) == fetch.content
    assert pickle.loads(pickle.dumps(cache)).read("a", 3, SIZE, 1, 1, fetch) == b"1"
    assert fetch.times == 1
    assert cache.read("a", 4, SIZE, 0, 1, fetch) == cache.read("b", 3, SIZE, 0, 1, fetch) == b"0"
    assert fetch.times == 3
    assert sorted(str(p.relative_to(cache.folder)) for p in cache.folder.glob("[ab]/*")) == [
        "a/000003", "a/000004", "b/000003",
    ]  # fmt: skip


def test_a_block_that_is_not_whole_is_fetched_anew(cache):
    fetch = Fetch()
    cache.read("a", 0, SIZE, 0, 1, fetch)
    (cache.folder / "a" / "000000").write_bytes(b"01234")
    assert cache.read("a", 0, SIZE, 8, 3, fetch) == b"890"
    assert fetch.times == 2
    assert (cache.folder / "a" / "000000").read_bytes() == fetch.content


def test_a_fetch_that_fails_leaves_nothing(cache):
    def fails():
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        cache.read("a", 0, SIZE, 0, 1, fails)
    assert not list(cache.folder.glob("a/*"))
    assert cache.read("a", 0, SIZE, 0, 1, Fetch()) == b"0"  # the lock was let go


def test_who_comes_second_waits_for_the_first(cache):
    fetch, begun, go, found = Fetch(), threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        go.wait(5)
        return fetch()

    threads = [threading.Thread(target=lambda: found.append(cache.read("a", 0, SIZE, 0, 2, slow))) for _ in range(3)]
    threads[0].start()
    assert begun.wait(5)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.05)
    assert not found
    go.set()
    for thread in threads:
        thread.join(5)
    assert found == [b"01"] * 3
    assert fetch.times == 1


def test_nobody_waits_for_ever(tmp_path):
    cache, fetch = Blocks(tmp_path, gb=1, wait=0.05), Fetch()

    def while_another_holds_it():
        return Blocks(tmp_path, gb=1, wait=0.05).read("a", 0, SIZE, 0, 2, fetch)

    assert cache.read("a", 0, SIZE, 0, 2, while_another_holds_it) == b"01"
    assert fetch.times == 1


def test_the_oldest_go_first_and_the_limit_holds(cache):
    for number in range(10):
        cache.read("a", number, SIZE, 0, 1, Fetch())
        os.utime(cache.folder / "a" / f"{number:06d}", (1000 + number, 1000 + number))
    assert len(list(cache.folder.glob("a/*"))) == 10  # just as many as it may hold
    cache.read("a", 0, SIZE, 0, 1, Fetch())  # is now the one that was opened last
    cache.read("b", 0, SIZE, 0, 1, Fetch())
    left = sorted(str(p.relative_to(cache.folder)) for p in cache.folder.glob("[ab]/*"))
    assert left == ["a/000000", *(f"a/{n:06d}" for n in range(3, 10)), "b/000000"]  # nine tenths
    assert int((cache.folder / ".held").read_text()) == 9 * SIZE


def test_the_newest_stays_in_the_smallest_cache(tmp_path):
    cache = Blocks(tmp_path, gb=SIZE / 1e9)
    for number in range(3):
        cache.read("a", number, SIZE, 0, 1, Fetch())
        os.utime(tmp_path / "a" / f"{number:06d}", (2000 + number,) * 2)
    assert [path.name for path in tmp_path.glob("a/*")] == ["000002"]


def test_what_others_removed_is_counted_anew(cache):
    for number in range(10):
        cache.read("a", number, SIZE, 0, 1, Fetch())
    for path in list(cache.folder.glob("a/*"))[:6]:
        path.unlink()
    cache.read("b", 0, SIZE, 0, 1, Fetch())  # by the note eleven
    assert int((cache.folder / ".held").read_text()) == 5 * SIZE
    assert len(list(cache.folder.glob("[ab]/*"))) == 5
    (cache.folder / ".held").write_text("nonsense")
    cache.read("b", 1, SIZE, 0, 1, Fetch())
    assert int((cache.folder / ".held").read_text()) == 6 * SIZE


def test_parts_of_those_that_were_killed_go_after_a_while(cache):
    cache.read("a", 0, SIZE, 0, 1, Fetch())
    old, new = cache.folder / "a" / ".1.part", cache.folder / "a" / ".2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3700,) * 2)
    assert cache._held() == SIZE
    assert not old.exists()
    assert new.exists()


def test_a_full_disk_costs_the_cache_alone(cache, monkeypatch, caplog):
    for number in range(5):
        cache.read("a", number, SIZE, 0, 1, Fetch())
    write = Path.write_bytes

    def full(path, content):
        if path.suffix == ".part":
            write(path, content[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cache.read("b", 0, SIZE, 4, 3, Fetch()) == b"456"
    assert "the disk is full" in caplog.text
    assert len(list(cache.folder.glob("a/*"))) == 4
    assert not list(cache.folder.glob("b/*"))
    assert not list(cache.folder.glob("b/.*"))


def test_another_fault_of_the_disk_is_told(cache, monkeypatch):
    def broken(path, content):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(UserError, match=r"b/000000: a block cannot be kept \(Input/output error\)"):
        cache.read("b", 0, SIZE, 4, 3, Fetch())


def test_where_and_how_large(tmp_path, monkeypatch):
    monkeypatch.setenv("MMKIT_CACHE", str(tmp_path / "own"))
    assert Blocks().folder == tmp_path / "own" / "blocks"
    assert Blocks().limit == 20e9
    monkeypatch.setenv("MMKIT_BLOCKS_GB", "1.5")
    assert limit_gb() == 1.5
    assert Blocks().limit == 1.5e9
    assert Blocks(gb=2).limit == 2e9
    for said in ("0", "-1", "many", "inf", "nan"):
        monkeypatch.setenv("MMKIT_BLOCKS_GB", said)
        with pytest.raises(UserError, match=f"MMKIT_BLOCKS_GB='{said}'"):
            Blocks()
    with pytest.raises(UserError, match="holds no block"):
        Blocks(tmp_path, gb=(SIZE - 1) / 1e9)
    assert Blocks(tmp_path, gb=SIZE / 1e9).limit == SIZE
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/x: blocks cannot be kept there .*MMKIT_CACHE"):
        Blocks(tmp_path / "file" / "x", gb=1)


FETCHES = """
import sys, time
from mmkit.data.blocks import Blocks
def fetch():
    print("begun", flush=True)
    time.sleep(60)
Blocks(sys.argv[1], gb=1).read("a", 0, 1000, 0, 1, fetch)
"""


def test_a_process_that_is_killed_while_it_fetches_stops_nobody(tmp_path):
    with subprocess.Popen([sys.executable, "-c", FETCHES, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        found, cache = [], Blocks(tmp_path, gb=1)
        waiting = threading.Thread(target=lambda: found.append(cache.read("a", 0, SIZE, 0, 2, Fetch())))
        waiting.start()
        time.sleep(0.1)
        assert not found
        process.kill()
        waiting.join(10)
    assert found == [b"01"]
