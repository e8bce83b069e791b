"""The training loop: steps, logs, evaluations, checkpoints, on one process or many.

``train`` sets the process up, builds everything and says the plan; ``Trainer`` takes the steps. One optimizer step is
one number everywhere: in the schedule, the logs (counted from 1 = the first one done), the checkpoints and the loader.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from mmkit.config import BatchPlan, Experiment, dump
from mmkit.errors import UserError
from mmkit.nn.gather import rank, world_size
from mmkit.train import checkpoint, folder
from mmkit.train.build import Parts, build
from mmkit.train.guard import Guard
from mmkit.train.logging import Display, RunLog
from mmkit.train.optim import make_optimizer, set_learning_rate, without_gradient
from mmkit.train.plan import Plan, make_plan
from mmkit.train.precision import ProductChoice, choose_precision, choose_product
from mmkit.train.ranks import on_first
from mmkit.train.rng import seed_all, set_random_state, undisturbed
from mmkit.train.setup import StopSignal, make_accelerator, numeric_settings, start_processes, threads_for
from mmkit.train.throughput import Meter, peak_memory
from mmkit.types import Batch, TaskOutput

logger = logging.getLogger("mmkit.train")

Build = Callable[[Experiment, Path, BatchPlan], Parts]
SaveModel = Callable[[Path, Any, Mapping[str, Any]], None]


def train(
    experiment: Experiment,
    out: str | Path,
    resume: bool = False,
    *,
    save_model: SaveModel | None = None,
    build_parts: Build = build,
) -> dict[str, float]:
    """Run an experiment in the folder ``out``; the last metrics, by dotted name.

    resume: go on from the newest checkpoint of that folder (from the beginning where there is none yet).
    save_model: ``save_model(folder, predictor, dumped experiment)`` writes the model for use, at every checkpoint, on
    the first process. Raises UserError for what does not fit, before the first step where that can be known.
    """
    out = Path(out)
    state = start_processes(experiment.run)
    experiment.validate(world=state.num_processes)
    batch = experiment.data.batch_plan(state.num_processes)
    start = on_first(lambda: folder.open_folder(out, resume))
    meta = checkpoint.load_meta(start) if start is not None else None
    precision = meta.precision if meta else choose_precision(experiment.run.precision, state.device)
    product = on_first(lambda: choose_product(experiment.run.product, state.device))
    if meta is not None:
        product = ProductChoice(name=meta.product, reason="as when the run began")
    threads = threads_for(experiment.data.workers, max(1, state.num_processes))
    with numeric_settings(product.name, threads):
        parts = build_parts(experiment, out, batch)
        if start is not None and meta is not None:
            checkpoint.check_same(start, meta, dump(experiment), parts.records)
        accelerator = make_accelerator(experiment.run, precision)
        trainer = _make_trainer(experiment, out, parts, batch, accelerator, save_model)
        trainer.plan = make_plan(
            experiment, parts.task, records=parts.records, steps_per_epoch=parts.steps_per_epoch,
            start_step=meta.step if meta else 0, batch=batch, device=str(accelerator.device), precision=precision,
            product=product, threads=threads,
        )  # fmt: skip
        if start is not None:
            trainer.restore(start)
        return trainer.run()


def check_evaluators(evaluators: Mapping[str, Callable[[Any], object]], predictor: Any) -> None:
    """UserError for an evaluator that is sure to fail after training, as far as its ``check(predictor)`` can tell."""
    for name, evaluator in evaluators.items():
        check: Callable[[Any], None] | None = getattr(evaluator, "check", None)
        if check is not None:
            try:
                check(predictor)
            except UserError as error:
                raise UserError(f"evals.{name}: {error}") from error


def _make_trainer(
    exp: Experiment, out: Path, parts: Parts, batch: BatchPlan, accelerator: Accelerator, save_model: SaveModel | None
) -> Trainer:
    if exp.run.compile:
        parts.task.compile_blocks()  # type: ignore[operator]
    parts.task.to(accelerator.device)
    with warnings.catch_warnings():  # torch's new name for broadcast_buffers is not known to Accelerate yet
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        wrapped, optimizer = accelerator.prepare(parts.task, make_optimizer(parts.task, exp.optim))
    seed_all(exp.run.seed + rank())
    guard = Guard(
        accelerator.device,
        max_bad_fraction=exp.data.max_bad_fraction,
        gradients=accelerator.mixed_precision != "fp16",
    )
    return Trainer(
        exp=exp, out=out, parts=parts, batch=batch, accelerator=accelerator, wrapped=wrapped, optimizer=optimizer,
        guard=guard, save_model=save_model, evaluators={name: make() for name, make in exp.evals.items()},
    )  # fmt: skip


@dataclass(kw_only=True)
class Trainer:
    """The state of a run in this process. ``step``: optimizer steps done."""

    exp: Experiment
    out: Path
    parts: Parts
    batch: BatchPlan
    accelerator: Accelerator
    wrapped: Any
    optimizer: Any
    guard: Guard
    save_model: SaveModel | None
    evaluators: Mapping[str, Callable[[Any], Mapping[str, float]]]
    plan: Plan = field(init=False)
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    evaluated: int = -1
    saved: int = -1
    stop: StopSignal = field(default_factory=StopSignal)
    meter: Meter = field(default_factory=Meter)

    # ---- the run ----------------------------------------------------------------------------------------------

    def run(self) -> dict[str, float]:
        """All steps that remain, then the last checkpoint and evaluation."""
        check_evaluators(self.evaluators, self.parts.predictor())
        self.begin()
        last = min(self.plan.steps, self.exp.run.stop_after_steps or self.plan.steps)
        self.display = Display(total=self.plan.steps, start=self.step, shown=rank() == 0)
        try:
            with self.stop.listening():
                self._steps(last)
                self.guard.check()
                self.save()
                if self.step >= self.plan.steps:
                    self.evaluate()
                self._report_run()
            if self.step < self.plan.steps and rank() == 0:
                logger.info("stopped after step %d of %d; go on with --resume", self.step, self.plan.steps)
        finally:
            self.display.close()
            self.log.close()
        numbers = {"step": float(self.step)} | self.metrics | peak_memory()
        if self.step >= self.plan.steps:
            on_first(lambda: folder.write_json(self.out / folder.NUMBERS, numbers))
        return numbers

    def begin(self) -> None:
        """Write and say what is about to happen."""
        first = rank() == 0
        counts = {
            "records": self.parts.records, "steps_per_epoch": self.parts.steps_per_epoch,
            "vocab_size": self.parts.vocab_size,
        }  # fmt: skip
        on_first(lambda: folder.describe(self.out, dump(self.exp), counts))
        self.log = RunLog(self.out, writes=first, start_step=self.step, tensorboard=self.exp.run.tensorboard)
        self.log.event("plan", self.step, self.plan.to_dict())
        if first:
            for line in self.plan.lines():
                logger.info("%s", line)

    def _steps(self, last: int) -> None:
        run, batches = self.exp.run, self.meter.timed(self.parts.loader(self.step, last))
        self.meter.restart()
        self._clear()
        self.parts.task.train()
        while self.step < last and not self.guard.stop_asked:
            outputs = self.take_step(batches)
            self.step += 1
            if self.step % (run.log_every_steps or self.plan.steps) == 0 or self.step == self.plan.steps:
                self.report(outputs[-1])
            if run.save_every_steps and self.step % run.save_every_steps == 0:
                self.save()  # before an evaluation, which may fail
            if run.eval_every_steps and self.step % run.eval_every_steps == 0:
                self.evaluate()

    # ---- one step ---------------------------------------------------------------------------------------------

    def take_step(self, batches: Iterator[Batch]) -> list[TaskOutput]:
        """Forward and backward of every micro-batch, clip, update, and what the task does after a step."""
        accelerator, task = self.accelerator, self.parts.task
        outputs: list[TaskOutput] = []
        keys: list[tuple[str, ...]] = []
        skipped: list[str] = []
        for micro in range(self.batch.accumulation_steps):
            batch = _next(batches)
            keys.append(batch.keys)
            skipped += batch.skipped
            last = micro == self.batch.accumulation_steps - 1
            with nullcontext() if last else accelerator.no_sync(self.wrapped):
                output = self.wrapped(batch.to(accelerator.device, non_blocking=True), self.step)
                accelerator.backward(output.loss / self.batch.accumulation_steps)
            outputs.append(output)
        if not self._reached:
            self._check_gradients()
        norm = self._clip()
        self._watch(outputs, norm, keys, skipped)
        self._rate = set_learning_rate(
            self.optimizer, self.exp.optim, self.step, self.plan.steps, self.plan.warmup_steps
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        task.after_step([output.carry for output in outputs])  # type: ignore[operator]
        self._add(outputs, norm)
        return outputs

    def _clip(self) -> Tensor:
        self.accelerator.unscale_gradients()
        parameters = [p for p in self.parts.task.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.exp.optim.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.exp.optim.clip_norm, norm)
        return norm

    def _check_gradients(self) -> None:
        self._reached = True
        names = without_gradient(self.parts.task)
        if names:
            parts = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
            rule = f"Rule(pattern=r'^{re.escape(parts[0])}', freeze=True)"
            raise UserError(
                f"no objective reaches {len(names)} trainable parameters of {', '.join(parts)}: {', '.join(names[:4])}"
                f"{', ...' if len(names) > 4 else ''}. Add a head that uses them, freeze them "
                f"(optim.rules=({rule}, *mmkit_rules())), or leave the part out"
            )

    def _watch(
        self, outputs: Sequence[TaskOutput], norm: Tensor, keys: Sequence[tuple[str, ...]], skipped: Sequence[str]
    ) -> None:
        for message in skipped:
            logger.warning("skipped: %s", message)
        losses = [{**output.losses, "loss": output.loss.detach()} for output in outputs]
        self.guard.watch(self.step + 1, losses, norm, keys, skipped, self.stop.asked)

    # ---- numbers ----------------------------------------------------------------------------------------------

    _reached: bool = False
    _rate: float = 0.0
    _sum: Tensor | None = None
    _count: int = 0

    def _clear(self) -> None:
        self._sum, self._count = None, 0

    def _add(self, outputs: Sequence[TaskOutput], norm: Tensor) -> None:
        self.meter.count(self.batch.global_batch)
        for output in outputs:
            parts = torch.stack([output.loss.detach().float(), *(x.float() for x in output.losses.values())])
            values = torch.cat([parts, norm.float().reshape(1)])
            self._sum = values if self._sum is None else self._sum + values
            self._count += 1

    def report(self, output: TaskOutput) -> None:
        """Log the means since the last report, of all processes. Waits for the device."""
        if self._sum is None:
            return
        losses = ["loss", *(f"losses.{name}" for name in output.losses), "grad_norm"]
        logs = torch.stack([torch.as_tensor(v, device=self._sum.device).float() for v in output.logs.values()] or [
            self._sum.new_zeros(())
        ])  # fmt: skip
        numbers = torch.cat([self._sum / self._count, logs])
        if world_size() > 1:
            dist.all_reduce(numbers)
            numbers = numbers / world_size()
        names = [*losses, *(name.replace("/", ".") for name in output.logs)]
        values = dict(zip(names, numbers.tolist(), strict=False))
        epoch = self.step / self.plan.steps_per_epoch
        rates = {"lr": self._rate, "epoch": epoch, "samples": self.step * self.batch.global_batch}
        self.metrics |= values | rates | self.meter.read()
        self.log.event("train", self.step, {name: self.metrics[name] for name in (*values, *rates)} | peak_memory() | {
            name: self.metrics[name] for name in ("samples_per_second", "data_share")
        })  # fmt: skip
        self.display.update(self.step, self.metrics)
        self._clear()

    def evaluate(self) -> None:
        """Run the evaluators, on all processes; without effect on the random state of training."""
        if not self.evaluators or self.evaluated == self.step:
            return
        self.guard.check()
        with undisturbed():
            predictor = self.parts.predictor()
            found = {
                f"{name}.{metric}": value
                for name, evaluator in self.evaluators.items()
                for metric, value in evaluator(predictor).items()
            }
        self.parts.task.train()
        self.evaluated = self.step
        self.metrics |= found
        self.log.event("eval", self.step, found)
        if rank() == 0:
            logger.info("step %d  %s", self.step, "  ".join(f"{n} {v:.4g}" for n, v in found.items()))
        self._note_best(found)
        self.meter.restart()

    def _report_run(self) -> None:
        if self.exp.report is not None and self.step >= self.plan.steps:
            self.log.flush()
            self.metrics |= self.exp.report()(self.parts.predictor(), self.out)

    def _note_best(self, found: Mapping[str, float]) -> None:
        name = self.exp.run.best
        if name is None:
            return
        if name not in found:
            raise UserError(f"run.best = {name!r}: the evaluations gave {', '.join(found)}")
        if self.best is None or found[name] > self.best[0]:
            self.best = (found[name], self.step)
            self.save()
            best = {"metric": name, "value": found[name], "step": self.step}
            on_first(lambda: folder.write_json(self.out / "best.json", best))

    # ---- checkpoints ------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the training state and the model; by all processes together."""
        if self.saved == self.step:
            return
        self.guard.check()
        root = self.out / "checkpoints"
        meta = checkpoint.Meta(
            step=self.step, world=world_size(), product=self.plan.product.name, precision=self.plan.precision,
            threads=self.plan.threads, records=self.parts.records, experiment=dump(self.exp), metrics=self.metrics,
        )  # fmt: skip
        scaler = self.accelerator.scaler
        checkpoint.save(
            root, meta, self.parts.task, self.optimizer.state_dict(), scaler.state_dict() if scaler else None
        )
        self.saved = self.step
        best = self.best

        def tidy() -> None:
            checkpoint.rotate(root, self.exp.run.keep_checkpoints, best[1] if best else None)
            if self.save_model is not None:
                self.save_model(self.out, self.parts.predictor(), meta.experiment)

        on_first(tidy)
        self.meter.restart()

    def restore(self, source: Path) -> None:
        """Become what ``save`` wrote, on this process."""
        meta, state = checkpoint.load_meta(source), checkpoint.load_state(source)
        checkpoint.load_task(source, self.parts.task)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if len(state["random"]) == world_size():
            set_random_state(state["random"][rank()])
        else:
            seed_all(self.exp.run.seed + 1000 * meta.step + rank())
            logger.warning(
                "resumes on %d processes what %d began: the samples stay the same, dropout does not", world_size(),
                meta.world,
            )  # fmt: skip
        self.step = self.saved = meta.step
        self.metrics = dict(meta.metrics)
        self.best = on_first(lambda: folder.read_best(self.out))


def _next(batches: Iterator[Batch]) -> Batch:
    try:
        return next(batches)
    except StopIteration:
        raise RuntimeError("the loader ended before the run: it gave fewer micro-batches than it promised") from None
    except UserError as error:
        raise UserError(_plain(str(error))) from None


def _plain(message: str) -> str:
    """A message from a loading worker without the stack trace that torch puts before it."""
    return message.rsplit("UserError: ", 1)[-1].strip() if message.startswith("Caught ") else message
