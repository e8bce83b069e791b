"""What processes do together: each one alone, with a stand-in for the others; real ones in train/test_processes.py."""

import time

import pytest
import torch
import torch.distributed as dist

from mmkit import ranks
from mmkit.errors import Stopped, UserError
from mmkit.ranks import gather, gather_with_grad, named_failures, on_first, sum_over_ranks, together, travelling


@pytest.fixture
def as_rank(monkeypatch):
    """This process as one of several; what the others give, in the order of ranks, with None in its own place."""

    def become(number, others):
        monkeypatch.setattr(ranks, "world_size", lambda: len(others))
        monkeypatch.setattr(ranks, "rank", lambda: number)
        fill = lambda value, among=None: [*others[:number], value, *others[number + 1 :]]  # noqa: E731
        monkeypatch.setattr(ranks, "gather_objects", fill)

        def all_gather(every, x):
            assert x.is_contiguous()
            every.copy_(torch.cat(fill(x)))

        def reduce_scatter(own, x):
            assert x.is_contiguous()
            own.copy_(sum(fill(x)).chunk(len(others))[number])

        monkeypatch.setattr(dist, "all_gather_into_tensor", all_gather)
        monkeypatch.setattr(dist, "reduce_scatter_tensor", reduce_scatter)
        monkeypatch.setattr(dist, "all_reduce", lambda x: [x.add_(y) for i, y in enumerate(others) if i != number])

    return become


def test_rows_are_gathered_in_the_order_of_ranks(as_rank):
    whole = torch.arange(12.0).view(6, 2)
    as_rank(1, [whole[:2], None, whole[4:]])
    own = torch.stack([torch.tensor([4.0, 6.0]), torch.tensor([5.0, 7.0])]).T.requires_grad_()
    assert not own.is_contiguous()
    for gathered in (gather(own), gather_with_grad(own).detach()):
        assert gathered.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert not gather(own).requires_grad


def test_each_row_gets_what_every_rank_asks_of_it(as_rank):
    asked = torch.arange(6.0).view(3, 2)  # by this rank, of the rows of three ranks
    others = 10 * torch.ones(3, 2), 100 * torch.ones(3, 2)
    for number in range(3):
        given = list(others)
        given.insert(number, None)
        as_rank(number, [torch.zeros(1, 2)] * 3)
        own = torch.ones(1, 2, requires_grad=True)
        gathered = gather_with_grad(own)
        as_rank(number, given)
        gathered.backward(asked)
        assert own.grad.tolist() == [(asked[number] + 110).tolist()]


def test_a_sum_over_ranks_leaves_what_it_was_given(as_rank):
    as_rank(0, [None, torch.tensor([1.0, 2.0])])
    x = torch.tensor([10.0, 20.0], requires_grad=True)
    total = sum_over_ranks(x)
    assert total.tolist() == [11, 22]
    assert x.tolist() == [10, 20]
    assert not total.requires_grad


def failing(error):
    def work():
        raise error

    return work


def test_of_several_errors_the_first_process_is_raised_and_a_signal_only_without_errors(as_rank):
    stop, bad, worse = Stopped(15), UserError("bad"), UserError("worse")
    own = UserError("own")
    for number, others, error, raised in (
        (1, [stop, None, bad], own, "own"),
        (2, [stop, bad, None], own, "bad"),
        (0, [None, bad, stop], own, "own"),
        (0, [None, bad, worse], None, "bad"),
        (0, [None, stop, worse], stop, "worse"),
        (2, [stop, None, None], None, "stopped by SIGTERM"),
        (0, [None, Stopped(2)], None, "stopped by SIGINT"),
    ):
        as_rank(number, others)
        with pytest.raises((UserError, Stopped)) as caught:
            together(failing(error) if error else lambda: 1)
        assert str(caught.value) == raised
        if raised == "own":
            assert caught.value is own  # with its trace
    as_rank(1, [None, None, None])
    assert together(lambda: 7) == 7


@pytest.mark.parametrize("error", [UserError("bad"), KeyError("x"), Stopped(2), FileNotFoundError(2, "none", "f")])
def test_one_process_alone_raises_its_own(error):
    for call in (together, on_first):
        with pytest.raises(type(error)) as caught:
            call(failing(error))
        assert caught.value is error
    assert on_first(lambda: 3) == together(lambda: 3) == 3


def test_the_others_wait_for_the_first_and_raise_what_it_did(as_rank, monkeypatch):
    as_rank(1, [None, None])
    sent, given = [], []

    def broadcast(values, src):
        sent.append(src)
        values[:] = given

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    for outcome in ([7, None], [None, UserError("bad")]):
        given[:] = outcome
        if outcome[1] is None:
            assert on_first(failing(AssertionError("called on another"))) == 7
        else:
            with pytest.raises(UserError, match=r"^bad$"):
                on_first(failing(AssertionError("called on another")))
    as_rank(0, [None, None])
    told = []
    monkeypatch.setattr(dist, "broadcast_object_list", lambda x, src: (sent.append(src), told.append(list(x))))
    assert on_first(lambda: 5) == 5
    with pytest.raises(KeyError):
        on_first(failing(KeyError("x")))
    assert told[0] == [5, None]
    assert str(told[1][1]) == "process 0 stopped: KeyError: 'x'"
    assert set(sent) == {0}


