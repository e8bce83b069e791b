"""The cross-field checks of an experiment: what can be known before anything is built. Messages name the path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, get_args

from mmkit.config.experiment import EngineName, Experiment, Run
from mmkit.config.override import arguments_of, check_partials, nearest, parameters_of
from mmkit.data.images.size import height_width
from mmkit.errors import UserError


def validate(exp: Experiment, world: int = 1) -> Experiment:
    """Checks what can be known before anything is built, for ``world`` processes. Returns the experiment.

    UserError names the path of what does not fit or contradicts itself.
    """
    check_partials(exp)
    _check_run(exp, world)
    _check_data(exp)
    _check_heads(exp, world)
    _check_sizes(exp)
    _check_image_size(exp)
    _check_warmup(exp)
    _check_rates(exp)
    _check_stages(exp)
    if exp.first is not None:
        validate(exp.first, world)
    return exp


def _check_stages(exp: Experiment) -> None:
    folders = [stage.subfolder for stage in exp.stages()]
    for folder in folders:
        _check_folder(folder)
    places = [PurePosixPath(folder.replace("\\", "/")).as_posix().casefold() for folder in folders]
    if twice := [folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise UserError(
            f"first: {len(folders)} runs, and several write to subfolder = {min(twice)!r}; name each its own"
        )
    if exp.first is None and "model" not in exp.init:
        if exp.model is None:
            raise UserError("model: a run needs one, or init['model'] or a `first` run that it is taken from")
        if exp.tokenizer is None:
            refuse_words(exp)
    if exp.first is not None and "model" in exp.init:
        raise UserError("init.model: this run starts from the model of `first`; leave one of them out")


def refuse_words(exp: Experiment) -> None:
    """UserError for the first part of a run without a tokenizer that reads words."""
    found = _with_words(exp)
    if exp.model is not None and "vocab_size" in parameters_of(exp.model):
        found.insert(0, f"model ({exp.model.func.__name__})")
    if exp.data.masking is not None:
        found.append("data.masking")
    if found:
        raise UserError(
            f"tokenizer: {found[0]} reads words, so this run needs one, or init['model'] or a `first` run that it is "
            "taken from; without one a run trains on pictures alone, with a model and heads of pictures"
        )


def check_words(exp: Experiment, spec: Any) -> None:
    """UserError for the first head or evaluator that reads words where the model, of this ``ModelSpec``, reads none."""
    found = [] if spec.vocab_size else _with_words(exp)
    if found:
        raise UserError(
            f"{found[0]} reads words, and the model reads pictures alone; take it out, or choose a model with a text "
            "tower"
        )


def _with_words(exp: Experiment) -> list[str]:
    """The heads, evaluators and the report that read words, by name."""
    parts = {f"heads.{name}": part for name, part in exp.heads.items()}
    parts |= {f"evals.{name}": part for name, part in exp.evals.items()}
    parts |= {} if exp.report is None else {"report": exp.report}
    readers = {name: part.func for name, part in parts.items() if getattr(part.func, "needs_words", False)}
    return [f"{name} ({reader.__name__})" for name, reader in readers.items()]


OF_A_RUN = {"checkpoints", "tokenizer", "tensorboard", "trackers", "best", "flight-recorder"}
"""Folders that a run makes in its own."""


def _check_folder(folder: str) -> None:
    """UserError for a stage's folder that leads out of the whole's, or into what a run keeps there."""
    parts = folder.replace("\\", "/").split("/") if folder else []
    if folder.startswith(("/", "\\", "~")) or ":" in folder or any(part.strip() in ("", "..") for part in parts):
        raise UserError(
            f"subfolder = {folder!r}: must be the name of a folder inside that of the whole run, as 'pretrain'"
        )
    if own := [part for part in parts if part.casefold() in OF_A_RUN or part.startswith(".mmkit")]:
        raise UserError(f"subfolder = {folder!r}: a run keeps something of its own in {own[0]!r}; choose another name")


MOST_MINUTES = 525600


def _check_run(exp: Experiment, world: int) -> None:
    run = exp.run
    _one_of("run", run, ("steps", "epochs", "minutes"), needed=True)
    _positive("run", run, ("steps", "epochs", "minutes", "keep_checkpoints", "stop_after_steps", "save_every_minutes"))
    _positive("run", run, ("timeout_minutes", "step_timeout_minutes"))
    if (longest := max(run.timeout_minutes, run.step_timeout_minutes)) > MOST_MINUTES:
        raise UserError(f"run: a time-out of {longest} minutes: at most {MOST_MINUTES}, a year")
    _check_engine(run)
    _positive("run", run, ("chunks",))
    if run.chunks > (samples := exp.data.batch_plan(world).rank_batch):
        raise UserError(f"run.chunks = {run.chunks}: more than the {samples} samples of a micro-batch")
    _positive("run", run, ("eval_every_steps", "save_every_steps", "log_every_steps", "gc_every_steps"), or_zero=True)
    if run.best is not None and not any(run.best.startswith(f"{name}.") for name in exp.evals):
        has = f"one of {', '.join(sorted(exp.evals))}" if exp.evals else "in evals, and this config has none"
        raise UserError(f"run.best = {run.best!r}: must be EVAL.METRIC with EVAL {has}")
    by = [part for name, part in exp.evals.items() if run.best is not None and run.best.startswith(f"{name}.")]
    if chosen := next((part.keywords["protocol"] for part in by if part.keywords.get("protocol")), None):
        raise UserError(
            f"run.best = {run.best!r}: would choose the model on the test split of {chosen}; choose it on clips that "
            "are kept apart, by an evaluation without a protocol"
        )
    if exp.teacher is not None:
        _fraction("teacher", exp.teacher, ("momentum", "alpha"))
        _positive("teacher", exp.teacher, ("alpha_ramp_epochs",), or_zero=True)


def _check_engine(run: Run) -> None:
    """UserError for an engine that there is not, and for settings of another one."""
    if run.engine not in get_args(EngineName):
        raise UserError(f"run.engine = {run.engine!r}: must be one of {', '.join(get_args(EngineName))}")
    _positive("run", run, ("shard_ranks",))
    if run.shard_ranks is not None and run.engine != "hsdp":
        raise UserError(f"run.shard_ranks = {run.shard_ranks}: is for run.engine = 'hsdp', and this is {run.engine!r}")
    if run.reshard and run.engine == "ddp":
        raise UserError("run.reshard: is for run.engine = 'fsdp' or 'hsdp'; under 'ddp' weights are whole always")


def _check_data(exp: Experiment) -> None:
    if exp.data.max_tokens < 2 and exp.tokenizer is not None:
        raise UserError(f"data.max_tokens = {exp.data.max_tokens}: at least 2, the first is [CLS]")
    _positive("data", exp.data, ("workers",), or_zero=True)
    _positive("data", exp.data, ("block", "window"))
    _fraction("data", exp.data, ("max_bad_fraction",))


def _check_heads(exp: Experiment, world: int) -> None:
    if not exp.heads:
        raise UserError("heads: a run needs at least one objective")
    for name, weight in exp.weights.items():
        if name not in exp.heads:
            hint = nearest(name, exp.heads)
            raise UserError(f"weights.{name}: there is no such head{hint}; heads are {sorted(exp.heads)}")
        if not isinstance(weight, (int, float)):
            _positive(f"weights.{name}", weight, ("start", "end", "steps"), or_zero=True)
        elif not 0 <= weight < math.inf:
            raise UserError(f"weights.{name} = {weight}: must be positive, or 0")
    side_by_side = exp.data.batch_plan(world).rank_batch * world
    for name, head in exp.heads.items():
        masking = exp.data.masking
        if masking is None and getattr(head.func, "needs_masking", False):
            raise UserError(f"heads.{name} learns from hidden words, and data.masking is None; give it a Masking")
        if masking and getattr(head.func, "needs_masking", False) and arguments_of(masking).get("probability") == 0:
            raise UserError(f"heads.{name} learns from hidden words, and data.masking.probability = 0 hides none")
        if side_by_side < 2 and getattr(head.func, "needs_negatives", False):
            raise UserError(
                f"heads.{name} learns from the other samples of its batch as negatives, but the batch has "
                f"{side_by_side} (rank_batch x processes); raise data.global_batch or data.rank_batch"
            )


def _check_sizes(exp: Experiment) -> None:
    """UserError for a whole number below zero, which no part of mmkit's takes, and for widths and heads of zero."""
    parts = {"model": exp.model, **{f"heads.{name}": head for name, head in exp.heads.items()}}
    for path, part in parts.items():
        if part is None or not part.func.__module__.startswith("mmkit."):
            continue
        for name, value in arguments_of(part).items():
            if type(value) is int and (value < 0 or (value == 0 and name.endswith(("width", "heads")))):
                least = "positive" if name.endswith(("width", "heads")) else "positive, or 0"
                raise UserError(f"{path}.{name} = {value}: must be {least}")


