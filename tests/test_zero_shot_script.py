"""``scripts/zero_shot_classification.py`` under ``accelerate launch``: any number of processes, one result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmkit.cli.main import main
from mmkit.hub import folder as hub
from tests.evals.parts import Pictures
from tests.hub.test_folder import make
from tests.several import as_launched

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "zero_shot_classification.py"


@pytest.fixture
def folder(tmp_path):
    """A saved model and 17 pictures, which neither 2 nor 3 processes, nor a batch of 4, divide."""
    predictor, experiment = make()
    hub.save(tmp_path / "model", predictor, experiment)
    source = Pictures(17)
    for i in range(17):
        path = tmp_path / "classes" / source[i].targets["label"] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        source[i].image.save(path)
    return tmp_path


def launch(processes, *arguments):
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes,
        "--main_process_port", 0, "--mixed_precision", "no", "--num_machines", 1, "--dynamo_backend", "no",
        SCRIPT, *arguments,
    ]  # fmt: skip
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_one_two_and_three_processes_give_the_same(folder):
    """The first two make their text bank; three processes read that of two."""

    def arguments(bank, out):
        return (
            "--model", folder / "model", "--data", folder / "classes", "--templates", "openmoji", "--rerank", 3,
            "--batch-size", 4, "--text-bank", folder / bank, "--json", folder / out,
        )  # fmt: skip

    assert main(["zeroshot", "--device", "cpu", *map(str, arguments("a", "1.json"))]) == 0
    done = launch(2, *arguments("b", "2.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    forks = as_launched(3, [SCRIPT, *arguments("b", "3.json")], folder)
    for processes, (out, err) in {2: (done.stdout, done.stderr), 3: forks}.items():
        assert out.count("zero-shot: 17 pictures, 11 classes") == 1
        assert ("text bank of 11 classes read" in err) == (processes == 3)
    found = [json.loads((folder / f"{n}.json").read_text()) for n in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    assert found[0]["n"] == 17
