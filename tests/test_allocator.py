"""Which allocator runs, what the plan says of it, and programs that begin anew with glibc told how to serve a step."""

import json
import os
import subprocess
import sys

import pytest
from torch import nn

from mmkit import allocator as memory
from mmkit.allocator import BEGUN, TUNABLES, advice, allocator, begin_anew, to_begin_with
from mmkit.cli import main
from mmkit.train.plan import make_plan
from tests.train.fakes import tiny
from tests.train.test_plan import PLAN

SHOWS = f"""
import json, os, sys
from mmkit import allocator
allocator.GPUS = ()
allocator.begin_anew()
print(json.dumps([sys.argv[1:], allocator._told, sorted({{"{BEGUN}", "{TUNABLES}"}} & os.environ.keys()), os.getpid()]))
"""


@pytest.fixture
def on_glibc(monkeypatch, tmp_path):
    """Linux without a GPU."""
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    monkeypatch.setattr(memory, "GPUS", (tmp_path / "none",))


@pytest.mark.parametrize(("library", "name"), [
    ("libtcmalloc_minimal.so.4.5.9", "tcmalloc"), ("libjemalloc.so.2", "jemalloc"), ("libmimalloc.so.2", "mimalloc"),
    ("libother.so", "glibc"),
])  # fmt: skip
def test_the_allocator_is_read_from_the_process(tmp_path, library, name):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 08:01 99 /usr/lib/libc.so.6\n7f02-7f03 rw-p 00000000 00:00 0\n"
        f"7f04-7f05 r-xp 00000000 08:01 98 /opt/of tcmalloc/{library}\n"
    )
    assert allocator(maps) == name
    assert allocator(tmp_path / "none") is None


def test_the_plan_says_which_it_is_on_the_cpu_alone(monkeypatch):
    assert advice(None) == ""
    assert advice("jemalloc") == "allocator jemalloc"
    assert advice("glibc").startswith("allocator glibc as it comes; without GLIBC_TUNABLES set, `mmkit train`")
    monkeypatch.setattr(memory, "_told", True)
    assert advice("glibc") == "allocator glibc, told to keep large blocks whole"
    assert PLAN.__class__(**{**vars(PLAN), "allocator": "allocator x"}).lines()[-1] == "allocator x"


@pytest.mark.parametrize(("device", "said"), [("cpu", True), ("cpu:0", True), ("cuda:0", False)])
def test_each_run_on_the_cpu_says_it(device, said):
    """Processes of a launcher are on cpu:0, and said nothing."""
    task = nn.Module()
    task.model, task.heads = nn.Linear(1, 1), nn.ModuleDict()
    plan = make_plan(
        tiny(), task, records=4, steps_per_epoch=1, start_step=0, batch=PLAN.batch, device=device, precision="no",
        product=PLAN.product, threads=1,
    )  # fmt: skip
    assert plan.allocator == (advice(allocator()) if said else "")


def test_glibc_is_told_where_that_gains_something(on_glibc, monkeypatch, tmp_path):
    told = to_begin_with({"LD_PRELOAD": "/opt/libother.so"})
    assert told.keys() == {BEGUN, TUNABLES}
    assert told[TUNABLES].split(":") == [
        "glibc.malloc.tcache_count=0", "glibc.malloc.mxfast=0", "glibc.malloc.trim_threshold=1099511627776",
        "glibc.malloc.mmap_threshold=268435456", "glibc.malloc.hugetlb=1",
    ]  # fmt: skip
    for chosen in ({TUNABLES: ""}, {"MALLOC_ARENA_MAX": "1"}, {"LD_PRELOAD": "/opt/libtcmalloc_minimal.so.4"}):
        assert to_begin_with(chosen) == {}
    (tmp_path / "gpu").touch()
    with monkeypatch.context() as patch:
        patch.setattr(memory, "GPUS", (tmp_path / "none", tmp_path / "gpu"))
        assert to_begin_with({}) == {}
    monkeypatch.setattr(os, "confstr", lambda name: "musl 1.2")
    assert to_begin_with({}) == {}
    monkeypatch.delattr(os, "confstr")
    assert to_begin_with({}) == {}


def test_a_program_begins_anew_once(monkeypatch, tmp_path):
    """With its arguments and its number; what it starts is told nothing. Where memory was chosen for, it goes on."""
    file = tmp_path / "show.py"
    file.write_text(SHOWS)
    monkeypatch.setattr(memory, "GPUS", ())
    plain = {name: value for name, value in os.environ.items() if name != TUNABLES and not name.startswith("MALLOC_")}
    for environment, told, left in (
        (plain, bool(to_begin_with(plain)), []), (plain | {TUNABLES: ""}, False, [TUNABLES]),
    ):  # fmt: skip
        command = [sys.executable, str(file), "a b", "--set=x"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as program:
            said = json.loads(program.communicate()[0])
        assert said == [["a b", "--set=x"], told, left, program.pid]


def test_training_begins_anew_on_a_command_line_alone(on_glibc, monkeypatch, tmp_path):
    """Not where a program calls it, for a command that does not train, or without a file to begin with."""
    begun: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda program, words, env: begun.append([program, *words, env[BEGUN]]))
    monkeypatch.delenv(TUNABLES, raising=False)

    def started(python: list[str], *words: str, file: str = __file__) -> None:
        monkeypatch.setattr(sys, "orig_argv", [*python, *words])
        monkeypatch.setattr(sys, "argv", [file, *words])
        assert main() == 2

    assert main(["train", "none.py"]) == 2
    started(["python", __file__], "info", "none/none")
    for python in (["python", "-c", "..."], ["python", "other.py"], ["python"], ["-m"]):
        started(python, "train", "none.py")
    started(["python", "-m", "none"], "train", "none.py", file="-m")
    monkeypatch.setattr(sys, "orig_argv", ["python", __file__, "train", "other.py"])
    assert main() == 2
    with monkeypatch.context() as patch:
        patch.setattr(memory, "parent_process", lambda: "another")
        started(["python", __file__], "train", "none.py")
    assert not begun
    started(["python", "-P", __file__], "train", "none.py")
    assert begun == [[sys.executable, sys.executable, "-P", __file__, "train", "none.py", "1"]]
    started(["python", "-m", "mmkit"], "quickstart", "--set", "none=1")
    assert begun[1:] == [[sys.executable, sys.executable, "-m", "mmkit", "quickstart", "--set", "none=1", "1"]]
    begin_anew()
    assert len(begun) == 3


def test_what_was_begun_anew_knows_and_tells_no_one(monkeypatch):
    monkeypatch.setattr(memory, "_told", False)
    monkeypatch.setenv(BEGUN, "1")
    monkeypatch.setenv(TUNABLES, "x")
    begin_anew()
    assert memory._told
    assert BEGUN not in os.environ
    assert TUNABLES not in os.environ