def _check_image_size(exp: Experiment) -> None:
    size = exp.data.image_size
    sides = height_width(size, "data.image_size")
    for name in ("transform", "eval_transform"):
        part = getattr(exp.data, name)
        if part is not None and height_width(part.keywords.get("size", size), f"data.{name}.size") != sides:
            raise UserError(f"data.{name}.size = {part.keywords['size']}: is data.image_size = {size}; set that one")
    arguments = {} if exp.model is None else arguments_of(exp.model)
    if "max_tokens" in arguments and arguments["max_tokens"] < exp.data.max_tokens:
        raise UserError(
            f"data.max_tokens = {exp.data.max_tokens} is more than model.max_tokens = {arguments['max_tokens']}"
        )
    longest = {} if exp.data.targets is None else arguments_of(exp.data.targets)
    if "max_tokens" in arguments and longest.get("longest", 0) > arguments["max_tokens"]:
        raise UserError(
            f"data.targets.longest = {longest['longest']} is more than model.max_tokens = {arguments['max_tokens']}: "
            "positions count from 0 in each phrase of a prompt"
        )
    if "image_size" in arguments and height_width(arguments["image_size"], "model.image_size") != sides:
        raise UserError(
            f"model.image_size = {arguments['image_size']} but data.image_size = {size}: they must be equal; set both"
        )
    _check_frames(exp, arguments)
    for name in {"patch", "patch_size"} & arguments.keys() if not arguments.get("backbone") else ():
        patch = height_width(arguments[name], f"model.{name}")
        if any(side % p for side, p in zip(sides, patch, strict=True)):
            fits = tuple(max(1, round(side / p)) * p for side, p in zip(sides, patch, strict=True))
            raise UserError(
                f"data.image_size = {size} is not a multiple of model.{name} = {arguments[name]}; nearest: {fits}"
            )


