"""Started by test_signals.py on several processes: a run that would take minutes, in its steps or in an evaluation.

``python -m tests.train.slow_run OUT JSON steps|evaluation|waiting``; it makes OUT.begun once it is there. Waiting: its
evaluation and its saves take longer than a step may, and then it ends.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from mmkit.cli.main import execute
from mmkit.evals.evaluator import together
from mmkit.ranks import on_first
from mmkit.train import loop
from tests.train.fakes import tiny

PLAIN = loop.dump(tiny())
PATIENCE = 3.0
"""Seconds that a step may take after the first."""
WAITED = []


def once(what):
    """Wait for longer than a step may take, the first time; for the first process, while the others wait."""
    if what not in WAITED:
        WAITED.append(what)
        time.sleep(1.3 * PATIENCE)


class Slow:
    """An evaluator that shares its work and takes a minute, telling of its progress."""

    def __init__(self, begun: Path) -> None:
        self.begun = begun

    def __call__(self, predictor):
        if sys.argv[3] == "waiting":
            return {"value": on_first(lambda: once("evaluation") or 1.0)}

        def share():
            self.begun.touch()
            for done in range(1200):
                time.sleep(0.05)
                predictor.progress("nothing", done, 1200)

        together(share)
        return {"value": 1.0}


def main() -> int:
    out, file, where = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    begun = out.with_suffix(".begun")
    take_step = loop.Trainer.take_step

    def slow(self, batches):
        time.sleep(0.05)
        if self.step == 2 and where == "steps":
            begun.touch()
        return take_step(self, batches)

    loop.Trainer.take_step = slow
    loop.dump = lambda exp: PLAIN
    every = {"steps": 0, "evaluation": 3, "waiting": 2}[where]
    run = dict(steps=2000, eval_every_steps=every, save_every_steps=2, step_timeout_minutes=PATIENCE / 60)
    if where == "waiting":
        run |= dict(steps=3)
        begun.touch()
    exp = tiny(run=run, evals={"slow": partial(Slow, begun)}, data=dict(workers=1))

    def save(folder, predictor, dumped, *, weights=None):
        if where == "waiting":
            once("save")

    return execute(argparse.Namespace(json=file, run=lambda args: loop.train(exp, out, save_model=save)))


if __name__ == "__main__":
    sys.exit(main())
