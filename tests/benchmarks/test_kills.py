"""Ten kills at random moments, over engines and phases; and that the benchmark sees what differs, and who hangs."""

import json
import signal

import pytest

from benchmarks import kills
from benchmarks.kills import Killer
from tests import several  # noqa: F401  # what the processes have imported before they start


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path):
    found = kills.kills(tmp_path, 10, seed=1)
    assert found.wrong == []
    assert found.kills.total() == 10
    assert {name.split()[0] for name in found.kills} == set(kills.ENGINES)
    assert len({name.split()[1] for name in found.kills}) >= 3
    assert found.runs >= 2


LINES = str([f'{{"event": "train", "step": 1, "loss": {loss}}}' for loss in (4, 3)])


def run_of(killer, codes, tell=None):
    """Let a run end so at once, in place of processes."""

    def attempt(out, engine, plan):
        out.mkdir(exist_ok=True)
        told = {"loss": 3, "weight": "a"} | (tell or {})
        (out / "metrics.jsonl").write_text(json.dumps({"event": "train", "step": 1, "time": 7, "loss": told["loss"]}))
        out.with_suffix(".digest").write_text(json.dumps({"task.weight": told["weight"]}))
        return list(codes.pop(0)), [1.0] * len(kills.PHASES)

    killer._attempt = attempt


@pytest.mark.parametrize(
    ("tell", "wrong"),
    [({}, []), ({"weight": "b"}, ["1 differ: task.weight"]), ({"loss": 4}, ["other lines in metrics.jsonl: " + LINES])],
)
def test_what_differs_is_told(tmp_path, tell, wrong):
    killer = Killer(tmp_path)
    run_of(killer, [[0, 0]])
    killer.undisturbed("ddp")
    run_of(killer, [[0, 0]], tell)
    killer.kill("ddp", 0)
    assert [line.partition(": ")[2] for line in killer.found.wrong] == wrong


@pytest.mark.parametrize("codes", [[2, 1], [0, -9]])
def test_a_run_that_ends_badly_without_a_kill_or_as_if_nothing_was_is_told(tmp_path, codes):
    killer = Killer(tmp_path)
    run_of(killer, [[0, 0]])
    killer.undisturbed("ddp")
    run_of(killer, [codes])
    killer.kill("ddp", 0)
    (wrong,) = killer.found.wrong
    assert f"ended with {codes}" in wrong


@pytest.mark.parametrize(("told", "codes"), [(True, [0, -9]), (False, [0, -9]), (True, [0, 2]), (True, [-9, 0])])
def test_who_is_killed_when_all_have_told_that_it_is_done_leaves_a_whole_run(tmp_path, told, codes):
    """Without that, or where another end is told, nobody may end as if nothing was."""
    killer = Killer(tmp_path)
    run_of(killer, [[0, 0]])
    killer.undisturbed("ddp")
    run_of(killer, [codes])
    whole = killer._attempt

    def killed(out, engine, plan):
        killer.found.kills["ddp evaluate"] += 1
        found = whole(out, engine, plan)
        if not told:
            out.with_suffix(".digest").unlink()
        return found

    killer._attempt = killed
    killer.kill("ddp", 1)
    assert [f"ended with {codes}" in line for line in killer.found.wrong] == [True] * (not told or codes != [0, -9])


def test_a_moment_lies_in_its_phase(tmp_path):
    killer = Killer(tmp_path, seed=3)
    killer.whole["ddp"] = ({}, [], [4.0, 0.1, 0.2, 0.3, 0.5])
    plans = [killer._plan("ddp") for _ in range(200)]
    assert {phase for phase, *_ in plans} == set(kills.PHASES)
    assert {who for *_, who in plans} == {"first", "last", "all"}
    longest = {phase: max(seconds for one, _, seconds, _ in plans if one == phase) for phase in kills.PHASES}
    for phase, spent in zip(kills.PHASES, [4.0, 0.1, 0.2, 0.3, 0.5], strict=True):
        assert 0.5 * spent < longest[phase] <= spent


def test_the_killed_is_who_was_drawn(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(kills.os, "kill", lambda pid, number: told.append((pid, number)))

    class Rank:
        def __init__(self, pid):
            self.pid = pid

        def is_alive(self):
            return True

        def terminate(self):
            told.append((self.pid, signal.SIGTERM))

    ranks, killer = [Rank(7), Rank(8), Rank(9)], Killer(tmp_path, world=3)
    for who, pids in (("first", [7]), ("last", [9]), ("all", [7, 8, 9])):
        told.clear()
        killer._kill(ranks, [1, 2, 0, 0, 0], ("step", 2, 0.0, who), "ddp")
        assert told == [(pid, signal.SIGKILL) for pid in pids]
    assert killer.found.kills == {"ddp step": 3}
    told.clear()
    killer._kill(ranks, [1, 0, 0, 0, 0], ("start", 1, 0.0, "first"), "ddp")
    assert told == [(7, signal.SIGKILL), *((rank.pid, signal.SIGTERM) for rank in ranks)]  # as a launcher does