def _check_frames(exp: Experiment, model: Mapping[str, Any]) -> None:
    """A model of clips gets as many frames as it was made for, and a model of pictures none."""
    transform = {} if exp.data.transform is None else arguments_of(exp.data.transform)
    frames = getattr(transform.get("sampler"), "frames", None)
    if "tubelet" in model and frames is None:
        raise UserError(
            f"the model reads clips of {model['frames']} frames, and data.transform gives pictures; set "
            f"data.transform = partial(ClipTrain, sampler=Sampler(frames={model['frames']}))"
        )
    if "tubelet" in model and frames != model["frames"]:
        raise UserError(
            f"model.frames = {model['frames']} but data.transform.sampler takes {frames}: they must be equal; set both"
        )


def _check_warmup(exp: Experiment) -> None:
    optim, run = exp.optim, exp.run
    names = ("warmup_steps", "warmup_epochs", "warmup_frac")
    _one_of("optim", optim, names)
    _positive("optim", optim, names, or_zero=True)
    for name, whole in (("warmup_steps", run.steps), ("warmup_epochs", run.epochs), ("warmup_frac", 1.0)):
        value = getattr(optim, name)
        if value is not None and whole is not None and value >= whole:
            raise UserError(f"optim.{name} = {value}: must be shorter than the run ({whole})")


def _check_rates(exp: Experiment) -> None:
    optim = exp.optim
    if not 0 <= optim.min_lr <= optim.lr or optim.lr <= 0:
        raise UserError(f"optim: 0 <= min_lr <= lr must hold, lr > 0; got min_lr = {optim.min_lr}, lr = {optim.lr}")
    for name in ("lr", "warmup_lr", "weight_decay", "eps"):
        if math.isinf(getattr(optim, name)):
            raise UserError(f"optim.{name} = {getattr(optim, name)}: must be finite")
    _positive("optim", optim, ("clip_norm", "eps"))
    _positive("optim", optim, ("weight_decay", "warmup_lr"), or_zero=True)
    if not all(0 <= beta < 1 for beta in optim.betas):
        raise UserError(f"optim.betas = {optim.betas}: must lie in 0..1, below 1")
    if not optim.rules:
        raise UserError("optim.rules: needs at least a last rule that takes every parameter, Rule(pattern='')")


def _one_of(path: str, section: Any, names: Sequence[str], needed: bool = False) -> None:
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) > 1 or (needed and not given):
        hint = f"; take one away, as by --set {path}.{given[-1]}=null" if given else ""
        raise UserError(
            f"{path}: give {'exactly' if needed else 'at most'} one of {', '.join(names)}; got {given or 'none'}{hint}"
        )


def _positive(path: str, section: Any, names: Sequence[str], or_zero: bool = False) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and not (value > 0 or (value == 0 and or_zero)):  # nor not a number
            raise UserError(f"{path}.{name} = {value}: must be positive{', or 0' if or_zero else ''}")


def _fraction(path: str, section: Any, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(section, name)
        if not 0 <= value <= 1:
            raise UserError(f"{path}.{name} = {value}: is a fraction, 0 to 1")
