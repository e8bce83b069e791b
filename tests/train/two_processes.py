"""Started by test_processes.py on each of two processes."""

import json
import sys
from functools import partial
from pathlib import Path

import torch.distributed as dist

from mmkit.errors import UserError
from mmkit.nn.gather import rank
from mmkit.train.loop import train
from tests.train.fakes import Squares, plain, tiny
from tests.train.test_loop import Sick


class SickOnOne(Sick):
    """Not-a-number on the second process alone."""

    def __init__(self, spec) -> None:
        super().__init__(spec, at=1 if rank() == 1 else -1)


def message(exp, out):
    try:
        train(exp, out)
    except UserError as error:
        return str(error)
    return ""


def main() -> None:
    out = Path(sys.argv[1])
    numbers = train(plain(4), out / "plain")
    train(tiny(run=dict(steps=6)), out / "whole")
    train(tiny(run=dict(steps=6, stop_after_steps=2)), out / "parts")
    train(tiny(run=dict(steps=6)), out / "parts", resume=True)
    sick = message(tiny(heads=dict(tiny().heads) | {"sick": partial(SickOnOne)}), out / "sick")
    bad = tiny(data=dict(train=partial(Squares, 40, (3, 4, 5, 6, 17)), max_bad_fraction=0.01))
    bad_message = message(bad, out / "bad")
    report = {"loss": numbers["loss"], "sick": sick, "bad": bad_message}
    (out / f"report-{rank()}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


main()
