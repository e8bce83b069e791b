import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from mmkit.config import dump
from mmkit.data.order import Order
from mmkit.data.texts.tokenizers import train_sentencepiece
from mmkit.errors import Stopped, UserError
from mmkit.evals.metrics import Evaluation
from mmkit.evals.zeroshot import ZeroShot
from mmkit.files import beside
from mmkit.heads.base import Head
from mmkit.heads.itc import ITC
from mmkit.hub import folder as hub
from mmkit.nn.adamw import AdamW
from mmkit.task import Task
from mmkit.train import loop, resuming
from mmkit.train.build import assemble
from mmkit.train.guard import Guard
from mmkit.train.loop import train
from mmkit.train.precision import ProductChoice
from mmkit.train.schedule import learning_rate
from mmkit.types import HeadOutput
from tests.train.fakes import Count, Report, Squares, change, drawing, tiny, weights, words_alone

ROOT = Path(__file__).parents[2]


def events(out, kind):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [e for e in lines if e["event"] == kind]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# ---- what a run leaves --------------------------------------------------------------------------------------------


def test_a_run_writes_its_folder_and_returns_its_numbers(tmp_path):
    saved = []
    exp = tiny(evals={"count": partial(Count)}, run=dict(eval_every_steps=5, steps=11), report=partial(Report))
    numbers = train(exp, tmp_path, save_model=lambda *a, **_: saved.append(a), build_parts=without_predictor)
    assert numbers["step"] == 11
    assert math.isfinite(numbers["loss"])
    assert numbers["count.value"] == 1.0
    assert numbers["events"] == 6 + 3 + 1
    assert numbers["peak_rss_gib"] > 0
    assert [e["step"] for e in events(tmp_path, "train")] == [2, 4, 6, 8, 10, 11]
    assert [e["step"] for e in events(tmp_path, "eval")] == [5, 10, 11]
    assert [e["epoch"] for e in events(tmp_path, "train")] == [0.4, 0.8, 1.2, 1.6, 2.0, 2.2]
    plan = events(tmp_path, "plan")[0]
    assert plan["batch"]["global_batch"] == 8
    assert plan["steps_per_epoch"] == 5
    line = events(tmp_path, "train")[0]
    assert {
        "losses.itc",
        "losses.itm",
        "losses.mlm",
        "lr",
        "grad_norm",
        "samples_per_second",
        "data_share",
    } <= line.keys()
    for name in ("experiment.json", "versions.json", "command.txt", "data.json", "tokenizer"):
        assert (tmp_path / name).exists(), name
    assert json.loads((tmp_path / "data.json").read_text())["records"] == 40
    assert len(saved) == 1


def without_predictor(exp, out, batch):
    parts = loop.build(exp, out, batch)
    bare = SimpleNamespace(transform=parts.predictor().transform)
    return replace(parts, predictor=lambda: bare)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns(seed, tmp_path, device):
    exp = tiny(run=dict(steps=60, log_every_steps=10, seed=seed), optim=dict(lr=5e-3), teacher=None)
    train(exp, tmp_path)
    assert events(tmp_path, "plan")[0]["device"].startswith(device.type)
    losses = [e["losses.mlm"] for e in events(tmp_path, "train")]
    assert losses[-1] < losses[0] - 0.4  # 0.8 to 1.1 for many seeds; 0.0 where nothing is learned


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "runs_in"), [("auto", "bf16"), ("fp16", "fp16")])
def test_it_learns_in_mixed_precision_from_pinned_memory(precision, runs_in, tmp_path, monkeypatch):
    pinned, take = [], loop.Trainer.take_step

    def noting(self, batches):
        batch = next(batches)
        pinned.append(batch.pixels.is_pinned() and batch.masked.labels.is_pinned() and batch.image_id.is_pinned())
        return take(self, iter([batch]))

    monkeypatch.setattr(loop.Trainer, "take_step", noting)
    run = dict(steps=60, log_every_steps=10, precision=precision, save_every_steps=20, stop_after_steps=30)
    exp = tiny(run=run, optim=dict(lr=5e-3), data=dict(workers=2))
    train(exp, tmp_path)
    train(change(exp, run=dict(stop_after_steps=None)), tmp_path, resume=True)
    assert [plan["precision"] for plan in events(tmp_path, "plan")] == [runs_in] * 2
    losses = [e["losses.mlm"] for e in events(tmp_path, "train")]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.4
    assert pinned == [True] * 60


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [["itc", "itm", "mlm"], ["mlm"]])
@pytest.mark.parametrize("rank_batch", [8, 4])
def test_a_step_never_waits_for_the_device(rank_batch, heads, tmp_path, monkeypatch):
    """So that the next step is told to the device while it works on this one. torch says where it waits."""
    take = loop.Trainer.take_step

    def watched(self, batches):
        torch.cuda.set_sync_debug_mode("error" if self.step > 1 else "default")
        try:
            return take(self, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop.Trainer, "take_step", watched)
    exp = change(words_alone() if heads == ["mlm"] else tiny(), run=dict(precision="bf16", steps=6))
    assert train(change(exp, data=dict(rank_batch=rank_batch)), tmp_path)["step"] == 6


