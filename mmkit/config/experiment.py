"""What a run is: one ``Experiment`` of frozen dataclasses, with ``functools.partial`` for the parts that are classes.

A config is a Python function that returns an ``Experiment``; nothing is looked up by name in a registry. Two tiers of
change: the function's own arguments (``configs/quickstart.py:small(res=128)``) for what fans out, ``override`` with
dotted paths for leaves. This module never imports a model, a head or a source: what only a part can know, the part
checks when it is built (or a head says by ``needs_negatives`` that a batch of one cannot train it).

Left out on purpose: reading YAML, inheritance between configs, interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from mmkit.errors import UserError

Precision = Literal["auto", "no", "bf16", "fp16"]
Product = Literal["auto", "highest", "high", "medium"]
TrackerName = Literal["tensorboard", "wandb", "trackio"]
EngineName = Literal["ddp", "fsdp", "hsdp"]


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A number that goes from ``start`` to ``end`` in a straight line over ``steps`` optimizer steps, then stays."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        """The number at an optimizer step."""
        if self.steps <= 0:
            return self.end
        return self.start + (self.end - self.start) * min(1.0, step / self.steps)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The momentum teacher: EMA factor per optimizer step, and the share of its word in the targets (ALBEF, 3.3)."""

    momentum: float = 0.995
    alpha: float = 0.4
    alpha_ramp_epochs: float = 1.0

    def alpha_ramp(self, steps_per_epoch: int) -> Ramp:
        """The share of its word by optimizer step."""
        return Ramp(start=0.0, end=self.alpha, steps=round(self.alpha_ramp_epochs * steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Samples per forward on one process, forwards per optimizer step, and samples per optimizer step of all."""

    rank_batch: int
    accumulation_steps: int
    global_batch: int
    world: int


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is read, and how it becomes batches.

    train: makes the source, ``train() -> Source``. image_size: pixels, height = width or (height, width).
    transform: ``transform(size=image_size)`` makes the training transform; None = the package's default.
    eval_transform: the same for evaluation; None = resize and the training transform's mean and std.
    Give ``global_batch`` (samples per optimizer step of all processes), or ``rank_batch`` (samples per forward of one
    process), or both, or one with ``accumulation_steps``; the rest follows (``batch_plan``).
    max_bad_fraction: the run stops when more than this share of the samples could not be read. targets: makes a
    ``mmkit.data.targets.TargetEncoder`` of what the records say beside picture and text; None = all as it is.
    max_tokens: of a text, longer ones are cut; needed where there are words.
    mixing: makes a ``mmkit.train.mixing.Mixing``: mixup, CutMix and erasing of whole batches, on the device.
    blank_images: grey pictures in place of all, in training and evaluation: what the words alone tell.
    block: so many neighbouring records are visited near each other, for slow disks, and ``window`` such blocks are
    mixed; see ``mmkit.data.order.Order``. None = what suits the source: 1, or of Parquet with pictures its groups of
    rows, as many as a worker keeps.
    """

    train: partial[Any]
    image_size: int | tuple[int, int]
    max_tokens: int = 0
    transform: partial[Any] | None = None
    eval_transform: partial[Any] | None = None
    masking: partial[Any] | None = None
    targets: partial[Any] | None = None
    mixing: partial[Any] | None = None
    blank_images: bool = False
    rank_batch: int | None = None
    global_batch: int | None = None
    accumulation_steps: int | None = None
    workers: int = 0
    max_bad_fraction: float = 0.01
    block: int | None = None
    window: int | None = None

    def batch_plan(self, world: int) -> BatchPlan:
        """The batch for ``world`` processes; UserError where the numbers do not fit together."""
        rank, total, accumulation = self.rank_batch, self.global_batch, self.accumulation_steps
        for name, value in (("rank_batch", rank), ("global_batch", total), ("accumulation_steps", accumulation)):
            if value is not None and value < 1:
                raise UserError(f"data.{name} = {value}: must be at least 1")
        if total is None:
            if rank is None:
                raise UserError("data: give global_batch (samples per optimizer step) or rank_batch")
            accumulation = accumulation or 1
            total = rank * accumulation * world
        elif rank is None:
            accumulation = accumulation or 1
            rank = total // (accumulation * world)
        else:
            accumulation = accumulation or total // (rank * world)
        if rank * accumulation * world != total:
            raise UserError(
                f"data.global_batch = {total} is not rank_batch x accumulation_steps x processes "
                f"({rank} x {accumulation} x {world}); change one of them"
            )
        return BatchPlan(rank_batch=rank, accumulation_steps=accumulation, global_batch=total, world=world)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What holds for the parameters whose dotted name matches ``pattern`` (``re.search``), if no earlier rule did.

    lr_scale: factor on the learning rate. weight_decay: None = the optimizer's. freeze: not trained at all.
    max_rank: None, or the rule only takes parameters of at most this many dimensions. optional: it may match nothing.
    muon: it takes matrices alone, whose steps are Muon's (``mmkit.nn.muon``) in place of AdamW's.
    """

    pattern: str
    lr_scale: float = 1.0
    weight_decay: float | None = None
    freeze: bool = False
    max_rank: int | None = None
    optional: bool = False
    muon: bool = False


def mmkit_rules() -> tuple[Rule, ...]:
    """No decay for biases, norms, the temperature, class tokens and position tables; decay for the rest."""
    return (
        Rule(pattern=r"", max_rank=1, weight_decay=0.0, optional=True),
        Rule(pattern=r"(^|\.)(cls|cls_token|class_token)$", weight_decay=0.0, optional=True),
        Rule(pattern=r"(^|\.)(positions|pos_embed|position_embeddings)(\.|$)", weight_decay=0.0, optional=True),
        Rule(pattern=r""),
    )


def muon_rules(lr_scale: float = 1.0) -> tuple[Rule, ...]:
    """``mmkit_rules``, with Muon for the matrices of transformer blocks, at ``lr_scale`` times the rate."""
    first, *others = mmkit_rules()
    matrices = r"(^|\.)blocks\.\d+\.\w+\.(qkv|q|kv|proj|fc1|fc2)\.weight$"
    return (first, Rule(pattern=matrices, lr_scale=lr_scale, muon=True), *others)


def official_rules() -> tuple[Rule, ...]:
    """ALBEF's released code: no decay exactly for parameters of rank 1; all others decay, the temperature too."""
    return (
        Rule(pattern=r"", max_rank=0, optional=True),
        Rule(pattern=r"", max_rank=1, weight_decay=0.0, optional=True),
        Rule(pattern=r""),
    )


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW, or Muon by a rule; warm-up and cosine in optimizer steps, clipping, the rules that sort the parameters.

    The learning rate goes from ``warmup_lr`` to ``lr`` in a line over the warm-up (give at most one of
    ``warmup_steps``, ``warmup_epochs``, ``warmup_frac``), then to ``min_lr`` in half a cosine at the last step.
    ``clip_norm``: None = no clipping. ``rules``: in order, each parameter takes the first that matches; together they
    must cover every one.
    """

    lr: float = 1e-4
    min_lr: float = 1e-6
    warmup_lr: float = 0.0
    warmup_steps: int | None = None
    warmup_epochs: float | None = None
    warmup_frac: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.02
    clip_norm: float | None = 1.0
    rules: tuple[Rule, ...] = field(default_factory=mmkit_rules)

    def warmup(self, steps: int, steps_per_epoch: int) -> int:
        """The warm-up in optimizer steps, for a run of ``steps``."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        if self.warmup_epochs is not None:
            return round(self.warmup_epochs * steps_per_epoch)
        return round((self.warmup_frac or 0.0) * steps)


@dataclass(frozen=True, kw_only=True)
class Run:
    """How long, how often, how exactly.

    Give ``steps`` (optimizer steps), ``epochs``, or ``minutes``: a run by the clock, which counts the time of the steps
    alone (no evaluation, no saving, no pause before a resume), with the schedule over that time.
    ``eval_every_steps`` and ``save_every_steps``: 0 = only at the end. save_every_minutes: the same by the clock of the
    first process, beside the steps; None = not. save_in_background: training waits only until the state is copied, for
    which there must be room in memory, and it is written meanwhile; what goes wrong stops the run at the next step.
    keep_checkpoints: how many of the newest training states stay. best: the metric by which the best model is kept, in
    the folder ``best`` of the run ("retrieval.t2i_r1"); None = none. best_is: whether its highest or lowest value is
    the best. precision: "auto" = bf16 where the device computes it natively. float32_matmul: the backend of float32
    products, see ``train/precision.py``; "auto" = the fastest whose error is that of float32. eval_precision: in
    float32 an evaluation equals what a later process measures; "bf16" is faster. stop_after_steps: end this process
    early at that step, saved; the schedule stays that of the whole run. timeout_minutes: how long one process waits
    for the others at the start, in the first step, and in evaluations and saves; step_timeout_minutes: in the steps
    after the first. engine: who holds the weights: "ddp" = every process all, "fsdp" = each process its share, "hsdp" =
    each process of a node its share of what the other nodes hold too. shard_ranks: of hsdp, how many processes share;
    None = those of a node. reshard: of fsdp and hsdp, whether the image tower's weights are given up between its
    forward and its backward pass: less memory, one more gather. chunks: in how many a micro-batch passes the model,
    which compares all of it and keeps the activations of one; each is passed twice (see docs/training.md).
    trackers: where the numbers also go, see ``train/trackers.py``. gc_every_steps: Python's garbage is collected at
    these steps alone; 0 = when Python thinks best.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    seed: int = 42
    precision: Precision = "auto"
    float32_matmul: Product = "auto"
    eval_precision: Literal["float32", "bf16"] = "float32"
    eval_every_steps: int = 0
    save_every_steps: int = 1000
    save_every_minutes: float | None = None
    save_in_background: bool = True
    log_every_steps: int = 10
    keep_checkpoints: int = 2
    best: str | None = None
    best_is: Literal["highest", "lowest"] = "highest"
    compile: bool = False
    chunks: int = 1
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    gc_every_steps: int = 50
    timeout_minutes: float = 30.0
    step_timeout_minutes: float = 5.0
    engine: EngineName = "ddp"
    shard_ranks: int | None = None
    reshard: bool = False
    stop_after_steps: int | None = None

    def total_steps(self, steps_per_epoch: int) -> int:
        """The run's length in optimizer steps; 0 for a run by the clock, which nobody knows yet."""
        return self.steps if self.steps is not None else math.ceil((self.epochs or 0.0) * steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run, whole: model, heads and their weights, teacher, tokenizer, data, optimizer, run, evaluations.

    model: ``model(vocab_size=, pad_id=)``; None = that of ``init["model"]``, or of ``first``, at this run's image size.
    heads: each ``head(spec)``. weights: 1 where a head is not named.
    init: what the towers "image", "text" or "model" start from, a file or folder, "timm:NAME" or "hf:OWNER/NAME".
    tokenizer: ``tokenizer(captions=, folder=)``; None = that of ``init["model"]``, or of ``first``; where neither has
    one, a run on pictures alone, whose records need no caption. evals: each
    ``evaluator()`` makes a callable on a ``Predictor``.
    report: ``report()(predictor, folder) -> numbers`` at the end of the run, called by every process.
    first: a run to do before, from whose model and tokenizer this one starts. subfolder: where in the folder of the
    whole its results go, "" for that folder itself. Each of several runs has its own; of a run alone this says nothing.
    """

    name: str
    heads: Mapping[str, partial[Any]]
    data: Data
    run: Run
    model: partial[Any] | None = None
    tokenizer: partial[Any] | None = None
    optim: Optim = field(default_factory=Optim)
    weights: Mapping[str, float | Ramp] = field(default_factory=dict)
    init: Mapping[str, str] = field(default_factory=dict)
    teacher: Teacher | None = None
    evals: Mapping[str, partial[Any]] = field(default_factory=dict)
    report: partial[Any] | None = None
    first: Experiment | None = None
    subfolder: str = ""

    def __post_init__(self) -> None:
        for name in ("heads", "weights", "init", "evals"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def stages(self) -> tuple[Experiment, ...]:
        """The runs before this one, in order, and this one."""
        return (*(() if self.first is None else self.first.stages()), self)

    def __reduce__(self) -> Any:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain: dict[str, Any] = {k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in values.items()}
        return partial(Experiment, **plain), ()
