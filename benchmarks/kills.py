"""Kills a training run at random moments, lets it go on, and compares it with one that nobody disturbed.

    python benchmarks/kills.py --kills 100 --json kills.json

Each run is on several processes of the CPU, under each engine in turn. Again and again a phase is drawn (the start, a
step, a save, its writing in the background, an evaluation), a moment in it, and who is killed by SIGKILL: the first
process, the last one, or all at once. Those that are left must end by themselves, with an exit code that is not 0; in
the start, where they may not have met yet, a launcher would end them, and so does this. Then the same command is given
again until the run is finished, and weights, teacher, queues, optimizer, random states, the next batch and the lines of
the log must equal those of the undisturbed run to the bit. The exit code says whether they did and nobody hung.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the processes that are started

from PIL import Image

PHASES = ("start", "step", "save", "write", "evaluate")
ENGINES = ("ddp", "fsdp")
STEPS, SAVE_EVERY, EVAL_EVERY = 9, 3, 4
WHO = ("first", "last", "all")
PRELOAD = ["mmkit.train.loop", "mmkit.hub.folder", "mmkit.evals.retrieval", "torch._dynamo", "torch.distributed.fsdp"]
"""What processes need not import each for itself."""
END = 60.0
"""Seconds in which the others must have ended by themselves after one was killed."""


def write_data(folder: Path) -> Path:
    """Coloured squares with captions, as JSON lines."""
    rows = []
    for number in range(40):
        colour = (37 * number % 256, 91 * number % 256, 13 * number % 256)
        Image.new("RGB", (24, 24), colour).save(folder / f"{number}.png")
        caption = f"a square number {number} in {('a room', 'the street', 'my garden')[number % 3]}"
        rows.append({"image": f"{number}.png", "caption": caption, "image_id": str(number)})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder / "rows.jsonl"


def experiment(data: Path, engine: str, workers: int) -> Any:
    """A tiny ALBEF with all that a run carries along: teacher, queue, masking, dropout, an evaluation, the best."""
    from mmkit.config import Data, Experiment, Optim, Run, Teacher
    from mmkit.data.records import JsonLines
    from mmkit.data.texts.masking import Masking
    from mmkit.data.texts.tokenizers import train_sentencepiece
    from mmkit.evals.retrieval import Retrieval
    from mmkit.heads.itc import ITC
    from mmkit.heads.itm import ITM
    from mmkit.heads.mlm import MLM
    from mmkit.models.sizes.albef import albef

    model = partial(
        albef, image_size=32, patch=8, image_depth=2, image_width=32, image_heads=2, text_width=32, text_heads=2,
        max_tokens=16, text_depth=1, fusion_depth=1, embed_dim=16, dropout=0.1,
    )  # fmt: skip
    run = Run(
        steps=STEPS, precision="no", float32_matmul="highest", save_every_steps=SAVE_EVERY, eval_every_steps=EVAL_EVERY,
        log_every_steps=1, trackers=(), seed=3, best="dev.i2t_r1", engine=engine, step_timeout_minutes=0.5,
    )  # fmt: skip
    return Experiment(
        name="kills", model=model, run=run,
        heads={"itc": partial(ITC, queue_size=13), "itm": partial(ITM), "mlm": partial(MLM)},
        tokenizer=partial(train_sentencepiece, vocab_size=60),
        teacher=Teacher(momentum=0.9, alpha=0.4, alpha_ramp_epochs=1.0), optim=Optim(lr=1e-3, warmup_steps=2),
        data=Data(
            train=partial(JsonLines, str(data)), image_size=32, max_tokens=12, global_batch=8,
            masking=partial(Masking), workers=workers,
        ),
        evals={"dev": partial(Retrieval, source=partial(JsonLines, str(data)))},
    )  # fmt: skip


# ---- one process of a run -------------------------------------------------------------------------------------------


def one_process(
    rank: int, world: int, port: int, out: Path, data: Path, engine: str, workers: int, seen: Any, spent: Any
) -> None:
    """Train, or go on, as one of several; leave what came of it in ``out``.digest."""
    environment = {
        "RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1,
    }  # fmt: skip
    os.environ.update({name: str(value) for name, value in environment.items()})
    for stream in (1, 2):
        os.dup2(os.open(out.with_suffix(f".{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    import torch

    from mmkit import ranks
    from mmkit.cli.main import execute
    from mmkit.hub import folder as hub
    from mmkit.train import checkpoint, distributed, loop
    from mmkit.train.saving import Saving

    torch.set_num_threads(1)
    ranks.ROLL_CALL = 1.0
    if rank == 0:
        _watch(loop.Trainer, "take_step", "step", seen, spent)
        _watch(loop.Trainer, "evaluate", "evaluate", seen, spent)
        _watch(Saving, "save", "save", seen, spent)
        _watch(checkpoint if engine == "ddp" else distributed, "write", "write", seen, spent)
        _watch(loop, "train", "start", seen, spent)
    run = loop.Trainer.run

    def run_and_tell(self: Any, *args: Any, **settings: Any) -> Any:
        numbers = run(self, *args, **settings)
        found = digest(self)
        if found is not None:
            out.with_suffix(".digest").write_text(json.dumps(found))
        return numbers

    loop.Trainer.run = run_and_tell  # type: ignore[method-assign]
    work = partial(loop.train, experiment(data, engine, workers), out, resume=True, save_model=hub.save)
    code = execute(Namespace(json=None, run=lambda args: work()))
    sys.stderr.flush()
    os._exit(code)


def _watch(owner: Any, name: str, phase: str, seen: Any, spent: Any) -> None:
    """Count how often a phase begins, and how long it takes."""
    work, number = getattr(owner, name), PHASES.index(phase)

    def watched(*args: Any, **settings: Any) -> Any:
        began = time.perf_counter()
        if phase == "step":
            spent[0] = spent[0] or began - BEGAN[0]
        seen[number] += 1
        try:
            return work(*args, **settings)
        finally:
            spent[number] = max(spent[number], time.perf_counter() - began) if phase != "start" else spent[0]

    BEGAN[:] = [time.perf_counter()]
    setattr(owner, name, watched)


BEGAN: list[float] = []


def digest(trainer: Any) -> dict[str, str] | None:
    """All that a run is, as hashes by name; on the first process, None on the others. Called by all processes."""
    from mmkit.ranks import gather_objects
    from mmkit.train.rng import random_state

    own = {"random": hashed(random_state())}
    state = trainer.engine.full_state()
    step = trainer.step
    (batch,) = list(trainer.parts.loader(step, step + 1))
    own["next batch"] = hashed([batch.keys, batch.pixels, batch.ids, vars(batch.masked)])
    others = gather_objects(own)
    if state is None:
        return None
    found = {f"task.{name}": hashed(value) for name, value in state.task.items()}
    found["optimizer"] = hashed(state.optimizer)
    return found | {f"{name} of {number}": value for number, one in enumerate(others) for name, value in one.items()}


def hashed(value: Any) -> str:
    """Of tensors, and of what holds them."""
    import torch

    def told(value: Any) -> Iterator[bytes]:
        if isinstance(value, torch.Tensor):
            yield f"{value.dtype} {tuple(value.shape)} ".encode()
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                yield str(key).encode()
                yield from told(value[key])
        elif isinstance(value, list | tuple):
            for one in value:
                yield from told(one)
        else:
            yield repr(value).encode()

    total = hashlib.blake2b(digest_size=12)
    for part in told(value):
        total.update(part)
    return total.hexdigest()


def told_by(out: Path) -> list[Any]:
    """The events of a run without what no two runs share: times, speeds, memory; and without where it resumed."""
    free = ("time", "second", "share", "peak", "memory", "mfu", "hfu", "rank", "retries", "flops")
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in event.items() if not any(word in name for word in free)}
        for event in events if event["event"] in ("train", "eval")
    ]  # fmt: skip


# ---- the one who kills ----------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What came of it. wrong: what differed, or hung, in words."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    attempts: int = 0
    wrong: list[str] = field(default_factory=list)


class Killer:
    """Runs in one folder, with what an undisturbed run of each engine gave. world: processes of a run."""

    def __init__(self, folder: Path, *, world: int = 2, workers: int = 0, seed: int = 0) -> None:
        self.folder, self.world, self.workers = folder, world, workers
        self.random = random.Random(seed)
        self.data = write_data(folder)
        self.context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        self.found = Found()
        self.whole: dict[str, tuple[dict[str, str], list[Any], list[float]]] = {}

    def undisturbed(self, engine: str) -> None:
        """The run that the others are compared with."""
        out = self.folder / f"whole-{engine}"
        codes, spent = self._attempt(out, engine, None)
        if codes != [0] * self.world:
            raise SystemExit(f"the undisturbed run ended with {codes}:\n{self._said(out)}")
        self.whole[engine] = json.loads(out.with_suffix(".digest").read_text()), told_by(out), spent

    def kill(self, engine: str, most: int) -> None:
        """One run, killed at most so many times, then left to its end and compared."""
        out = self.folder / f"run-{self.found.runs}"
        left = most
        while True:
            plan = self._plan(engine) if left else None
            before = self.found.kills.total()
            codes, _ = self._attempt(out, engine, plan)
            killed = self.found.kills.total() - before
            left -= killed
            told = out.with_suffix(".digest").exists()  # with the help of all processes, when the run was done
            if codes == [0] * self.world or (killed and told and codes == [0, *[-signal.SIGKILL] * (self.world - 1)]):
                break
            if not killed or 0 in codes:
                self.found.wrong.append(f"{out.name} ({engine}): ended with {codes}: {self._said(out)}")
                break
        self.found.runs += 1
        if out.with_suffix(".digest").exists():
            self._compare(out, engine)
        shutil.rmtree(out, ignore_errors=True)

    def _plan(self, engine: str) -> tuple[str, int, float, str]:
        """(phase, which time it begins, seconds after that, who)."""
        phase = self.random.choice(PHASES)
        spent = self.whole[engine][2][PHASES.index(phase)]
        times = {"start": 1, "step": STEPS - 1, "save": 2, "write": 2, "evaluate": 2}[phase]
        return phase, self.random.randint(1, times), self.random.uniform(0.0, spent), self.random.choice(WHO)

    def _attempt(
        self, out: Path, engine: str, plan: tuple[str, int, float, str] | None
    ) -> tuple[list[Any], list[float]]:
        """The exit codes of one start of the run, and the seconds that phases took."""
        seen, spent = self.context.Array("i", len(PHASES)), self.context.Array("d", len(PHASES))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        given = (self.world, port, out, self.data, engine, self.workers, seen, spent)
        ranks = [self.context.Process(target=one_process, args=(number, *given)) for number in range(self.world)]
        self.found.attempts += 1
        for rank in ranks:
            rank.start()
        if plan is not None:
            self._kill(ranks, seen, plan, engine)
        end = time.monotonic() + (END if plan is not None else 5 * END)
        for rank in ranks:
            rank.join(max(0.0, end - time.monotonic()))
        if hung := [str(number) for number, rank in enumerate(ranks) if rank.is_alive()]:
            self.found.wrong.append(f"{out.name} ({engine}): process {', '.join(hung)} hung after {plan}")
        for rank in ranks:
            rank.kill()
            rank.join()
        return [rank.exitcode for rank in ranks], list(spent)

    def _kill(self, ranks: list[Any], seen: Any, plan: tuple[str, int, float, str], engine: str) -> None:
        """Wait for the moment, if it comes, and kill."""
        phase, times, seconds, who = plan
        number = PHASES.index(phase)
        while seen[number] < times:
            if not all(rank.is_alive() for rank in ranks):
                return
            time.sleep(0.001)
        time.sleep(seconds)
        victims = {"first": ranks[:1], "last": ranks[-1:], "all": ranks}[who]
        if not all(rank.is_alive() for rank in ranks):
            return
        for rank in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.pid, signal.SIGKILL)
        self.found.kills[f"{engine} {phase}"] += 1
        if phase == "start":  # who waits for a process that never came is ended by the launcher
            for rank in ranks:
                rank.terminate()

    def _compare(self, out: Path, engine: str) -> None:
        digest, events, _ = self.whole[engine]
        own = json.loads(out.with_suffix(".digest").read_text())
        differ = sorted(name for name in own.keys() | digest.keys() if own.get(name) != digest.get(name))
        if differ:
            self.found.wrong.append(f"{out.name} ({engine}): {len(differ)} differ: {', '.join(differ[:5])}")
        if (lines := told_by(out)) != events:
            own, whole = Counter(map(json.dumps, lines)), Counter(map(json.dumps, events))
            other = [*(own - whole), *(whole - own)]
            self.found.wrong.append(f"{out.name} ({engine}): other lines in metrics.jsonl: {other[:2]}")

    def _said(self, out: Path) -> str:
        logs = [out.with_suffix(f".{number}.log") for number in range(self.world)]
        return "\n".join(log.read_text()[-6000:] for log in logs if log.exists())


def kills(folder: Path, number: int, engines: tuple[str, ...] = ENGINES, each: int = 5, **settings: Any) -> Found:
    """``number`` kills, at most ``each`` a run, the engines in turn."""
    killer = Killer(folder, **settings)
    for engine in engines:
        killer.undisturbed(engine)
    turn = 0
    while (left := number - killer.found.kills.total()) > 0 and not killer.found.wrong:
        killer.kill(engines[turn % len(engines)], min(each, left))
        turn += 1
    return killer.found


def main() -> int:
    """Kill, and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=("ddp", "fsdp", "hsdp"))
    parser.add_argument("--world", type=int, default=2, metavar="N", help="processes of a run")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="loading workers of a process")
    parser.add_argument("--each", type=int, default=5, metavar="N", help="kills of one run, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    multiprocessing.set_forkserver_preload(PRELOAD)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = kills(
            Path(folder), args.kills, tuple(args.engines), args.each, world=args.world, workers=args.workers,
            seed=args.seed,
        )  # fmt: skip
    numbers = {
        "kills": found.kills.total(), "by": dict(sorted(found.kills.items())), "runs": found.runs,
        "starts": found.attempts, "seconds": round(time.perf_counter() - began), "wrong": found.wrong,
        "python": platform.python_version(),
    }  # fmt: skip
    print(json.dumps(numbers, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(numbers))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
