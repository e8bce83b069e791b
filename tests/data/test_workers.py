"""Loading workers: how they are started, that they neither catch signals nor grow, and who is named when one ends."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from PIL import Image
from torch.utils.data import get_worker_info

from mmkit.data import workers
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.records import JsonLines
from mmkit.data.workers import context_for, named_workers
from mmkit.errors import UserError
from mmkit.train.loop import train
from tests.test_parent import gone
from tests.train.fakes import Squares, tiny

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_all_start_methods()[0] == "fork"


@pytest.mark.skipif(not FORKS, reason="Python forks by itself only here")
def test_where_a_gpu_is_at_work_workers_come_from_a_server(caplog, monkeypatch):
    assert context_for(False, Squares()).get_start_method() == "fork"
    assert context_for(True, Squares()).get_start_method() == "forkserver"
    caplog.set_level("INFO", workers.log.name)
    workers.log.addHandler(caplog.handler)
    for own in (lambda: 1, open(os.devnull)):  # noqa: SIM115
        assert context_for(True, own).get_start_method() == "fork"
    assert "<lambda>" in caplog.text
    assert "TextIOWrapper" in caplog.text
    monkeypatch.setattr(workers, "MOST", 2_000_000)
    assert context_for(True, [b"x" * 1_000_000, b"y" * 900_000]).get_start_method() == "forkserver"
    assert context_for(True, [b"x" * 1_000_000, b"y" * 1_000_000]).get_start_method() == "fork"
    workers.log.removeHandler(caplog.handler)
    assert "it is more than 2 MB" in caplog.text
    assert multiprocessing.get_start_method(allow_none=True) in (None, "fork")  # what others choose is left to them


SAID = "was ended by a signal (Killed)"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("DataLoader worker (pid 71) is killed by signal: Killed. ", f"(process 71) {SAID}"),
        ("DataLoader worker (pid(s) 71, 72) exited unexpectedly", "(process 71, 72) has ended"),
        ("DataLoader worker (pid 71) exited unexpectedly with exit code 1.", "(process 71) has ended"),
    ],
)
def test_the_worker_that_ended_is_named(message, said):
    with pytest.raises(UserError) as caught, named_workers():
        raise RuntimeError(message)
    assert f"a loading worker {said}, as the system does" in str(caught.value)
    with pytest.raises(RuntimeError, match="other"), named_workers():
        raise RuntimeError("other")


class Killed(Squares):
    """Of which a picture's worker is killed, as the system does where memory ends."""

    def __getitem__(self, index):
        if index == 17 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_run_whose_worker_is_killed_ends_with_one_message(tmp_path):
    exp = tiny(data=dict(train=partial(Killed), workers=1))
    with pytest.raises(UserError, match=r"a loading worker \(process \d+\) (was ended by a signal|has ended)"):
        train(exp, tmp_path)


# ---- from a server: signals, and the end of the rank ----------------------------------------------------------------

RANK = """
import sys, time
from mmkit.data import workers
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.images.transforms import TrainTransform
from tests.train.fakes import Squares
if __name__ == "__main__":
    make = workers.context_for
    import mmkit.data.loader as module
    module.context_for = lambda served, *sent: make(True, *sent)
    dataset = PairDataset(source=Squares(), transform=TrainTransform(size=24), tokenizer=None, max_tokens=0)
    sampler = StepSampler(40, rank_batch=4, steps=1000)
    batches = iter(make_loader(dataset, sampler, workers=2))
    first = [next(batches) for _ in range(3)]  # of both workers, so both are at work
    print(" ".join(str(worker.pid) for worker in batches._workers), flush=True)
    for line in sys.stdin:
        for _ in range(20):  # more than what is made ahead
            batch = next(batches)
        print(len(batch), flush=True)
"""


def test_workers_of_a_server_outlive_a_signal_to_all_and_not_their_rank(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    rank = subprocess.Popen(
        [sys.executable, tmp_path / "rank.py"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    below = [psutil.Process(int(pid)) for pid in rank.stdout.readline().split()]
    assert len(below) == 2
    server = below[0].parent()
    assert server.pid != rank.pid
    for process in (server, *below):
        process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    rank.stdin.write("go on\n")
    rank.stdin.flush()
    assert rank.stdout.readline() == "4\n"
    rank.kill()
    rank.communicate()
    assert gone([server, *below], 3)


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_workers_over_many_records_do_not_grow(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    line = json.dumps({"image": "a.png", "caption": "a red square, number %06d of very many", "image_id": "%06d"})
    (tmp_path / "rows.jsonl").write_text("".join(line.replace("%06d", f"{i:06d}") + "\n" for i in range(100_000)))
    dataset = PairDataset(
        source=JsonLines(tmp_path / "rows.jsonl"), transform=TrainTransform(size=8), tokenizer=None, max_tokens=0
    )
    sampler = StepSampler(100_000, rank_batch=25, steps=200)
    batches = iter(make_loader(dataset, sampler, workers=2))
    below = None
    for number, _ in enumerate(batches):
        if number == 40:
            below = [psutil.Process(worker.pid) for worker in batches._workers]
            before = [process.memory_full_info().uss for process in below]
        if number == 160:
            after = [process.memory_full_info().uss for process in below]
            break
    assert all(then - now < 4 * 2**20 for now, then in zip(before, after, strict=True)), (before, after)
