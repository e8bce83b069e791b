"""The benchmark of data, small: both ways read the same, the order's numbers, an index that several workers share."""

import json
import queue
import sys
import threading
from random import Random

import pytest

from benchmarks import data


def test_shards_and_loose_files_hold_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD", 3)
    monkeypatch.setattr(data, "drawn", lambda seed: data.io.BytesIO(bytes([seed] * 9)).getvalue())
    shards, loose = data.write_both(tmp_path, 8)
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 3
    assert len(shards) == len(loose) == 8
    for n in range(8):
        assert data.as_bytes(shards[n]) == data.as_bytes(loose[n]) == bytes([n] * 9)
        assert shards[n].captions == loose[n].captions == (f"picture {n}",)


def test_ways_take_turns_with_the_same_records():
    seen = []
    ways = {name: (lambda index, name=name: seen.append((name, index))) for name in ("tar", "loose")}
    found = data.in_turns(ways, 100, turns=2, a_turn=3)
    assert {name: len(taken) for name, taken in found.items()} == {"tar": 2, "loose": 2}
    rng = Random(0)
    turns = [[rng.randrange(100) for _ in range(3)] for _ in range(3)]
    wanted = [(name, index) for turn, names in zip(turns, (("loose", "tar"), ("tar", "loose"), ("loose", "tar")),
              strict=True) for name in names for index in turn]  # fmt: skip
    assert seen == wanted


def test_a_large_index_is_read_at_random(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD", 5)
    assert data.write_large(tmp_path, 120) == (tmp_path / data.INDEX).stat().st_size
    source = data.Shards(tmp_path)
    assert len(source) == 120
    assert [part.rows for part in source.index.parts] == [50, 50, 20]
    assert source[119].image == bytes(32_768)
    assert "000020019" in source[119].key
    said = []

    class Report:
        put = staticmethod(said.append)

    data.read_at_random(source, 0, (2, 5), Report)
    assert [count for count, _, _ in said] == [2, 5]
    assert all(0 < own <= resident for _, own, resident in said)


def test_shards_of_a_web_server_are_read_cold_and_warm(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")

    class Context:
        """Threads in place of processes."""

        Queue = queue.Queue

        class Process(threading.Thread):
            def __init__(self, target, args, daemon):
                super().__init__(target=target, args=args, daemon=daemon)

            def terminate(self):
                servers.pop().shutdown()

    servers, real = [], data.ThreadingHTTPServer

    def server(*args):
        servers.append(real(*args))
        return servers[-1]

    monkeypatch.setattr(data, "ThreadingHTTPServer", server)
    monkeypatch.setattr(data.multiprocessing, "get_context", lambda kind: Context)
    monkeypatch.setattr(data, "drawn", lambda seed: bytes([seed] * 900))
    found = data.remote(tmp_path, 128, 0.0)
    assert found["blocks"] == 1
    assert found["records"] == 128
    ways = ("cold, fetched ahead", "warm", "cold, one at a time", "this disk")
    assert all(found[f"{way}, per s"] > 0 for way in ways)


def test_the_command_writes_what_it_says(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["data", "--only", "order", "--order-records", "1000000", "--json", str(out)])
    data.main()
    found = json.loads(out.read_text())["order"]
    assert found["records"] == 1_000_000
    assert found["positions"] == 4096
    assert 0 < found["block 1 MB"] < 10
    assert "block 256 ms" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["data", "--only", "nothing"])
    with pytest.raises(SystemExit):
        data.main()
