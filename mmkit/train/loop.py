"""The training loop: steps, logs, evaluations, checkpoints, on one process or many.

``train`` sets the process up, builds everything and says the plan; ``Trainer`` takes the steps. One optimizer step is
one number everywhere: in the schedule, the logs (counted from 1 = the first one done), the checkpoints and the loader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from mmkit.config import Experiment, dump, validate
from mmkit.config.experiment import BatchPlan
from mmkit.config.own import said_of
from mmkit.data.workers import named_workers
from mmkit.errors import Stopped
from mmkit.files import write_json
from mmkit.progress import progress
from mmkit.ranks import gather_objects, named_failures, on_first, rank, world_size
from mmkit.task import StepCounts
from mmkit.train import folder, resuming
from mmkit.train.build import Parts, build, next_batch
from mmkit.train.checks import check_evaluators, check_reached
from mmkit.train.clock import ENDLESS, Clock
from mmkit.train.engines.base import Engine
from mmkit.train.engines.choose import check_engine, make_engine
from mmkit.train.garbage import Garbage
from mmkit.train.gauges import read_pace, with_arithmetic
from mmkit.train.guard import Guard
from mmkit.train.inherit import inherited
from mmkit.train.lock import one_writer
from mmkit.train.means import Means
from mmkit.train.optim import set_learning_rate
from mmkit.train.plan import Plan, make_plan
from mmkit.train.precision import ProductChoice, choose_precision, choose_product
from mmkit.train.rng import seed_all, undisturbed
from mmkit.train.runlog import RunLog, summary
from mmkit.train.saving import SaveModel, Saving
from mmkit.train.setup import (
    StopSignal,
    local_processes,
    make_accelerator,
    numeric_settings,
    start_processes,
    threads_for,
)  # fmt: skip
from mmkit.train.throughput import Meter, peak_memory
from mmkit.train.trackers import Trackers
from mmkit.train.waits import Waits
from mmkit.types import Batch, TaskOutput

logger = logging.getLogger("mmkit.train")

Build = Callable[[Experiment, Path, BatchPlan], Parts]


def train(
    experiment: Experiment, out: str | Path, resume: bool = False, *, save_model: SaveModel | None = None,
    build_parts: Build = build, apart: Collection[str] = (), free: Sequence[str] = (),
) -> dict[str, float]:  # fmt: skip
    """Run an experiment in the folder ``out``; the last metrics, by dotted name.

    resume: go on from the newest checkpoint of that folder (from the beginning where there is none yet).
    save_model: ``save_model(folder, predictor, dumped experiment)`` writes the model for use, at every checkpoint, on
    the first process. apart: names in the folder that belong to other runs. free: further settings that may differ on
    resume. Raises UserError for what does not fit, before the first step where that can be known, and ``Stopped`` after
    a SIGINT or SIGTERM, when all that was done is saved.
    """
    out = Path(out)
    state = start_processes(experiment.run, out)
    resume = resume or on_first(lambda: folder.restarted(out))
    experiment = inherited(experiment, out)
    validate(experiment, world=state.num_processes)
    check_engine(experiment.run)
    batch = experiment.data.batch_plan(state.num_processes)
    on_first(lambda: folder.look(out, resume, apart))
    waits = Waits(experiment.run)
    with one_writer(out), named_failures(waits.where), named_workers():  # told wherever the signal of its end comes
        start = on_first(lambda: folder.look(out, resume, apart))
        meta = on_first(lambda: resuming.load_meta(start)) if start is not None else None
        precision = meta.precision if meta else choose_precision(experiment.run.precision, state.device)
        product = (
            ProductChoice(name=meta.product, reason="as when the run began") if meta is not None
            else on_first(lambda: choose_product(experiment.run.float32_matmul, state.device))
        )  # fmt: skip
        threads = threads_for(experiment.data.workers, local_processes())
        with numeric_settings(product.name, threads), folder.place_to_start(out, fresh=start is None) as place:
            parts = build_parts(experiment, place, batch)
            dumped = dump(experiment)
            for line in said_of(dumped, dump(parts.predictor().transform)) if rank() == 0 else ():
                logger.info("%s", line)
            if start is not None and meta is not None:
                resuming.check_same(start, meta.experiment, dumped, (meta.records, parts.records), free)
                resuming.check_order(start, meta, parts.order, parts.digest)
                resuming.check_tokenizer(start, meta)
                if (cut := resuming.check_batch(start, meta, batch)) and rank() == 0:
                    logger.warning("%s", cut)
            accelerator = make_accelerator(experiment.run, precision)
            trainer = _make_trainer(experiment, dumped, out, parts, batch, accelerator, save_model)
            trainer.waits = waits
            trainer.plan = make_plan(
                experiment, parts.task, records=parts.records, steps_per_epoch=parts.steps_per_epoch,
                start_step=meta.step if meta else 0, batch=batch, device=str(accelerator.device), precision=precision,
                product=product, threads=threads, texts=parts.texts, engine=trainer.engine.told,
                sets=parts.sets, order=parts.order,
            )  # fmt: skip
            trainer.saving.check_room(parts.task, trainer.optimizer)
            trainer.plan = with_arithmetic(trainer.plan, experiment, parts.vocab_size, accelerator.device)
            if start is not None:
                trainer.restore(start)
            return trainer.run(fresh=start is None, apart=apart)


def _make_trainer(
    exp: Experiment, dumped: Mapping[str, Any], out: Path, parts: Parts, batch: BatchPlan, accelerator: Accelerator,
    save_model: SaveModel | None,
) -> Trainer:  # fmt: skip
    parts.task.to(accelerator.device)
    engine = make_engine(exp.run, accelerator)
    optimizer = engine.prepare(parts.task, exp.optim, exp.run.compile)
    seed_all(exp.run.seed + rank())
    gradients = accelerator.mixed_precision != "fp16"
    guard = Guard(accelerator.device, max_bad_fraction=exp.data.max_bad_fraction, gradients=gradients)
    saving = Saving(
        out=out, run=exp.run, experiment=dumped, engine=engine, scaler=accelerator.scaler, predictor=parts.predictor,
        save_model=save_model,
    )  # fmt: skip
    return Trainer(
        exp=exp, out=out, parts=parts, batch=batch, accelerator=accelerator, engine=engine, optimizer=optimizer,
        guard=guard, saving=saving, evaluators={name: make() for name, make in exp.evals.items()},
        clock=Clock(exp.run.minutes), means=Means(accelerator.device), garbage=Garbage(exp.run.gc_every_steps),
    )  # fmt: skip


@dataclass(kw_only=True)
class Trainer:
    """The state of a run in this process. ``step``: optimizer steps done."""

    exp: Experiment
    out: Path
    parts: Parts
    batch: BatchPlan
    accelerator: Accelerator
    engine: Engine
    optimizer: Any
    guard: Guard
    saving: Saving
    clock: Clock
    means: Means
    garbage: Garbage
    evaluators: Mapping[str, Callable[[Any], Mapping[str, float]]]
    plan: Plan = field(init=False)
    waits: Waits = field(init=False)
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    evaluated: int = -1
    stop: StopSignal = field(default_factory=StopSignal)
    meter: Meter = field(default_factory=Meter)

    # ---- the run ----------------------------------------------------------------------------------------------

    def run(self, fresh: bool = True, apart: Collection[str] = ()) -> dict[str, float]:
        """All steps that remain, then the last checkpoint and evaluation."""
        check_evaluators(self.evaluators, self.parts.predictor(), self.exp.run.best)
        self.begin(fresh, apart)
        last = min(self.plan.steps or ENDLESS, self.exp.run.stop_after_steps or ENDLESS)
        with progress(rank() == 0, keep=True) as self.tell, closing(self.log):
            self.tell("step", self.step, self.plan.steps)
            with self.stop.listening(), self.saving.finishing():
                with suppress(Stopped):  # in an evaluation; all processes come here, and save
                    self._steps(last)
                self.save(wait=True)
                self._leave_if_asked()
                if self._done():
                    self.evaluate()
                    self._report_run()
                    self._leave_if_asked()
            if rank() == 0 and self._done() and self.plan.minutes is not None and self.step <= self.plan.warmup_steps:
                logger.warning(
                    "the warm-up of %d steps did not end before the time did: give optim.warmup_frac",
                    self.plan.warmup_steps,
                )
            if not self._done() and rank() == 0:
                logger.info("stopped after step %d; go on with --resume", self.step)
        numbers = {"step": float(self.step)} | self.metrics | peak_memory()
        if self._done():
            on_first(lambda: write_json(self.out / folder.NUMBERS, numbers))
        return numbers

    def begin(self, fresh: bool, apart: Collection[str]) -> None:
        """Write and say what is about to happen."""
        first = rank() == 0
        counts = {
            "records": self.parts.records, "steps_per_epoch": self.parts.steps_per_epoch,
            "vocab_size": self.parts.vocab_size,
        }  # fmt: skip
        on_first(lambda: folder.start(self.out, dict(self.saving.experiment), counts, fresh, apart))
        trackers = partial(
            Trackers, self.out, self.exp.run.trackers, name=self.exp.name, start_step=self.step,
            config=self.saving.experiment,
        )  # fmt: skip
        self.log = RunLog(self.out, writes=first, start_step=self.step, trackers=trackers)
        self.log.event("plan", self.step, asdict(self.plan))
        if first:
            for line in self.plan.lines():
                logger.info("%s", line)

    def _steps(self, last: int) -> None:
        run, batches = self.exp.run, self.meter.timed(self.parts.loader(self.step, last))
        if self.step and self._owed():
            self.evaluate()
        self.meter.restart()
        self.parts.task.train()
        with closing(batches), self.clock.running(), self.garbage.held():
            while self.step < last and not self.guard.stop_asked and not self.clock.over():
                self._look_ahead()
                with self.waits.in_step(self.step + 1):
                    self.take_step(batches)
                    self.step += 1
                    self.clock.tick()
                    self.garbage.tick()
                    if self.step % (run.log_every_steps or self.plan.steps) == 0 or self._done():
                        self.report()
                if self.guard.save_failed:
                    self.saving.join()
                if self.guard.save_asked or (run.save_every_steps and self.step % run.save_every_steps == 0):
                    self.save(wait=not run.save_in_background)  # before an evaluation, which may fail
                if run.eval_every_steps and self.step % run.eval_every_steps == 0:
                    self._evaluate_or_save()

    def _done(self) -> bool:
        """Whether the run is at its end, by the clock or by its steps."""
        return self.clock.over() if self.exp.run.minutes is not None else self.step >= self.plan.steps

    def _look_ahead(self) -> None:
        """By the clock: how many steps there will be, as far as is known now; so the schedule ends with the time."""
        if self.exp.run.minutes is not None:
            steps = self.clock.steps(self.step)
            warmup = self.exp.optim.warmup(steps, self.plan.steps_per_epoch)
            self.plan = replace(self.plan, steps=steps, warmup_steps=warmup)

    def _owed(self) -> bool:
        """Whether the process that saved this step ended before its evaluation."""
        every = self.exp.run.eval_every_steps
        return bool(every) and self.step % every == 0 and not on_first(lambda: folder.evaluated(self.out, self.step))

    def _leave_if_asked(self) -> None:
        """Raise ``Stopped`` on all processes where one of them was told to stop."""
        if number := max(gather_objects(self.stop.asked)):
            if rank() == 0:
                logger.info("stopped after step %d, and saved; go on with --resume", self.step)
            raise Stopped(number)

    # ---- one step ---------------------------------------------------------------------------------------------

    def take_step(self, batches: Iterator[Batch]) -> None:
        """Forward and backward of every micro-batch, clip, update, and what the task does after a step.

        Each loss is the mean over what it counts in all micro-batches of all processes, so the counts come first.
        """
        accelerator, task = self.accelerator, self.parts.task
        step_batches = [next_batch(batches) for _ in range(self.batch.accumulation_steps)]
        several = len(step_batches) > 1  # a step of one micro-batch counts for itself
        counts: StepCounts | None = self.engine.count(step_batches, self.step) if several else None
        totals = None if counts is None else counts.totals
        outputs: list[TaskOutput] = []
        before = 0
        for batch in step_batches:
            last = len(outputs) == len(step_batches) - 1
            with self.engine.micro_batch(last):
                output = self.engine.forward(batch.to(accelerator.device, non_blocking=True), self.step, before, totals)
                accelerator.backward(output.loss)
            outputs.append(replace(output, loss=output.loss.detach()))
            before += len(batch) * world_size()
        if not self._reached:
            check_reached(task)
            self._reached = True
        norm = self.engine.clip(self.exp.optim.clip_norm)
        self._watch(outputs, norm, step_batches, counts)
        self._rate = set_learning_rate(
            self.optimizer, self.exp.optim, self.step, self.plan.steps, self.plan.warmup_steps
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.engine.check()
        task.after_step([output.carry for output in outputs])  # type: ignore[operator]
        self.meter.count(self.batch.global_batch)
        self.means.add(outputs, norm)

    def _watch(
        self, outputs: Sequence[TaskOutput], norm: Tensor, batches: Sequence[Batch], counts: StepCounts | None
    ) -> None:
        skipped = [message for batch in batches for message in batch.skipped]
        for message in skipped:
            logger.warning("skipped: %s", message)
        losses = [{**output.losses, "loss": output.loss} for output in outputs]
        wrong = counts.differ([output.counts for output in outputs]) if counts is not None else {}
        keys = [batch.keys for batch in batches]
        self.guard.watch(
            self.step + 1, losses, norm, keys, skipped, bool(self.stop.asked), wrong, save=self.saving.due(),
            failed=self.saving.failed,
        )  # fmt: skip

    # ---- numbers ----------------------------------------------------------------------------------------------

    _reached: bool = False
    _rate: float = 0.0
    _reported: frozenset[str] = frozenset()

    def report(self) -> None:
        """Log the means since the last report, of all processes. Waits for the device."""
        values = self.means.read()
        for name in self._reported - values.keys():
            del self.metrics[name]  # over no item this time: what it was before is not what it is
        self._reported = frozenset(values)
        epoch = self.step / self.plan.steps_per_epoch
        rates = {"lr": self._rate, "epoch": epoch, "samples": self.step * self.batch.global_batch}
        pace = read_pace(self.meter, self.parts.task, self.plan, self.saving.seconds)
        self.metrics |= values | rates | pace
        self.log.event("train", self.step, values | rates | pace)
        self.tell("step", self.step, self.plan.steps, summary(self.metrics))

    def evaluate(self) -> None:
        """Run the evaluators, on all processes; without effect on the random state of training."""
        if not self.evaluators or self.evaluated == self.step:
            return
        self.guard.check()
        with undisturbed(), self.clock.paused(), self.garbage.let_go(), self._predictor() as predictor:
            found = {
                f"{name}.{metric}": value
                for name, evaluator in self.evaluators.items()
                for metric, value in evaluator(predictor).items()
            }
        self.parts.task.train()
        self.evaluated = self.step
        self.metrics |= found
        with self.clock.paused():
            self.saving.note_best(self.step, found)
        self.log.event("eval", self.step, found)  # last, as an evaluation that stands there is not made again
        if rank() == 0:
            logger.info("step %d  %s", self.step, "  ".join(f"{n} {v:.4g}" for n, v in found.items()))
        self.meter.restart()

    def _evaluate_or_save(self) -> None:
        """As ``evaluate``; where it fails, one process saves first. Of several, some may still be within it."""
        self.guard.check()  # not within: after a loss that is not finite nothing is saved
        try:
            self.evaluate()
        except (Exception, SystemExit):
            if world_size() == 1:
                self.save(wait=True)
            raise

    @contextmanager
    def _predictor(self) -> Iterator[Any]:
        """What evaluators and reports take, over whole weights; a signal to stop ends the work at once."""
        with self.engine.whole(), self.stop.at_once(self.parts.predictor()) as predictor:
            yield predictor

    def _report_run(self) -> None:
        if self.exp.report is not None:
            self.log.flush()
            with self._predictor() as predictor:
                self.metrics |= self.exp.report()(predictor, self.out)

    # ---- checkpoints ------------------------------------------------------------------------------------------

    def save(self, wait: bool) -> None:
        """Write the training state and the model, see ``Saving.save``; by all processes together."""
        self.guard.check()
        self.guard.save_asked = False
        self.saving.join()
        if self.saving.saved == self.step:
            return
        meta = resuming.Meta(
            step=self.step, world=world_size(), product=self.plan.product.name, precision=self.plan.precision,
            threads=self.plan.threads, records=self.parts.records, experiment=dict(self.saving.experiment),
            metrics=dict(self.metrics), batch=asdict(self.batch), seen=self.guard.seen, bad=self.guard.bad,
            seconds=self.clock.seconds, tokenizer=resuming.digest_of(self.out / "tokenizer"), order=self.parts.order,
            data=self.parts.digest,
        )  # fmt: skip
        with self.clock.paused():
            self.saving.save(meta, wait=wait)
        self.meter.restart()

    def restore(self, source: Path) -> None:
        """Become what ``save`` wrote, on this process."""
        meta = self.saving.restore(source)
        self.step = meta.step
        self.metrics = dict(meta.metrics)
        self.guard.seen, self.guard.bad = meta.seen, meta.bad
        self.clock.seconds = meta.seconds
