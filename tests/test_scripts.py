"""The scripts for ``accelerate launch``, as README spells them, with small settings put in, on two processes."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.several import as_launched
from tests.train.test_processes import launch

ROOT = Path(__file__).parent.parent
LINES = re.findall(r"^(?:\w+=\w+ )?accelerate launch .*?(scripts/\w+\.py.*)$", (ROOT / "README.md").read_text(), re.M)
SMALL = [
    "data.global_batch=4", "data.workers=0", "run.steps=2", "run.save_every_steps=0", "run.trackers=[]",
    "data.train.n=40",
]  # fmt: skip
PRETRAIN = [
    *SMALL, *(f"first.{change}" for change in SMALL), "first.evals.retrieval.source.n=6", "report=null",
    "first.evals.retrieval_zh.source.n=6", "first.report=null", "evals.vqa.source.n=12",
]  # fmt: skip
EASY = [change for change in (*SMALL, *(f"first.{change}" for change in SMALL)) if "train.n" not in change]


def test_the_three_uses_are_named():
    assert {line.split()[0] for line in LINES} == {
        "scripts/pretrain.py", "scripts/finetune_vqa.py", "scripts/zero_shot_classification.py"
    }  # fmt: skip


def arguments_of(script, tmp_path, changes):
    """Those of README's line, its run in a folder of the test."""
    line = shlex.split(next(line for line in LINES if line.startswith(script)))
    arguments = [str(tmp_path / "run") if part.startswith("runs/") else part for part in line[1:]]
    return [*arguments, "--json", tmp_path / "n.json", "--set", *changes]


@pytest.mark.slow
def test_readmes_line_pretrains_on_two_processes(tmp_path):
    done = launch("scripts/pretrain.py", *arguments_of("scripts/pretrain.py", tmp_path, PRETRAIN))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "n.json").read_text())["vqa.n"] == 12
    assert (tmp_path / "run" / "vqa" / "experiment.json").is_file()


@pytest.mark.slow
def test_readmes_line_finetunes_on_two_processes(tmp_path):
    script, changes = "scripts/finetune_vqa.py", [*EASY, "evals.vqa.source.n=12"]
    as_launched(2, [script, *arguments_of(script, tmp_path, changes)], tmp_path)
    assert json.loads((tmp_path / "n.json").read_text())["vqa.n"] == 12
    assert (tmp_path / "run" / "experiment.json").is_file()


def test_easy_vqa_is_what_finetuning_starts_with():
    command = [sys.executable, "scripts/finetune_vqa.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "configs/finetune/easy_vqa.py:classifier" in re.sub(r"\s+", "", done.stdout)
