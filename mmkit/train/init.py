"""What a run starts from: checkpoints of others in its towers, the rest at random.

``init={"image": "timm:deit_base_patch16_224", "text": "hf:bert-base-uncased"}``; "model" takes an official ALBEF or a
model that mmkit saved, whole. The layers of a text checkpoint are split into text and fusion stacks; cross-attention
starts fresh. The teacher starts as a copy of the student.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from mmkit.convert.locate import FORMS, locate
from mmkit.convert.pictures.compare import differences
from mmkit.convert.read_file import read_checkpoint
from mmkit.convert.towers import TOWERS, copy_into, fill
from mmkit.errors import UserError
from mmkit.ranks import on_first, rank
from mmkit.task import Task

logger = logging.getLogger("mmkit.train")


def initialise(task: Task, init: Mapping[str, str], transform: object = None) -> dict[str, str]:
    """Fill the towers of a task, in place; for each part, from where, what share of it, and what of it starts fresh.

    transform: how the run reads pictures; where a checkpoint read them otherwise, a warning names both.

    To be called by all processes. Empty where nothing is filled. UserError where a source is missing, does not fit, or
    leaves a tower empty; and for a frozen part that nothing filled, which would stay random.
    """
    written: dict[str, str] = {}
    heads = dict(task.heads.items())
    find_sources(init)
    for tower, source in sorted(init.items(), key=lambda item: item[0] != "model"):
        file = read_checkpoint(locate(source))
        filling = fill(task.model, heads, tower, file)
        for name in copy_into(task.model, heads, filling, tower, source):
            written[name] = source
        if rank() == 0:
            for note in filling.notes:
                logger.info("init.%s from %s: %s", tower, source, note)
            for line in differences(file, source, transform) if tower != "text" else ():
                logger.warning("init.%s from %s: %s; see data.transform", tower, source, line)
    shares = _shares(task, written)
    _refuse_frozen(shares)
    task.constrain()
    if written and task.ema is not None:
        task.ema.reset()
    return {part: share.describe() for part, share in shares.items()} if written else {}


def find_sources(init: Mapping[str, str]) -> None:
    """UserError where a tower is unknown or its source is missing; what must be fetched is fetched, once."""
    for tower, source in init.items():
        if tower not in TOWERS:
            raise UserError(f"init.{tower}: there is no such tower; give one of {', '.join(TOWERS)} = {FORMS}")
        try:
            on_first(partial(locate, source))
        except UserError as error:
            raise UserError(f"init.{tower} = {error}") from error


@dataclass
class _Share:
    """What of a part was filled: values, of how many, from where; which parameters start fresh, and if any learns."""

    filled: int = 0
    total: int = 0
    sources: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    trains: bool = False

    def describe(self) -> str:
        if not self.filled:
            return "at random"
        fresh = f"; fresh: {', '.join(self.fresh)}" if self.fresh else ""
        return f"{' and '.join(self.sources)} ({100 * self.filled / self.total:.0f} %{fresh})"


def _shares(task: Task, written: Mapping[str, str]) -> dict[str, _Share]:
    """The parts of the model and the heads, by name."""
    found: dict[str, _Share] = {}
    for name, parameter in task.named_parameters():
        if not name.startswith(("model.", "heads.")):
            continue
        first, second, *rest = name.split(".")
        share = found.setdefault(f"{first}.{second}", _Share())
        share.total += parameter.numel()
        share.trains |= parameter.requires_grad
        if name in written:
            share.filled += parameter.numel()
            share.sources += [] if written[name] in share.sources else [written[name]]
        else:
            layer = ".".join("*" if step.isdigit() else step for step in rest[:-1] or rest)
            share.fresh += [] if layer in share.fresh else [layer]
    return found


def _refuse_frozen(shares: Mapping[str, _Share]) -> None:
    for part, share in shares.items():
        if not share.trains and share.filled < share.total:
            tower = part.removeprefix("model.")
            key = tower if tower in TOWERS else "model"
            raise UserError(
                f"{part} is frozen, and {share.filled:,} of its {share.total:,} values come from a checkpoint: the "
                f"rest would stay random. Give init={{{key!r}: ...}} what fills it ({FORMS})"
            )
