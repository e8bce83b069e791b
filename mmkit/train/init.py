"""What a run starts from: checkpoints of others in its towers, the rest at random.

``init={"image": "timm:deit_base_patch16_224", "text": "hf:bert-base-uncased"}``; "model" takes an official ALBEF or a
model that mmkit saved, whole. The layers of a text checkpoint are split into text and fusion stacks; cross-attention
starts fresh. The teacher starts as a copy of the student.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from mmkit.convert.locate import FORMS, locate
from mmkit.convert.read_file import read_checkpoint
from mmkit.convert.towers import TOWERS, copy_into, fill
from mmkit.errors import UserError
from mmkit.nn.gather import rank
from mmkit.task import Task
from mmkit.train.ranks import on_first

logger = logging.getLogger("mmkit.train")


def initialise(task: Task, init: Mapping[str, str]) -> dict[str, str]:
    """Fill the towers of a task, in place; for each part that got something, from where, and what share of it.

    To be called by all processes. UserError where a source is missing, does not fit, or leaves a tower empty.
    """
    origins: dict[str, str] = {}
    written: dict[str, str] = {}
    heads = dict(task.heads.items())
    for tower, source in sorted(init.items(), key=lambda item: item[0] != "model"):
        if tower not in TOWERS:
            raise UserError(f"init.{tower}: there is no such tower; give one of {', '.join(TOWERS)} = {FORMS}")
        on_first(partial(locate, source))  # fetched once, where it must be fetched
        file = read_checkpoint(locate(source))
        filling = fill(task.model, heads, tower, file)
        for name in copy_into(task.model, heads, filling, tower, source):
            written[name] = source
        if rank() == 0:
            for note in filling.notes:
                logger.info("init.%s from %s: %s", tower, source, note)
    for part, (count, total, sources) in _shares(task, written).items():
        origins[part] = f"{' and '.join(sources)} ({100 * count / total:.0f} %)"
    if written and task.ema is not None:
        task.ema.reset()
    task.constrain()
    return origins


def _shares(task: Task, written: Mapping[str, str]) -> dict[str, tuple[int, int, tuple[str, ...]]]:
    """Part -> (values filled, values, from where), for the parts of the model and the heads that got something."""
    found: dict[str, tuple[int, int, tuple[str, ...]]] = {}
    for name, parameter in task.named_parameters():
        if not name.startswith(("model.", "heads.")):
            continue
        part = ".".join(name.split(".")[:2])
        count, total, sources = found.get(part, (0, 0, ()))
        if name in written:
            count += parameter.numel()
            sources = sources if written[name] in sources else (*sources, written[name])
        found[part] = (count, total + parameter.numel(), sources)
    return {part: share for part, share in found.items() if share[0]}
