"""What a run promises, on shards: the same batches on any ranks and workers, also resumed, at no cost in memory."""

import io
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mmkit.data.images.transforms import TrainTransform
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.order import Order, order_of
from mmkit.data.sources import parquet
from mmkit.data.sources.hugging_face import HuggingFace
from mmkit.data.sources.index import INDEX, Part, build_index, write_index
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.samples import schema
from mmkit.data.sources.shards import Shards
from mmkit.errors import UserError
from mmkit.train.loop import train
from tests.data.sources.test_shards import pack
from tests.train.fakes import tiny, weights

SHARDS, EACH = 3, 40
ROOT = Path(__file__).parents[3]


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    for shard in range(SHARDS):
        files = []
        for n in range(shard * EACH, (shard + 1) * EACH):
            files += [(f"{n:09d}.png", picture(n)), (f"{n:09d}.txt", f"a thing of the kind {n % 7}, {n}".encode())]
        pack(root / f"{shard:05d}.tar", files)
    build_index(root)
    return root


def samples(dataset, order, *, world, workers):
    """(key, pixels, ids) of each sample of each step, in the order of the whole batch."""
    loaders = [
        make_loader(
            dataset, StepSampler(order, rank_batch=12 // world, rank=rank, world=world, steps=14), workers=workers
        )
        for rank in range(world)
    ]  # fmt: skip
    return [
        [
            (batch.keys[i], batch.normalised().pixels[i], batch.ids[i][batch.mask[i]].tolist())
            for batch in batches for i in range(len(batch))
        ]
        for batches in zip(*loaders, strict=True)
    ]  # fmt: skip


def as_parquet(folder, path):
    """The same samples, in groups of ten rows."""
    records = list(map(Shards(folder).__getitem__, range(SHARDS * EACH)))
    columns = {"image": [record.image for record in records], "caption": [record.captions[0] for record in records]}
    pq.write_table(pa.table(columns), path, row_group_size=10)
    return HuggingFace(path)


@pytest.mark.parametrize("kind", ["shuffled", "blocks", "weights", "parquet"])
def test_any_ranks_and_workers_give_the_same_batches(folder, tokenizer, kind, tmp_path, monkeypatch):
    """Over more than an epoch of ten steps."""
    monkeypatch.setattr(parquet, "MEMORY", 65_000)
    source = as_parquet(folder, tmp_path / "a.parquet") if kind == "parquet" else Shards(folder)
    source = Joined([source, Shards(folder, min_size=0)], weights=(1, 2)) if kind == "weights" else source
    order = order_of(source, seed=2, **({"block": 8, "window": 3} if kind == "blocks" else {}))
    data = PairDataset(source=source, transform=TrainTransform(size=16), tokenizer=tokenizer, max_tokens=8, seed=2)
    if kind == "parquet":
        assert order.block == 10
        assert 1 < order.window == source.neighbours[1] < 12
    wanted = samples(data, order, world=1, workers=0)
    assert len(wanted) == 14
    if kind != "weights":
        assert len({key for step in wanted[:10] for key, _, _ in step}) == 120
    for world, workers in ((2, 0), (3, 2)) if kind in ("shuffled", "parquet") else ((2, 0),):
        for step, other in zip(wanted, samples(data, order, world=world, workers=workers), strict=True):
            assert [(key, ids) for key, _, ids in step] == [(key, ids) for key, _, ids in other]
            assert all(torch.equal(one, two) for (_, one, _), (_, two, _) in zip(step, other, strict=True))


def test_a_run_that_was_stopped_in_mid_epoch_goes_on_with_the_same_shards_alone(folder, tmp_path):
    def run(**changes):
        return tiny(data=dict(train=partial(Shards, path=mine), workers=1), run=dict(steps=6, **changes))

    mine, one = tmp_path / "mine", tmp_path / "mine/00001.tar"
    shutil.copytree(folder, mine)
    build_index(mine)
    whole = train(run(), tmp_path / "whole")
    train(run(stop_after_steps=4), tmp_path / "parts")
    begun = one.read_bytes()
    one.write_bytes(begun + bytes(10_240))  # more of an end
    build_index(mine)
    with pytest.raises(UserError, match="cannot resume: the shards are not those that the run began with"):
        train(run(), tmp_path / "parts", resume=True)
    one.write_bytes(begun)  # another time, the same samples
    build_index(mine)
    assert train(run(), tmp_path / "parts", resume=True)["loss"] == whole["loss"]
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


MEMORY = """
import sys
from mmkit.data.sources.shards import Shards

def own():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

source = Shards(sys.argv[1])
place = type(source.place)
place.read = lambda self, name, start, size, stamp: b""
for number in range(0, len(source), 997):
    source[number]
before, said = own(), []
for number in range(0, len(source), 101):
    source[number]
said.append(own() - before)
seen = [sum(1 for _ in walk) for walk in (source.captions(), source.described(), source.target("label"))]
said.append(own() - before)
print(len(source), *seen, *said)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_a_process_does_not_grow_over_a_large_index(tmp_path):
    rows, n = 10_000, 30
    numbers, words = np.arange(rows), pa.array([f"words that describe the picture {i}" for i in range(rows)])
    columns = [
        pa.array([f"{i:09d}" for i in range(rows)]), pa.array(numbers), pa.array(numbers),
        pa.ListArray.from_arrays(pa.array(np.arange(rows + 1), pa.int32()), words),
        *[pa.array(numbers, pa.int32())] * 2,
        pa.array(['{"label": 3}'] * rows), pa.nulls(rows, schema().field("clip").type),
    ]  # fmt: skip
    batch, parts = pa.record_batch(columns, schema=schema()), []
    for number in range(n):
        path = tmp_path / f"{number:05d}.tar"
        path.write_bytes(b"")
        parts.append(Part(path.name, 0, str(path.stat().st_mtime_ns), rows, {"label": rows}))
    write_index(tmp_path / INDEX, parts, [batch] * n)
    size = (tmp_path / INDEX).stat().st_size
    assert size > 25e6
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    records, captions, described, labels, reading, walking = map(int, done.stdout.split())
    assert records == captions == described == labels == rows * n
    assert reading < 3_000  # kB
    assert walking < 15_000  # a shard's rows at a time, of thirty


def test_an_order_of_shards_is_that_of_their_number(folder):
    assert order_of(Shards(folder), seed=5) == Order(size=SHARDS * EACH, seed=5)
