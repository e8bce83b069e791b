"""Two gloo processes on the CPU: the same run as one process, resume, and errors that all of them see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmkit.train.loop import train
from tests.several import as_launched
from tests.train.fakes import drawing, plain, weights
from tests.train.test_loop import assert_close_runs

ROOT = Path(__file__).parents[2]


def launch(*command, processes=2):
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu2.yaml",
                "--num_processes", str(processes)]  # fmt: skip
    return subprocess.run(
        [*launcher, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    as_launched(2, ["-m", "tests.train.two_processes", out], out)
    return out, [json.loads((out / f"report-{r}.json").read_text()) for r in (0, 1)]


@pytest.mark.slow
def test_two_processes_run_as_one(two, tmp_path):
    out, reports = two
    numbers = train(plain(4), tmp_path)
    assert reports[0]["loss"] == reports[1]["loss"] == pytest.approx(numbers["loss"], abs=1e-4)
    for run in ("plain", "chunks-ddp", "chunks-fsdp"):
        one, other = weights(tmp_path), weights(out / run)
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_micro_batches_on_two_processes_take_the_steps_of_the_joined_batch(two, tmp_path):
    out, _ = two
    train(drawing(), tmp_path)
    assert_close_runs(out / "accumulated", tmp_path)


def test_two_processes_resume_bit_for_bit(two):
    out, _ = two
    one, other = weights(out / "whole"), weights(out / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_processes_stop_together_by_the_first_one_s_clock(two):
    out, reports = two
    assert reports[0]["clock"] == reports[1]["clock"]
    assert reports[0]["clock"][0] == 6
    kept = json.loads(next((out / "clock").glob("checkpoints/step-*/meta.json")).read_text())
    assert kept["seconds"] == pytest.approx(0.75)


def test_processes_save_together_by_the_first_one_s_clock(two):
    _, reports = two
    assert [report["saves"]["steps"] for report in reports] == [[3, 6, 7], [3, 6, 7]]


def test_a_failed_save_in_the_background_stops_all_processes(two):
    out, reports = two
    for report in reports:
        kind, message, *steps = report["saves"]["full"]
        assert kind == "UserError"
        assert "step-00000003: cannot be written (No space left on device; " in message
        assert steps == [3]
    assert list((out / "full" / "checkpoints").iterdir()) == []


def test_a_mistake_of_one_process_is_named_by_all(two):
    _, reports = two
    for report in reports:
        found = report["mistakes"]
        assert (found["none"], found["value"]) == (report is reports[1], 7)
        assert found["two"] == ["FileNotFoundError", "[Errno 2] no such file: 'x'"]  # the first process's
    first, second = (report["mistakes"] for report in reports)
    assert first["first"] == ["ZeroDivisionError", "a mistake"]
    assert second["first"] == ["UserError", "process 0 stopped: ZeroDivisionError: a mistake"]
    assert second["one"] == ["KeyError", "'a mistake'"]
    assert first["one"] == ["UserError", "process 1 stopped: KeyError: 'a mistake'"]


def test_a_process_that_leaves_is_named_by_those_that_wait_for_it(two):
    _, reports = two
    assert reports[1]["left"] == ["KeyError", "'a mistake'"]
    assert reports[0]["left"] == ["UserError", "process 1 stopped: KeyError: 'a mistake'"]


def test_every_process_names_what_went_wrong_on_one(two):
    _, reports = two
    assert reports[0]["sick"] == reports[1]["sick"]
    assert "step 2: loss 'sick' is not finite" in reports[0]["sick"]
    assert reports[0]["sick"].count("(rank 1)") == 4
    assert "(rank 0)" not in reports[0]["sick"]
    assert reports[0]["bad"] == reports[1]["bad"]
    assert "pictures could not be read" in reports[0]["bad"]