@pytest.mark.parametrize("rank_batch", [4, 2, 1])
def test_accumulation_counts_optimizer_steps(tmp_path, rank_batch, device):
    train(drawing(rank_batch=rank_batch), tmp_path / "a")
    train(drawing(), tmp_path / "b")
    one, other = (events(tmp_path / name, "train") for name in "ab")
    assert [e["samples"] for e in one] == [8, 16, 24, 32]
    assert_close_runs(tmp_path / "a", tmp_path / "b")
    assert other[0]["losses.mlm"] + other[0]["losses.drawn"] == pytest.approx(other[0]["loss"], rel=1e-6)
    assert abs(other[0]["losses.drawn"]) > 0.01


def assert_close_runs(one, other):
    """The same steps: rates, losses, norms of the gradients, and the weights that came of them."""
    for a, b in zip(events(one, "train"), events(other, "train"), strict=True):
        assert a["lr"] == b["lr"]
        for name in ("loss", "losses.mlm", "losses.drawn", "grad_norm", "mlm.accuracy", "mlm.chance"):
            assert a[name] == pytest.approx(b[name], rel=1e-4 if a["step"] > 1 else 1e-6), (name, a["step"])
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("clip", [0.05, None])
def test_each_step_has_its_own_rate_and_a_clipped_gradient(tmp_path, monkeypatch, clip):
    rates, norms, step = [], [], AdamW.step

    def noting(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        norms.append(torch.nn.utils.get_total_norm([p.grad for g in self.param_groups for p in g["params"]]).item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(AdamW, "step", noting)
    exp = change(words_alone(rank_batch=4), optim=dict(clip_norm=clip))
    train(exp, tmp_path)
    settings = dict(lr=exp.optim.lr, min_lr=exp.optim.min_lr, warmup_lr=exp.optim.warmup_lr, warmup_steps=2, steps=4)
    assert rates == [learning_rate(done, **settings) for done in range(4)]
    logged = [e["grad_norm"] for e in events(tmp_path, "train")]
    assert [e["lr"] for e in events(tmp_path, "train")] == rates
    assert min(logged) > 0.1
    assert norms == pytest.approx([clip] * 4 if clip else logged, rel=1e-4)


def test_the_norm_and_the_losses_of_a_window_are_means_over_its_steps(tmp_path):
    train(words_alone(), tmp_path / "each")
    train(change(words_alone(), run=dict(log_every_steps=4)), tmp_path / "all")
    each, (whole,) = (events(tmp_path / name, "train") for name in ("each", "all"))
    for name in ("loss", "grad_norm"):
        assert whole[name] == pytest.approx(sum(e[name] for e in each) / 4, rel=1e-5)
    assert whole["losses.mlm"] != pytest.approx(whole["loss"], rel=1e-6)  # over hidden words, of which steps differ


def test_what_is_over_no_item_any_more_is_not_reported_as_it_was(tmp_path):
    heads = dict(tiny().heads) | {"early": partial(Early)}
    numbers = train(tiny(heads=heads, run=dict(steps=6)), tmp_path)
    assert ["early.rare" in e for e in events(tmp_path, "train")] == [True, False, True]
    assert numbers["early.rare"] == 5.0
    assert "early.rare" not in train(tiny(heads=heads, run=dict(steps=4)), tmp_path / "b")


class Early(Head):
    """Counts items in the first and the fifth step alone."""

    def __init__(self, spec) -> None:
        super().__init__()

    def forward(self, f):
        loss = 0 * f.image_embed.float().mean()
        return HeadOutput(loss=loss, count=len(f.batch), logs={"rare": (f.step + 1.0, 8 * (f.step in (0, 4)))})


@pytest.mark.parametrize("rank_batch", [8, 2])
def test_after_each_step_comes_what_the_task_does_once(tmp_path, monkeypatch, rank_batch):
    calls, after, alone, places, forward = [], Task.after_step, [], [], Task.forward
    monkeypatch.setattr(Accelerator, "no_sync", lambda self, model: alone.append(model) or nullcontext())

    def noting(self, carries):
        calls.append([carry.keys() for carry in carries])
        assert all(p.grad is None for p in self.parameters())  # none is left for the next step
        return after(self, carries)

    def told(self, batch, step, before=0, totals=None):
        places.append((step, before))
        return forward(self, batch, step, before, totals)

    monkeypatch.setattr(Task, "after_step", noting)
    monkeypatch.setattr(Task, "forward", told)
    train(tiny(run=dict(steps=3), data=dict(rank_batch=rank_batch)), tmp_path)
    assert calls == [[{"itc", "itm", "mlm"}] * (8 // rank_batch)] * 3
    assert places == [(step, before) for step in range(3) for before in range(0, 8, rank_batch)]
    assert len(alone) == 3 * (8 // rank_batch - 1)  # the last of a step brings the processes together


def test_steps_are_taken_in_training_mode_however_the_model_arrives(tmp_path, monkeypatch):
    modes, forward = [], Task.forward

    def noting(self, *args):
        modes.append(self.model.training)
        return forward(self, *args)

    def for_use(exp, out, batch):
        parts = loop.build(exp, out, batch)
        parts.task.eval()
        return parts

    monkeypatch.setattr(Task, "forward", noting)
    train(tiny(run=dict(steps=3)), tmp_path, build_parts=for_use)
    assert modes == [True] * 3


def test_each_process_has_random_numbers_of_its_own(tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(loop, "seed_all", seeds.append)
    for rank in (0, 3):
        monkeypatch.setattr(loop, "rank", lambda rank=rank: rank)
        train(tiny(run=dict(steps=3, seed=40)), tmp_path / str(rank))
    assert seeds == [40, 43]


def test_a_step_is_saved_once(tmp_path):
    saved = []
    exp, note = tiny(run=dict(steps=4, save_every_steps=2)), lambda out, *_, **__: saved.append(out)
    train(exp, tmp_path, save_model=note)
    assert len(saved) == 2
    (tmp_path / "numbers.json").unlink()
    state = (tmp_path / "checkpoints" / "step-00000004" / "state.pt").stat().st_mtime_ns
    train(exp, tmp_path, resume=True, save_model=note)
    assert len(saved) == 2
    assert (tmp_path / "checkpoints" / "step-00000004" / "state.pt").stat().st_mtime_ns == state


# ---- resume -------------------------------------------------------------------------------------------------------


@pytest.fixture
def exact(device):
    """On a GPU sums in no fixed order are fast, and bits differ from run to run; here all have an order."""
    torch.use_deterministic_algorithms(device.type == "cuda", warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_stop_and_resume_is_the_same_run_bit_for_bit(tmp_path, precision, exact):
    """Stopped in mid-epoch, at the end of one, and in a later one; "auto" may differ from time to time."""
    settings = dict(precision=precision, float32_matmul="medium" if precision == "no" else "highest")
    train(tiny(run=settings), tmp_path / "whole")
    for stop in (3, 5, 8, None):
        train(tiny(run=settings | dict(stop_after_steps=stop)), tmp_path / "parts", resume=stop != 3)
        assert events(tmp_path / "parts", "train")[-1]["step"] <= (stop or 12)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    whole, parts = ({e["step"]: e["lr"] for e in events(tmp_path / n, "train")} for n in ("whole", "parts"))
    assert whole == parts


def test_a_resumed_run_computes_as_it_began(tmp_path, monkeypatch):
    """Wherever "auto" would choose otherwise now, as on another machine."""
    for name, precision, resume in (("medium", "bf16", False), ("highest", "no", True)):
        monkeypatch.setattr(loop, "choose_product", lambda *_, name=name: ProductChoice(name=name, reason="now"))
        monkeypatch.setattr(loop, "choose_precision", lambda *_, precision=precision: precision)
        run = dict(precision="auto", float32_matmul="auto", steps=4, stop_after_steps=None if resume else 2)
        train(tiny(run=run), tmp_path, resume)
    plans = events(tmp_path, "plan")
    assert [(plan["precision"], plan["product"]["name"]) for plan in plans] == [("bf16", "medium")] * 2
    assert [plan["start_step"] for plan in plans] == [0, 2]
    meta = resuming.load_meta(resuming.latest(tmp_path / "checkpoints"))
    assert (meta.step, meta.precision, meta.product) == (4, "bf16", "medium")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_without_a_fixed_order_a_resumed_run_is_as_near_as_the_same_run_again(tmp_path, precision):
    exp = tiny(run=dict(precision=precision))
    for name in ("whole", "again"):
        train(exp, tmp_path / name)
    train(change(exp, run=dict(stop_after_steps=5)), tmp_path / "parts")
    train(exp, tmp_path / "parts", resume=True)
    whole, again, parts = (
        torch.cat([x.flatten().double() for x in weights(tmp_path / name).values() if x.is_floating_point()])
        for name in ("whole", "again", "parts")
    )  # fmt: skip
    again, parts = (float((of - whole).norm() / whole.norm()) for of in (again, parts))
    assert parts <= 10 * again + 1e-6, (parts, again)
    assert again < 1e-2


def test_evaluations_and_workers_do_not_change_the_run(tmp_path, exact):
    train(tiny(run=dict(steps=6)), tmp_path / "a")
    exp = tiny(run=dict(steps=6, eval_every_steps=2), evals={"count": partial(Count)}, data=dict(workers=1))
    train(exp, tmp_path / "b", build_parts=without_predictor)
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    train(tiny(run=dict(steps=40, save_every_steps=7)), tmp_path / "whole")
    program = (
        "import time; from mmkit.train.loop import Trainer, train; from tests.train.fakes import tiny\n"
        "step = Trainer.take_step\n"
        "def slow(self, batches):\n    time.sleep(0.05); return step(self, batches)\n"
        "Trainer.take_step = slow\n"
        f"train(tiny(run=dict(steps=40, save_every_steps=7)), {str(tmp_path / 'killed')!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    wait_for(lambda: len(list(tmp_path.glob("killed/checkpoints/step-*"))) == 2, process)
    time.sleep(0.12)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("killed/checkpoints/step-00000040"))
    train(tiny(run=dict(steps=40, save_every_steps=7)), tmp_path / "killed", resume=True)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    steps = [e["step"] for e in events(tmp_path / "killed", "train")]
    assert steps == sorted(set(steps))


def wait_for(ready, process, seconds=60):
    end = time.time() + seconds
    while not ready():
        assert process.poll() is None, "the process ended early"
        assert time.time() < end
        time.sleep(0.02)


def test_sigterm_finishes_the_step_and_saves(tmp_path):
    exp = tiny(run=dict(steps=200))
    step = loop.Trainer.take_step

    def interrupted(self, batches):
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batches)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "take_step", interrupted)
        with pytest.raises(Stopped) as stopped:
            train(exp, tmp_path)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "checkpoints" / "step-00000005").is_dir()


def test_resume_refuses_what_is_not_the_same_run(tmp_path):
    train(tiny(run=dict(steps=3)), tmp_path)
    with pytest.raises(UserError, match="--resume"):
        train(tiny(run=dict(steps=3)), tmp_path)
    with pytest.raises(UserError, match=r"optim\.lr: 0\.001 -> 0\.002"):
        train(tiny(run=dict(steps=3), optim=dict(lr=2e-3)), tmp_path, resume=True)
    assert train(tiny(run=dict(steps=3, log_every_steps=1)), tmp_path, resume=True)["step"] == 3


def test_resume_refuses_another_tokenizer_of_the_same_size(tmp_path):
    run = dict(steps=4, stop_after_steps=2)
    train(tiny(run=run), tmp_path)
    source = Squares(40)
    said = [caption[::-1] for i in range(40) for caption in source[i].captions]
    vocabulary = tmp_path / "tokenizer"
    kept = {file: file.read_bytes() for file in vocabulary.iterdir()}
    train_sentencepiece(captions=lambda: iter(said), folder=vocabulary, vocab_size=60)
    with pytest.raises(UserError, match="tokenizer: cannot resume: not the tokenizer that this run began with"):
        train(tiny(run=run), tmp_path, resume=True)
    for file, content in kept.items():
        file.write_bytes(content)
    assert train(tiny(run=run | dict(stop_after_steps=None)), tmp_path, resume=True)["step"] == 4


def test_resume_takes_what_a_killed_process_left_beside_the_tokenizer_for_none_of_it(tmp_path):
    run = dict(steps=4, stop_after_steps=2)
    train(tiny(run=run), tmp_path)
    (file,) = (tmp_path / "tokenizer").iterdir()
    with beside(file) as left:
        left.write_bytes(file.read_bytes())
    left.write_bytes(b"half of it")
    assert train(tiny(run=run | dict(stop_after_steps=3)), tmp_path, resume=True)["step"] == 3
    left.unlink()
    assert train(tiny(run=run | dict(stop_after_steps=None)), tmp_path, resume=True)["step"] == 4


def test_resume_keeps_the_samples_of_a_step(tmp_path, caplog):
    exp = tiny(run=dict(steps=None, epochs=2, stop_after_steps=4), data=dict(global_batch=None, rank_batch=8))
    train(exp, tmp_path)
    on = change(exp, run=dict(stop_after_steps=None))
    with pytest.raises(
        UserError, match=r"had 8 samples .* would have 4 .*--set data\.global_batch=8 data\.rank_batch=8"
    ):
        train(change(on, data=dict(rank_batch=4)), tmp_path, resume=True)
    numbers = train(change(on, data=dict(rank_batch=4, global_batch=8)), tmp_path, resume=True)
    assert numbers["step"] == 10
    assert "a forward had 8 samples on all processes together and has 4 now" in caplog.text
    kept = resuming.load_meta(resuming.latest(tmp_path / "checkpoints"))
    assert kept.batch == {"rank_batch": 4, "accumulation_steps": 2, "global_batch": 8, "world": 1}


def test_a_part_that_no_objective_reaches_is_named(tmp_path):
    exp = tiny(heads={"itc": partial(ITC, queue_size=13)}, teacher=None)
    with pytest.raises(UserError, match=r"of model\.fusion: .*Rule\(pattern=r'\^model\\\.fusion', freeze=True\)"):
        train(exp, tmp_path, build_parts=without_predictor)


class Failing:
    """An evaluator that fails, until a file is there; with a check that says what will be missing."""

    def __init__(self, path: str, checks: bool = False, error: type[BaseException] = UserError) -> None:
        self.path = Path(path)
        self.checks = checks
        self.error = error

    def check(self, predictor: object) -> None:
        if self.checks:
            self(predictor)

    def __call__(self, predictor: object) -> dict[str, float]:
        if not self.path.is_file():
            raise self.error(f"{self.path}: no such file")
        return {"value": 2.0}


@pytest.mark.parametrize(
    ("every", "save", "error"),
    [(None, 0, UserError), (2, 2, UserError), (2, 0, UserError), (2, 0, ZeroDivisionError), (2, 0, SystemExit)],
)
def test_a_failing_evaluation_loses_no_step(tmp_path, every, save, error):
    exp = tiny(
        evals={"late": partial(Failing, str(tmp_path / "there"), error=error)},
        run=dict(steps=3, eval_every_steps=every, save_every_steps=save),
    )  # fmt: skip
    with pytest.raises(error, match="no such file"):
        train(exp, tmp_path / "run", build_parts=without_predictor)
    (kept,) = resuming.checkpoints(tmp_path / "run" / "checkpoints")
    assert resuming.load_meta(kept).step == (every or 3)
    (tmp_path / "there").touch()
    numbers = train(exp, tmp_path / "run", resume=True, build_parts=without_predictor)
    assert numbers["late.value"] == 2.0
    assert math.isfinite(numbers["loss"])  # of before, where no step was left
    assert numbers["step"] == 3
    assert [event["step"] for event in events(tmp_path / "run", "train")] == [2, 3]


def test_a_loss_that_is_seen_to_be_no_number_at_an_evaluation_is_not_saved(tmp_path, monkeypatch):
    """On a GPU the flags of a step are read one step later, or before the evaluation that follows it."""
    watch, read = Guard.watch, Guard._read

    def late(self, step, *args, **given):
        watch(self, step, *args, **given)
        self._pending = step if step == 2 else None

    def bad(self, watched):
        if watched == 2:
            raise UserError("step 2 is not finite")
        read(self, watched)

    monkeypatch.setattr(Guard, "watch", late)
    monkeypatch.setattr(Guard, "_read", bad)
    exp = tiny(evals={"count": partial(Count)}, run=dict(steps=3, eval_every_steps=2))
    with pytest.raises(UserError, match="step 2 is not finite"):
        train(exp, tmp_path, build_parts=without_predictor)
    assert not resuming.checkpoints(tmp_path / "checkpoints")


def test_an_evaluator_is_checked_before_the_first_step(tmp_path):
    exp = tiny(evals={"late": partial(Failing, str(tmp_path / "there"), checks=True)})
    with pytest.raises(UserError, match=r"evals\.late: .*no such file"):
        train(exp, tmp_path / "run", build_parts=without_predictor)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def best_of(tmp_path, values, is_best="highest", steps=8, **options):
    """A run with these evaluations, every second step; best.json where there is one."""
    values = iter(values)
    run = dict(steps=steps, eval_every_steps=2, best="e.value", best_is=is_best, keep_checkpoints=1)
    exp = tiny(run=run, evals={"e": partial(Next, values)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "dump", lambda exp: PLAIN)
        train(exp, tmp_path, **options)
    path = tmp_path / "best.json"
    return json.loads(path.read_text()) if path.is_file() else None


PLAIN = dump(tiny())


@pytest.mark.parametrize(
    ("values", "is_best", "step"),
    [
        ([0.1, 0.9, 0.2, 0.3], "highest", 4),
        ([0.9, 0.1, 0.2, 0.3], "lowest", 4),
        ([0.1, 0.9, 0.9, 0.3], "highest", 4),  # of equal ones the first
        ([0.3, 0.3, 0.2, 0.2], "lowest", 6),
        ([math.nan, 0.2, math.nan, 0.1], "highest", 4),
        ([math.nan, 0.2, math.nan, 0.1], "lowest", 8),
        ([-0.5, -0.1, -0.7, -0.9], "highest", 4),
    ],
)
def test_the_best_is_the_first_highest_or_lowest_number(tmp_path, values, is_best, step):
    found = best_of(tmp_path, values, is_best)
    assert found == {"metric": "e.value", "is": is_best, "value": values[step // 2 - 1], "step": step}
    assert [p.name[-1] for p in sorted(tmp_path.glob("checkpoints/step-*"))] == ["8"]


def test_without_a_number_there_is_no_best(tmp_path, caplog):
    assert best_of(tmp_path, [math.nan] * 4) is None
    assert "e.value is not a number" in caplog.text


def test_the_best_model_is_a_folder_that_loads(tmp_path):
    best_of(tmp_path / "run", [0.1, 0.9, 0.2, 0.3], save_model=hub.save)
    short = tiny(run=dict(steps=8, stop_after_steps=4))
    train(short, tmp_path / "short", save_model=hub.save)
    best, last, four = (hub.load(tmp_path / name).model.state_dict() for name in ("run/best", "run", "short"))
    assert_same(best, four)
    assert not torch.equal(best["image_proj.weight"], last["image_proj.weight"])
    assert json.loads((tmp_path / "run" / "best" / "best.json").read_text())["step"] == 4
    saved = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert saved["training"]["steps"] == 4
    assert saved["training"]["records"] == 40
    on = tiny(init={"model": str(tmp_path / "run" / "best")}, run=dict(steps=3))
    train(on, tmp_path / "on", save_model=hub.save)


def test_a_resumed_run_knows_what_was_best(tmp_path):
    best_of(tmp_path, [0.1, 0.9], steps=4, save_model=hub.save)
    before = (tmp_path / "best" / "model.safetensors").read_bytes()
    (tmp_path / "numbers.json").unlink()
    (tmp_path / "best").rename(tmp_path / ".best.0123456789ab.gone")  # killed while it was replaced
    assert best_of(tmp_path, [0.5], steps=4, resume=True, save_model=hub.save)["value"] == 0.9
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == before
    assert best_of(tmp_path, [0.5], "lowest", steps=4, resume=True)["value"] == 0.5  # of another direction


def test_where_the_best_model_stands_the_one_before_goes(tmp_path):
    """A process that was killed after it replaced the best model, and before it removed the one before."""
    best_of(tmp_path, [0.1, 0.9], steps=4, save_model=hub.save)
    before = (tmp_path / "best" / "model.safetensors").read_bytes()
    (tmp_path / "numbers.json").unlink()
    (tmp_path / ".best.0123456789ab.gone").mkdir()
    (tmp_path / ".best.0123456789ab.gone" / "model.safetensors").touch()
    best_of(tmp_path, [0.5], steps=4, resume=True, save_model=hub.save)
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".best*"))


def test_a_best_by_what_no_evaluation_gives_is_refused(tmp_path):
    exp = tiny(run=dict(steps=3, best="count.valu", eval_every_steps=2), evals={"count": partial(Count)})
    with pytest.raises(
        UserError, match=r"run\.best = 'count\.valu': the evaluations gave count\.value\. .*=count\.value$"
    ):
        train(exp, tmp_path, build_parts=without_predictor)
    again = change(exp, run=dict(best="count.value"))
    train(again, tmp_path, resume=True, build_parts=without_predictor)
    assert [event["step"] for event in events(tmp_path, "eval")] == [2, 3]  # the first is made again, and counts
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 2


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ("zero.top2", r"'zero\.top2': evals\.zero compares models by top1, top5, .*; give run\.best=zero\.top5$"),
        ("zero.chance", "evals.zero compares models by top1"),  # the same for every model
        ("zero.rerank.top1", "evals.zero compares models by top1"),
        ("bare.n", r"evals\.bare compares models by nothing$"),
    ],
)
def test_a_best_that_no_evaluator_can_give_is_refused_before_the_first_step(tmp_path, best, words):
    evals = {
        "zero": partial(ZeroShot, source=partial(Squares, 3)),
        "bare": partial(Evaluation, head="itm", source=partial(Squares, 3)),
    }
    with pytest.raises(UserError, match=words):
        train(tiny(run=dict(best=best), evals=evals), tmp_path, build_parts=without_predictor)
    assert not (tmp_path / "metrics.jsonl").exists()


class Next:
    def __init__(self, values):
        self.values = values

    def __call__(self, predictor):
        return {"value": next(self.values)}


def test_broken_pictures_are_counted_over_a_resume(tmp_path):
    bad = int(Order(size=40, seed=3).at(2, np.arange(1))[0])  # met in each epoch, in the last one at once
    exp = tiny(data=dict(train=partial(Squares, 40, (bad,)), max_bad_fraction=0.5))
    train(change(exp, run=dict(stop_after_steps=7)), tmp_path)
    meta = resuming.load_meta(resuming.latest(tmp_path / "checkpoints"))
    assert meta.seen == 56
    assert meta.bad >= 1
    assert meta.seconds > 0
    before = meta.bad
    train(exp, tmp_path, resume=True)
    meta = resuming.load_meta(resuming.latest(tmp_path / "checkpoints"))
    assert (meta.seen, meta.bad > before) == (96, True)


@pytest.mark.parametrize("block", [1, 4])
def test_the_loader_of_a_run_takes_records_in_its_order(tmp_path, block):
    exp = tiny(data=dict(block=block))
    parts = assemble(exp, tmp_path, exp.data.batch_plan(1))
    keys = [key for batch in parts.loader(1, 3) for key in batch.keys]
    expected = Order(size=40, seed=3, block=block).at(0, np.arange(8, 24))
    assert keys == [f"square {index}" for index in expected]


def test_one_bad_picture_at_the_start_stops_no_run(tmp_path):
    first = Order(size=40, seed=3).at(0, np.arange(8)).tolist()
    exp = tiny(data=dict(train=partial(Squares, 40, (first[0],)), max_bad_fraction=0.02), run=dict(steps=3))
    assert train(exp, tmp_path / "a")["step"] == 3  # 1 of 8 is more than 2 %, but of few
    with pytest.raises(UserError, match="1 of 8 pictures could not be read"):
        train(change(exp, data=dict(max_bad_fraction=0.0)), tmp_path / "b")


def test_a_resume_makes_up_for_the_evaluation_that_was_not_reached(tmp_path):
    exp = tiny(run=dict(steps=6, eval_every_steps=2, save_every_steps=2), evals={"count": partial(Count)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Count, "__call__", lambda self, predictor: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            train(exp, tmp_path)
    train(exp, tmp_path, resume=True)
    assert [e["step"] for e in events(tmp_path, "eval")] == [2, 4, 6]
    train(change(exp, run=dict(stop_after_steps=4)), tmp_path / "b")
    train(exp, tmp_path / "b", resume=True)
    assert [e["step"] for e in events(tmp_path / "b", "eval")] == [2, 4, 6]  # none twice


# ---- what stops a run ---------------------------------------------------------------------------------------------


class Sick(Head):
    """Turns not-a-number at one step, in the loss or in the gradient alone."""

    def __init__(self, spec, at: int = 3, where: str = "loss") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.at = at
        self.where = where

    def forward(self, f):
        loss = self.scale * f.image_embed.mean()
        if f.step == self.at:
            loss = loss * math.nan if self.where == "loss" else loss + (self.scale * 0).sqrt()
        return HeadOutput(loss=loss, count=len(f.batch))


class Deaf(Head):
    """Has a parameter that its loss does not use."""

    def __init__(self, spec) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, f):
        return HeadOutput(loss=f.image_embed.mean(), count=len(f.batch))


@pytest.mark.parametrize(("where", "words"), [("loss", "loss 'sick'"), ("gradient", "the gradient")])
def test_not_a_number_stops_before_anything_is_saved(tmp_path, where, words, device):
    heads = dict(tiny().heads) | {"sick": partial(Sick, at=3, where=where)}
    with pytest.raises(UserError, match="not finite") as caught:
        train(tiny(heads=heads, run=dict(save_every_steps=1, keep_checkpoints=9)), tmp_path)
    message = str(caught.value)
    assert "step 4:" in message
    assert words in message
    assert message.count("square ") == 8
    assert [p.name for p in sorted(tmp_path.glob("checkpoints/step-*"))][-1] == "step-00000003"


def test_not_a_number_names_the_micro_batch(tmp_path, device):
    heads = dict(tiny().heads) | {"sick": partial(Sick, at=1)}
    with pytest.raises(UserError, match="step 2: loss 'sick' is") as caught:
        train(tiny(heads=heads, data=dict(rank_batch=4)), tmp_path)
    assert str(caught.value).count("square ") == 8


def test_a_parameter_without_gradient_is_named(tmp_path):
    with pytest.raises(UserError, match=r"heads\.deaf\.unused"):
        train(tiny(heads=dict(tiny().heads) | {"deaf": partial(Deaf)}), tmp_path)


def test_broken_pictures_stop_the_run_above_the_threshold(tmp_path):
    few = tiny(data=dict(train=partial(Squares, 40, (3,)), max_bad_fraction=0.2))
    assert train(few, tmp_path / "few")["step"] == 12
    many = tiny(data=dict(train=partial(Squares, 40, (3, 4, 5, 6, 17)), max_bad_fraction=0.01))
    with pytest.raises(UserError, match=r"pictures could not be read.*square"):
        train(many, tmp_path / "many")


def test_errors_of_workers_are_plain(tmp_path):
    exp = tiny(data=dict(train=partial(Squares, 40, tuple(range(40))), workers=1))
    with pytest.raises(UserError) as caught:
        train(exp, tmp_path)
    assert "Traceback" not in str(caught.value)
    assert "in a row cannot be read" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(data=dict(global_batch=1)), "negatives"),
        (dict(data=dict(global_batch=64)), "40 records, fewer than one step of 64"),
        (dict(data=dict(image_size=30), model=partial(tiny().model.func, image_size=30)), "30"),
        (dict(weights={"itx": 1.0}), "weights.itx"),
    ],
)
def test_bad_input_is_told_before_the_first_step(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        train(tiny(**changes), tmp_path)
    assert not list(tmp_path.glob("checkpoints/step-*"))
