"""How fast records are found and read: tar shards beside loose files, the order of an epoch, a large index.

    python benchmarks/data.py
    python benchmarks/data.py --only reads --json data.json

reads: random records of the same pictures from tar shards and from loose files (JSON lines), by mmkit's own readers, as
bytes and decoded; all lie in the page cache. order: the positions of one step in an epoch of many records. index: one
of many records is opened and read at random by several workers; own memory is what a worker shares with nobody, and
resident memory holds what it saw of the index. Ways take turns; the time is the processor's, ratios are medians over
the turns. remote: an epoch of the shards from a web server of this machine that answers each request after a while (it
needs aiohttp), in the order of training, by the clock: with an empty cache, and then with all blocks on this machine.
parquet: the same pictures in Parquet, groups of 100 rows, as a full shuffle and by groups, as training takes them.
lines: JSON lines that are opened for the first time, and again by their index.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmkit.data.ahead import ahead_of
from mmkit.data.images.opening import load_image
from mmkit.data.loader import StepSampler
from mmkit.data.order import Order, order_of
from mmkit.data.records import JsonLines, Record, Source
from mmkit.data.sources.hugging_face import HuggingFace
from mmkit.data.sources.index import INDEX, Part, build_index, write_index
from mmkit.data.sources.samples import schema
from mmkit.data.sources.shards import Shards

SHARD = 1000
"""Samples of a shard that is written; of one that is only in an index, ten times as many."""
WORKERS = 8


# -- reads --


def drawn(seed: int) -> bytes:
    """A JPEG of 256 pixels and about 32 kB."""
    rng, out = np.random.default_rng(seed), io.BytesIO()
    y, x = np.mgrid[0:256, 0:256]
    waves = np.stack([127 + 90 * np.sin(x / rng.uniform(5, 40) + y / rng.uniform(5, 40)) for _ in range(3)], -1)
    noisy = (waves + rng.normal(0, 14, waves.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(out, "JPEG", quality=85)
    return out.getvalue()


def write_both(folder: Path, records: int) -> tuple[Shards, JsonLines]:
    """The same pictures in shards and loose, a few of them again and again."""
    pictures = [drawn(seed) for seed in range(min(64, records))]
    (folder / "shards").mkdir()
    (folder / "loose").mkdir()
    lines = []
    for first in range(0, records, SHARD):
        with tarfile.open(folder / "shards" / f"{first // SHARD:05d}.tar", "w") as tar:
            for n in range(first, min(records, first + SHARD)):
                picture = pictures[n % len(pictures)]
                for ending, content in ((".jpg", picture), (".txt", f"picture {n}".encode())):
                    info = tarfile.TarInfo(f"{n:09d}{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                (folder / "loose" / f"{n:09d}.jpg").write_bytes(picture)
                lines.append(json.dumps({"image": f"{n:09d}.jpg", "caption": f"picture {n}"}))
    (folder / "loose" / "records.jsonl").write_text("\n".join(lines) + "\n")
    build_index(folder / "shards")
    return Shards(folder / "shards"), JsonLines(folder / "loose" / "records.jsonl")


def as_bytes(record: Record) -> bytes:
    """The picture's file; what lies loose is opened and read."""
    if isinstance(record.image, bytes):
        return record.image
    with open(str(record.image), "rb") as file:
        return file.read()


def in_turns(ways: dict[str, Callable[[int], Any]], size: int, turns: int, a_turn: int) -> dict[str, list[float]]:
    """Seconds of a record, by turns at random; the same records for every way.

    Some results are held, as a batch holds them: how fast Pillow decodes depends on where in memory it does.
    """
    rng, held = Random(0), deque[Any](maxlen=16)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, turns):  # the first one warms up
        indices = [rng.randrange(size) for _ in range(a_turn)]
        for name, way in sorted(ways.items(), reverse=turn % 2 == 0):
            start = time.process_time()
            for index in indices:
                held.append(way(index))
            if turn >= 0:
                found[name].append((time.process_time() - start) / a_turn)
    return found


def reads(folder: Path, records: int) -> dict[str, float]:
    """Records a second, and how many times as fast shards are."""
    shards, loose = write_both(folder, records)
    sources: dict[str, Source] = {"tar": shards, "loose": loose}
    found: dict[str, float] = {}
    for what, read, turns, a_turn in (("bytes", as_bytes, 30, 500), ("decoded", load_image, 60, 50)):
        ways = {name: (lambda index, s=source, r=read: r(s[index])) for name, source in sources.items()}
        seconds = in_turns(ways, records, turns, a_turn)
        found |= {f"{name} {what} per s": 1 / statistics.median(taken) for name, taken in seconds.items()}
        pairs = zip(seconds["tar"], seconds["loose"], strict=True)
        found[f"tar {what} x loose"] = statistics.median(b / a for a, b in pairs)
    return found


