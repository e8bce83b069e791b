"""Whether a machine is fit: each check measures, judges, and never ends the others."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from mmkit.cli import main
from mmkit.doctor import machine, together
from mmkit.doctor.finding import Finding, at_least, attempted
from tests.several import on_processes

CPU = torch.device("cpu")


@pytest.mark.parametrize(("value", "state"), [(5.0, "ok"), (4.9, "look"), (1.0, "look"), (0.9, "wrong")])
def test_a_number_is_judged(value, state):
    found = at_least("x", value, "GB/s", 5.0, 1.0)
    assert (found.state, found.value) == (state, value)
    assert at_least("x", 0.0, "GB/s", 5.0).state == "look"


def test_its_line():
    assert (
        at_least("disk", 20_000.0, "MB/s", 5.0).line() == "ok    disk                   20,000 MB/s; wanted: 5 or more"
    )


def test_a_check_that_fails_is_wrong_and_the_others_go_on():
    def fails():
        raise OSError("no such disk")

    (found,) = attempted("disk", fails)
    assert (found.name, found.state, found.said) == ("disk", "wrong", "failed: OSError: no such disk")


def test_the_disk_and_the_tar_are_measured_and_nothing_stays(tmp_path):
    found = {f.name: f for f in (*machine.disk(tmp_path), *machine.tar(tmp_path))}
    assert set(found) == {"disk.free", "disk.write", "disk.fsync", "tar.read"}
    assert all(f.value > 0 for f in found.values())
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_little_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    assert machine.shared_memory(1, tmp_path)[0].state == "wrong"  # as in a container that nobody gave more
    assert machine.shared_memory(1, tmp_path / "none") == []
    assert machine.disk(tmp_path)[0].state == "wrong"
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    assert machine.shared_memory(1, tmp_path)[0].state == "ok"
    assert machine.shared_memory(2, tmp_path)[0].state == "look"
    import resource

    for limit, state in ((64, "wrong"), (1024, "look"), (4096, "ok"), (resource.RLIM_INFINITY, "ok")):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        assert machine.open_files()[0].state == state


def test_a_card_that_pytorch_does_not_see_is_wrong(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert machine.of_device(CPU)[0].state == "ok"
    monkeypatch.setattr(machine.Path, "exists", lambda self: True)
    found = machine.of_device(CPU)[0]
    assert found.state == "wrong"
    assert "PyTorch cannot use" in found.said


def test_products_are_those_of_the_machine():
    found = {f.name: f.value for f in machine.products(CPU)}
    assert set(found) == {"product.float32", "product.bfloat16"}
    assert all(value > 0 for value in found.values())
    calls = []
    assert 0 < machine.best_of(lambda: calls.append(1), CPU, times=4) < 1
    assert len(calls) == 4


def quick(monkeypatch, tmp_path, state="ok"):
    found = Finding(name="disk", said="3", wanted="4", state=state, value=3.0)
    monkeypatch.setattr(machine, "checks", lambda *_: {"disk": lambda: [found]})
    return ["doctor", "--out", str(tmp_path), "--json", str(tmp_path / "found.json")]


@pytest.mark.parametrize("state", ["ok", "look"])
def test_the_command_says_all_and_ends_well(monkeypatch, tmp_path, capsys, state):
    assert main(quick(monkeypatch, tmp_path, state)) == 0
    assert f"{state:<5} disk                   3; wanted: 4" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["disk"] == {"said": "3", "state": state, "value": 3.0}


def test_what_would_break_a_run_ends_with_one(monkeypatch, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(quick(monkeypatch, tmp_path, "wrong"))
    assert end.value.code == 1
    assert (tmp_path / "found.json").is_file()


def test_there_is_a_folder_to_measure(tmp_path, capsys):
    assert main(["doctor", "--out", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_the_checks_are_all_there():
    assert set(machine.checks(CPU, os.curdir, 2)) == {
        "versions", "device", "product", "allocator", "shared_memory", "open_files", "disk", "tar", "decode",
    }  # fmt: skip
    assert "torch 2" in machine.versions()[0].said
    assert machine._version("no-such-package") == "not installed"
    assert machine.decode()[0].value > 10


def meet(rank, world, folder):
    found = {f.name: f for check in together.checks(CPU).values() for f in check()}
    assert found["processes"].value == world
    assert found["processes"].state == found["versions.alike"].state == found["collectives.right"].state == "ok"
    assert found["collectives.reduce"].value > 0
    assert found["collectives.all_to_all"].value > 0
    assert 0 <= found["clocks"].value < 60


def test_two_processes_meet(tmp_path):
    on_processes(2, meet, tmp_path)


def test_processes_that_differ_are_named(monkeypatch):
    each = [("a", "torch 2.15"), ("a", "torch 2.15"), ("b", "torch 2.14")]
    monkeypatch.setattr(together, "gather_objects", lambda own: each)
    count, alike = together.processes()
    assert (count.said, count.state) == ("3 on 2 machine(s): a 2, b 1", "look")
    assert (alike.said, alike.state) == ("process 2 has torch 2.14", "wrong")


def test_a_clock_that_is_behind_is_named(monkeypatch):
    monkeypatch.setattr(together.torch.distributed, "barrier", lambda: None)
    rounds = iter([[10.0, 15.0], [10.0, 12.0], [10.0, 12.5], [10.0, 14.0], [10.0, 14.0]])
    monkeypatch.setattr(together, "gather_objects", lambda own: next(rounds))
    (found,) = together.clocks()
    assert (found.value, found.said, found.state) == (2.0, "2.000 s apart, process 0 behind", "look")
