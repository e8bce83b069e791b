"""No rank outlives its launcher, no loading worker its rank; a run that nobody launched outlives its shell."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mmkit import parent
from mmkit.errors import UserError

ROOT = Path(__file__).parents[1]
RANK = (
    "import signal, sys, time, mmkit.parent as p; p.EVERY = 0.05; {before}p.live_with_launcher()\n"
    "p.os.write(1, b'%d\\n' % p.os.getpid()); time.sleep(60)\n"
)
STARTS = "import subprocess, sys, time; [subprocess.Popen(sys.argv[1:]) for _ in range(2)]; time.sleep(60)\n"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="processes of POSIX")


def rank(before=""):
    return [sys.executable, "-c", RANK.format(before=before)]


def start(command, ranks, **environment):
    """The process that was started, and the ranks below it, once they watch."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    return process, [psutil.Process(int(process.stdout.readline())) for _ in range(ranks)]


def alive(processes):
    return [p.pid for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def gone(processes, seconds=10.0):
    end = time.time() + seconds
    while alive(processes) and time.time() < end:
        time.sleep(0.02)
    left = alive(processes)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return not left


@pytest.fixture
def launcher(tmp_path):
    """A program with the name of a launcher, that starts two of what it is given."""
    path = tmp_path / "torchrun"
    path.write_text(STARTS)
    return [sys.executable, str(path)]


NO_SIGNAL = "p.end_with_parent = lambda *a: None; "  # as on systems other than Linux
NO_THREAD = "p._watch = lambda chain: None; "


DEAF = "p.GRACE = 0.2; signal.signal(signal.SIGTERM, signal.SIG_IGN); "  # it hangs


@pytest.mark.parametrize("before", ["", NO_SIGNAL, NO_THREAD, DEAF])
def test_ranks_end_with_their_launcher(launcher, before):
    if before == NO_THREAD and not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends a process with its parent")
    process, ranks = start([*launcher, *rank(before)], 2)
    assert len(alive(ranks)) == 2
    process.kill()
    assert gone(ranks)


@pytest.mark.parametrize("told", [False, True])
def test_a_rank_may_save_and_has_longer_where_it_was_told_before(launcher, tmp_path, told):
    saves = (
        "p.GRACE = 0.5; write = lambda: open({!r}, 'a').write('saved '); "
        "f = lambda *a: (p.told_to_stop(15), time.sleep({}), write(), p.os._exit(0)); "
        "signal.signal(signal.SIGTERM, f); "
    )
    place = str(tmp_path / "saved")
    process, ranks = start([*launcher, *rank(saves.format(place, 1.5 if told else 0.1))], 2)
    if told:
        for one in ranks:
            one.terminate()
        time.sleep(0.2)
    process.kill()
    assert gone(ranks)
    assert Path(place).read_text() == "saved saved "


def test_a_rank_may_save_where_the_system_sends_no_signal(launcher, tmp_path):
    place = str(tmp_path / "saved")
    saves = f"signal.signal(signal.SIGTERM, lambda *a: (open({place!r}, 'a').write('saved '), p.os._exit(0))); "
    process, ranks = start([*launcher, *rank(NO_SIGNAL + saves)], 2)
    process.kill()
    assert gone(ranks, 5)
    assert Path(place).read_text() == "saved saved "


def test_a_rank_that_hears_of_it_by_the_end_of_its_launcher_has_not_longer(launcher):
    hangs = "p.GRACE = 0.3; signal.signal(signal.SIGTERM, lambda *a: p.told_to_stop(15)); "
    process, ranks = start([*launcher, *rank(hangs)], 2)
    process.kill()
    process.wait()
    assert gone(ranks, 5)


def test_ranks_end_though_a_shell_stands_between(launcher):
    process, ranks = start([*launcher, "sh", "-c", '"$@"; true', "sh", *rank()], 2)
    shells = [p.parent() for p in ranks]
    assert {p.name() for p in shells} & {"sh", "dash", "bash"}
    process.kill()
    assert gone(ranks)
    assert gone(shells)


@pytest.mark.parametrize(("world", "ends"), [("2", True), ("1", False)])
def test_ranks_that_a_program_started_end_with_it_and_a_single_process_does_not(world, ends):
    process, ranks = start([sys.executable, "-c", STARTS, *rank()], 2, WORLD_SIZE=world)
    process.kill()
    process.wait()
    if not ends:
        time.sleep(0.5)  # ten looks
        assert len(alive(ranks)) == 2
    assert gone(ranks, 10 if ends else 0) == ends


@pytest.mark.parametrize("shell", ["{} & read x", "nohup {} & read x", "setsid {} & read x"])
def test_a_run_that_nobody_launched_outlives_its_shell(tmp_path, shell):
    program = tmp_path / "rank.py"
    program.write_text(RANK.format(before=""))
    command = ["sh", "-c", shell.format(f"{sys.executable} {program}")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    ranks = [psutil.Process(int(process.stdout.readline()))]
    process.kill()
    process.wait()
    time.sleep(0.5)
    assert len(alive(ranks)) == 1
    gone(ranks, 0)


def test_a_rank_whose_launcher_has_gone_before_it_looks_is_refused(monkeypatch):
    monkeypatch.setattr(parent, "_watching", [])
    monkeypatch.setattr(parent, "_launcher", list)
    monkeypatch.setattr(parent, "PARENT", os.getppid() + 1)
    parent.live_with_launcher()  # a run that nobody launched, and whose shell has ended
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match="launcher that started this process has ended already"):
        parent.live_with_launcher()
    monkeypatch.setattr(parent, "PARENT", os.getppid())
    parent.live_with_launcher()
    monkeypatch.setattr(parent.os, "getppid", lambda: 1)
    monkeypatch.setattr(parent, "PARENT", 1)
    with pytest.raises(UserError, match="has ended already"):
        parent.live_with_launcher()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_a_parent_that_has_gone_meanwhile_is_noticed():
    code = "import mmkit.parent as p; p.end_with_parent(p.os.getppid() + 1, 9); print('lives')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""


def test_a_loading_worker_outlives_a_signal_to_all():
    code = (  # a shell starts what runs behind with SIGINT ignored, which Python then leaves so
        "import os, signal, time, mmkit.parent as p; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "p.end_with_rank(0); print(os.getpid(), flush=True); time.sleep(60)"
    )
    process, workers = start([sys.executable, "-c", code], 1)
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    time.sleep(0.3)
    assert len(alive(workers)) == 1
    process.kill()
    process.wait()


def test_a_loading_worker_that_was_told_to_stop_has_the_time_of_a_step():
    code = (
        "import time, mmkit.parent as p; p.STEP = 1; p.end_with_rank(0); print(p.os.getpid(), flush=True); "
        "time.sleep(60)"
    )
    process, workers = start([sys.executable, "-c", code], 1)
    process.terminate()
    time.sleep(0.3)
    assert len(alive(workers)) == 1
    assert process.wait(5) == -signal.SIGALRM


@pytest.mark.parametrize(
    ("words", "launches"),
    [
        (["/usr/bin/python3", "/venv/bin/accelerate", "launch", "x.py"], True),
        (["python", "-m", "accelerate.commands.launch", "x.py"], True),
        (["python", "-m", "torch.distributed.run", "x.py"], True),
        (["/venv/bin/torchrun", "x.py"], True),
        (["accelerate.exe", "launch", "x.py"], True),
        (["python", "/venv/bin/accelerate", "config"], False),
        (["python", "train.py", "--name", "x", "--note", "y", "torchrun"], False),
        (["bash"], False),
        ([], False),
    ],
)
def test_launchers_are_known_by_their_names(words, launches):
    class Process:
        def cmdline(self):
            return words

    assert parent._launches(Process()) == launches