# -- order --


def order(records: int, positions: int = 4096) -> dict[str, float]:
    """Milliseconds and megabytes that the positions of one step take, with and without blocks."""
    found: dict[str, float] = {"records": records, "positions": positions}
    for block in (1, 256):
        the_order, taken = Order(size=records, seed=1, block=block), []
        for step in range(40):
            at = (np.arange(positions) + step * positions * 7) % records
            start = time.process_time()
            the_order.at(step % 3, at)
            taken.append(time.process_time() - start)
        tracemalloc.start()
        Order(size=records, seed=1, block=block).at(5, np.arange(positions))
        found[f"block {block} ms"] = statistics.median(taken) * 1e3
        found[f"block {block} MB"] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return found


# -- index --


def write_large(folder: Path, records: int) -> int:
    """An index of so many records over shards that are holes, each of 32 kB a picture; its bytes."""
    size, parts = 32_768, []
    for first in range(0, records, 10 * SHARD):
        rows = min(10 * SHARD, records - first)
        path = folder / f"{first // (10 * SHARD):05d}.tar"
        with path.open("wb") as file:
            file.truncate(rows * size)
        about = path.stat()
        parts.append(Part(path.name, about.st_size, str(about.st_mtime_ns), rows, {}))

    def batches() -> Any:
        words = np.array([f"some words that describe picture {n % 977} of a large collection" for n in range(977)])
        for number, part in enumerate(parts):
            rows = np.arange(part.rows)
            keys = pa.array(np.char.add(f"{number:05d}", np.char.zfill(rows.astype(str), 4)))
            captions = pa.ListArray.from_arrays(
                pa.array(np.arange(part.rows + 1), pa.int32()), pa.array(words[rows % 977])
            )
            sides, none = pa.array(np.full(part.rows, 256), pa.int32()), pa.nulls(part.rows, pa.string())
            columns = [keys, pa.array(rows * size), pa.array(np.full(part.rows, size)), captions, sides, sides, none]
            columns.append(pa.nulls(part.rows, schema().field("clip").type))
            yield pa.record_batch(columns, schema=schema())

    write_index(folder / INDEX, parts, batches())
    return (folder / INDEX).stat().st_size


def read_at_random(source: Shards, seed: int, counts: Sequence[int], report: Any) -> None:
    """What a worker does: reads so many records, and says what memory it has after each of the counts."""
    rng, done = Random(seed), 0
    for count in counts:
        for _ in range(count - done):
            source[rng.randrange(len(source))]
        done, about = count, psutil.Process().memory_full_info()
        report.put((count, about.uss / 1e6, about.rss / 1e6))


