"""A lock among processes and threads: who waits, for how long, and what happens where there are none."""

import threading
import time

import filelock
import pytest

from mmkit.data.alone import alone, lock_of


@pytest.fixture
def held(tmp_path):
    """A lock that a thread has; ``go`` ends it."""
    inside, go = threading.Event(), threading.Event()

    def hold():
        with alone(tmp_path / "deep" / "lock"):
            inside.set()
            go.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(5)
    yield go
    go.set()
    thread.join()


def test_who_waits_is_told_so_and_comes_in_once_the_other_one_is_out(held, tmp_path, caplog):
    caplog.set_level("INFO", "mmkit")
    threading.Timer(0.1, held.set).start()
    with alone(tmp_path / "deep" / "lock", told="another one has it"):
        assert held.is_set()
    assert caplog.messages == ["another one has it"]
    with alone(tmp_path / "deep" / "lock", told="another one has it"):
        pass
    assert caplog.messages == ["another one has it"]


def test_who_has_waited_long_enough_comes_in_all_the_same(held, tmp_path):
    began = time.monotonic()
    with alone(tmp_path / "deep" / "lock", wait=0.2):
        assert not held.is_set()
    assert 0.2 <= time.monotonic() - began < 2


def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(KeyError), alone(tmp_path / "lock"):
        raise KeyError
    with alone(tmp_path / "lock", wait=0.0, told="held"):
        pass


@pytest.mark.parametrize("error", [OSError("no space"), NotImplementedError("no flock")])
def test_where_there_are_no_locks_nobody_waits(tmp_path, monkeypatch, caplog, error):
    def fails(self, timeout):
        raise error

    caplog.set_level("INFO", "mmkit")
    monkeypatch.setattr(filelock.FileLock, "acquire", fails)
    with alone(tmp_path / "lock"):
        assert f"no locks there ({error})" in caplog.text
    (tmp_path / "file").write_text("")
    with alone(tmp_path / "file" / "lock"):
        assert f"{tmp_path / 'file' / 'lock'}: no locks there" in caplog.text


def test_the_lock_of_a_place_lies_with_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("MMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert lock_of("a").parent == tmp_path / "cache" / "locks"
    assert lock_of("a") == lock_of(tmp_path / "a") != lock_of("b")