def test_errors_travel_as_what_they_are(as_rank):
    as_rank(3, [None] * 4)
    stopped = travelling(Stopped(15))
    assert (type(stopped), stopped.number, stopped.code) == (Stopped, 15, 143)
    other = travelling(PermissionError(13, "Permission denied", "f"))
    assert (type(other), other.errno, other.strerror, other.filename) == (PermissionError, 13, "Permission denied", "f")
    for error, text in (
        (UserError("bad"), "bad"), (ZeroDivisionError("x"), "process 3 stopped: ZeroDivisionError: x"),
        (OSError("odd"), "process 3 stopped: OSError: odd"), (ValueError("y"), "process 3 stopped: ValueError: y"),
    ):  # fmt: skip
        found = travelling(error)
        assert (type(found), str(found)) == (UserError, text)


class Store:
    """Keeps the first note of each key."""

    def __init__(self, **notes):
        self.notes = notes

    def compare_set(self, key, expected, value):
        assert expected == ""
        return self.notes.setdefault(key if "x" not in self.notes else "x", value).encode()


SAID = "process 0 stopped: KeyError: 'a'"


@pytest.mark.parametrize(("notes", "error", "raised"), [
    ({}, KeyError("own"), (KeyError, "'own'")),
    ({"x": f"0 {SAID}"}, RuntimeError("lost"), (UserError, SAID)),
    ({"x": "0 bad input"}, RuntimeError("lost"), (UserError, "process 0 stopped: bad input")),
    ({"x": "1 mine"}, RuntimeError("lost"), (RuntimeError, "lost")),
    ({"x": "0 bad input"}, UserError("bad input"), (UserError, "bad input")),
    ({"x": "0 bad input"}, FileNotFoundError(2, "none", "f"), (FileNotFoundError, "[Errno 2] none: 'f'")),
])  # fmt: skip
def test_who_only_sees_another_leave_says_why_it_did(as_rank, monkeypatch, notes, error, raised):
    as_rank(1, [None, None])
    store = Store(**notes)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    with pytest.raises(raised[0]) as caught, named_failures():
        raise error
    assert (type(caught.value), str(caught.value)) == raised


def test_a_failure_is_noted_for_each_block_apart(as_rank, monkeypatch):
    as_rank(1, [None, None])
    store = Store()
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    for name in "ab":
        with pytest.raises(KeyError), named_failures():
            raise KeyError(name)
    assert list(store.notes.values()) == ["1 process 1 stopped: KeyError: 'a'", "1 process 1 stopped: KeyError: 'b'"]


# ---- a process that does not answer, or has gone without a word -----------------------------------------------------

LATE = "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 2000ms for recv operation to complete"
CLOSED = "[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:65199"


class Notes:
    """A store of notes, with those that other processes left."""

    def __init__(self, *there, stopped=False):
        self.there, self.stopped = set(there), stopped

    def check(self, keys):
        if self.stopped:
            time.sleep(60)
        return any(key.endswith(tuple(self.there)) for key in keys) if self.there else False

    def set(self, key, value):
        self.check([key])
        self.there.add(key)


@pytest.mark.parametrize(
    ("error", "answer", "said"),
    [
        (LATE, (0, 2), "process 3 did not answer in time"),
        (LATE, (0,), "processes 2, 3 did not answer in time"),
        (LATE, (), "another process did not answer in time"),  # or it is this one that is cut off
        (LATE, (0, 2, 3), "another process did not answer in time"),
        (CLOSED, (2, 3), "process 0 has gone"),
    ],
)
def test_who_does_not_answer_is_named(as_rank, monkeypatch, error, answer, said):
    as_rank(1, [None] * 4)
    monkeypatch.setattr(ranks, "ROLL_CALL", 0.2)
    store = Notes(*(f"/here/{number}" for number in answer))
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    with pytest.raises(UserError) as caught, named_failures(lambda: "after step 7: "):
        raise RuntimeError(error)
    assert str(caught.value).startswith(f"after step 7: {said} (")
    assert "go on with --resume" in str(caught.value)
    assert any(key.endswith("/here/1") for key in store.there)


@pytest.mark.parametrize(
    ("number", "agent", "who"), [(1, "False", "process 0"), (1, "True", "another process"), (0, "", "another process")]
)
def test_where_nobody_keeps_the_notes_the_message_comes_all_the_same(as_rank, monkeypatch, number, agent, who):
    """Without a launcher it is the first process that keeps them."""
    as_rank(number, [None] * 3)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", agent)
    monkeypatch.setattr(ranks, "ROLL_CALL", 0.2)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: Notes(stopped=True))
    before = time.monotonic()
    with pytest.raises(UserError, match=f"^{who} did not answer in time"), named_failures():
        raise RuntimeError(LATE)
    assert time.monotonic() - before < 5


def test_other_errors_are_no_lost_process(as_rank):
    assert not ranks.is_lost(RuntimeError(LATE))  # a process alone
    as_rank(1, [None, None])
    assert ranks.is_lost(RuntimeError(LATE))
    assert ranks.is_lost(RuntimeError(CLOSED))
    assert not ranks.is_lost(RuntimeError("NCCL error: invalid usage, Duplicate GPU detected"))
    assert not ranks.is_lost(KeyError(LATE))
