"""Started by test_processes.py on each of two processes."""

import json
import sys
from functools import partial
from pathlib import Path

import torch.distributed as dist

from mmkit.errors import UserError
from mmkit.ranks import on_first, rank, together
from mmkit.train import checkpoint, loop
from mmkit.train.clock import Clock
from mmkit.train.loop import train
from mmkit.train.saving import Saving
from tests.train.fakes import Squares, drawing, plain, tiny
from tests.train.test_loop import Sick


class SickOnOne(Sick):
    """Not-a-number on the second process alone."""

    def __init__(self, spec) -> None:
        super().__init__(spec, at=1 if rank() == 1 else -1)


class BrokenOnOne(Sick):
    """A mistake in a program, which only the second process meets."""

    def forward(self, f):
        if rank() == 1 and f.step == 1:
            raise KeyError("a mistake")
        return super().forward(f)


def told(work):
    """The error, as (type, message)."""
    try:
        work()
    except Exception as error:  # noqa: BLE001
        return [type(error).__name__, str(error)]
    return ["", ""]


def message(exp, out):
    return told(lambda: train(exp, out))[1]


def mistakes():
    """What every process sees of a mistake on one of them."""

    def work(on):
        if rank() == on:
            raise {0: ZeroDivisionError, 1: KeyError}[on]("a mistake")
        return "done"

    def bad():
        if rank() == 1:
            raise UserError("bad input")
        if rank() == 0:
            raise FileNotFoundError(2, "no such file", "x")

    return {
        "first": told(lambda: on_first(lambda: work(0))), "one": told(lambda: together(lambda: work(1))),
        "two": told(lambda: together(bad)), "none": together(lambda: rank()), "value": on_first(lambda: rank() + 7),
    }  # fmt: skip


def timed(out):
    """The last step and its rate, of two processes with other clocks: the second one's is four times as fast."""
    clock, step = [0.0], loop.Trainer.take_step

    def take_step(self, batches):
        clock[0] += 0.125 if rank() == 0 else 0.5
        step(self, batches)

    loop.Trainer.take_step, loop.Clock = take_step, partial(Clock, now=lambda: clock[0])
    found = train(tiny(run=dict(steps=None, minutes=0.0125), optim=dict(warmup_steps=None)), out)
    loop.Trainer.take_step, loop.Clock = step, Clock
    return [found["step"], found["lr"]]


def saves(out):
    """Of two processes with other clocks the steps at which they save; and what both see of a full disk."""
    steps, clock, save, step, fill = [], [0.0], Saving.save, loop.Trainer.take_step, checkpoint._fill

    def note(self, meta, *, wait):
        steps.append(meta.step)
        save(self, meta, wait=wait)

    def take_step(self, batches):
        clock[0] += 60 if rank() == 0 else 600
        if self.saving._background._thread is not None:
            self.saving._background._thread.join()  # so that it fails before this step
        step(self, batches)

    def full(part, meta, staged):
        raise OSError(28, "No space left on device")

    Saving.save, loop.Trainer.take_step, loop.Saving = note, take_step, partial(Saving, now=lambda: clock[0])
    train(tiny(run=dict(steps=7, save_every_minutes=3)), out / "by_clock")
    found, steps[:] = list(steps), []
    checkpoint._fill = full
    said = told(lambda: train(tiny(run=dict(steps=7, save_every_minutes=3)), out / "full"))
    Saving.save, loop.Trainer.take_step, loop.Saving, checkpoint._fill = save, step, Saving, fill
    return {"steps": found, "full": [*said, *steps]}


def main() -> None:
    out = Path(sys.argv[1])
    numbers = train(plain(4), out / "plain")
    train(drawing(rank_batch=2), out / "accumulated")
    for engine in ("ddp", "fsdp"):
        train(plain(4, chunks=2, engine=engine), out / f"chunks-{engine}")
    train(tiny(run=dict(steps=6)), out / "whole")
    train(tiny(run=dict(steps=6, stop_after_steps=2)), out / "parts")
    train(tiny(run=dict(steps=6)), out / "parts", resume=True)
    sick = message(tiny(heads=dict(tiny().heads) | {"sick": partial(SickOnOne)}), out / "sick")
    bad = tiny(data=dict(train=partial(Squares, 40, (3, 4, 5, 6, 17)), max_bad_fraction=0.01))
    bad_message = message(bad, out / "bad")
    report = {
        "loss": numbers["loss"], "sick": sick, "bad": bad_message, "clock": timed(out / "clock"),
        "mistakes": mistakes(), "saves": saves(out),
    }  # fmt: skip
    dist.barrier()
    me = rank()  # in the end one leaves by a mistake, and the other one sees only that it has gone
    heads = dict(tiny().heads) | {"sick": partial(BrokenOnOne, at=-1)}
    report["left"] = told(lambda: train(tiny(heads=heads), out / "left"))
    (out / f"report-{me}.json").write_text(json.dumps(report))
    if me == 0:
        dist.destroy_process_group()


main()