def index(folder: Path, records: int, reads_each: int) -> dict[str, float]:
    """Seconds to open, and the memory of ``WORKERS`` processes that share it."""
    written = write_large(folder, records)
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        source = Shards(folder)
        taken.append(time.perf_counter() - start)
    context = multiprocessing.get_context("spawn")
    report, counts = context.Queue(), (reads_each // 20, reads_each // 2, reads_each)
    workers = [context.Process(target=read_at_random, args=(source, n, counts, report)) for n in range(WORKERS)]
    for worker in workers:
        worker.start()
    said = [report.get(timeout=600) for _ in range(len(counts) * WORKERS)]
    for worker in workers:
        worker.join()
    found = {"records": records, "index MB": written / 1e6, "shards": len(source.index.parts), "open s": min(taken)}
    for count in counts:
        rows = [row for row in said if row[0] == count]
        found[f"own MB of a worker after {count} reads"] = statistics.mean(own for _, own, _ in rows)
        found[f"resident MB of a worker after {count} reads"] = statistics.mean(resident for _, _, resident in rows)
    return found


# -- remote --


def serve(folder: str, delay: float, port: Any) -> None:
    """Ranges of a folder's files over HTTP, each request after ``delay`` seconds; a process of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            time.sleep(delay)
            path = Path(folder, self.path.strip("/"))
            size = path.stat().st_size if path.is_file() else -1
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            start, end = int(first or 0), int(last or size - 1)
            self.send_response(404 if size < 0 else 206 if first else 200)
            self.send_header("Content-Length", str(max(0, min(end + 1, size) - start)))
            self.send_header("Content-Range", f"bytes {start}-{min(end, size - 1)}/{size}")
            self.end_headers()
            if self.command == "GET" and size >= 0:
                with path.open("rb") as file:
                    file.seek(start)
                    self.wfile.write(file.read(min(end + 1, size) - start))

        do_GET = do_HEAD = answer

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


def remote(folder: Path, records: int, delay: float) -> dict[str, float]:
    """Records a second of one reader, as bytes, and the blocks that were fetched."""
    here, _ = write_both(folder, records)
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=serve, args=(str(folder / "shards"), delay, port), daemon=True)
    server.start()
    source = Shards(f"http://127.0.0.1:{port.get(timeout=60)}", cache=folder / "cache")
    order = order_of(source)
    assert isinstance(order, Order)
    found: dict[str, float] = {"records": records, "ms of a request": delay * 1e3, "neighbours": order.block}
    sampler = StepSampler(order, rank_batch=64, steps=records // 64)
    ways = {
        "cold, fetched ahead": (source, ahead_of(sampler, source)), "warm": (source, sampler),
        "cold, one at a time": (Shards(source.path, cache=folder / "other"), sampler), "this disk": (here, sampler),
    }  # fmt: skip
    for name, (shards, batches) in ways.items():
        start = time.perf_counter()
        for batch in batches:
            for _, index in batch:
                shards[index]
        found[f"{name}, per s"] = len(sampler) * 64 / (time.perf_counter() - start)
    found["blocks"] = len(list((folder / "cache").glob("0*/*")))
    server.terminate()
    server.join()
    return found


# -- parquet, lines --


def parquet(folder: Path, records: int, a_turn: int = 700) -> dict[str, float]:
    """Records a second of one process, as bytes."""
    file, pictures = folder / "a.parquet", [drawn(seed) for seed in range(200)]
    with pq.ParquetWriter(file, pa.schema({"image": pa.binary(), "caption": pa.string()})) as writer:
        for first in range(0, records, SHARD):
            rows = range(first, first + SHARD)
            own = [pictures[i % 200] + i.to_bytes(8, "big") for i in rows]
            table = pa.table({"image": own, "caption": [f"a picture {i}" for i in rows]})
            writer.write_table(table, row_group_size=100)
    source, taken = HuggingFace(file), {"full shuffle": [], "by groups": []}
    order = order_of(source)
    assert isinstance(order, Order)
    for turn in range(5):
        for name, block in (("full shuffle", 1), ("by groups", None)):
            indices = order_of(source, seed=turn, block=block).visits(0, np.arange(10 * a_turn), 10 * a_turn)[1]
            indices = indices[: a_turn if block else None].tolist()
            start = time.process_time()
            for index in indices:
                source[index]
            taken[name].append(len(indices) / (time.process_time() - start))
    found = {f"{name}, per s": statistics.median(speeds) for name, speeds in taken.items()}
    ratios = [one / other for one, other in zip(taken["by groups"], taken["full shuffle"], strict=True)]
    return {
        "records": records,
        "rows of a group": order.block,
        "groups mixed": order.window,
        **found,
        "ratio": statistics.median(ratios),
    }


def lines(folder: Path, records: int) -> dict[str, float]:
    """Seconds of the processor to open a file, and the bytes of its index."""
    (folder / "a.jpg").write_bytes(drawn(0))
    rows = (json.dumps({"image": "a.jpg", "caption": f"some words that describe picture {i}"}) for i in range(records))
    (folder / "a.jsonl").write_text("\n".join(rows) + "\n")
    found: dict[str, float] = {"records": records}
    for name in ("first", "again"):
        start = time.process_time()
        JsonLines(folder / "a.jsonl")
        found[f"{name}, s"] = time.process_time() - start
    found["index MB"] = (folder / ".a.jsonl.mmkit-index").stat().st_size / 1e6
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=("reads", "order", "index", "remote", "parquet", "lines"), help="one part alone"
    )
    parser.add_argument("--pictures", type=int, default=4000, help="of reads")
    parser.add_argument("--order-records", type=int, default=100_000_000)
    parser.add_argument("--index-records", type=int, default=10_000_000)
    parser.add_argument("--index-reads", type=int, default=20_000, help="of each worker")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds until the web server answers")
    parser.add_argument("--folder", type=Path, help="where files are written for a while (default: the system's)")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    args = parser.parse_args()
    parts: dict[str, Callable[[Path], dict[str, float]]] = {
        "reads": lambda folder: reads(folder, args.pictures),
        "order": lambda folder: order(args.order_records),
        "index": lambda folder: index(folder, args.index_records, args.index_reads),
        "remote": lambda folder: remote(folder, args.pictures, args.delay),
        "parquet": lambda folder: parquet(folder, 5 * args.pictures),
        "lines": lambda folder: lines(folder, args.index_records // 10),
    }
    found = {}
    for name, part in parts.items():
        if args.only in (None, name):
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                found[name] = part(Path(folder))
            print(name)
            for what, value in found[name].items():
                print(
                    f"  {what:45s} {value:12,.2f}" if isinstance(value, float) else f"  {what:45s} {value:9,d}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps({"python": sys.version.split()[0], "cores": os.cpu_count(), **found}, indent=1))


if __name__ == "__main__":
    main()
