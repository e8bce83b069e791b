"""Making the positions of a checkpoint those of a model: another image size, another length of text.

A grid is resized as the model's own positions do it, with a log line; a table of text positions is cut, or its missing
rows stay as the model made them, which the caller is told.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmkit.convert.tables.table import State
from mmkit.encoders.text import TextEmbeddings
from mmkit.errors import UserError
from mmkit.nn.patch import PatchEmbed, inflated
from mmkit.nn.positions import GridPositions, tiled

log = logging.getLogger(__name__)


def fit(
    state: Mapping[str, Tensor], model: nn.Module, prefix: str = "", grid: Sequence[int] | None = None
) -> tuple[State, list[str]]:
    """A state in our names with its positions as ``model`` has them, and what was changed of the text's.

    prefix: what stands before the model's own names. grid: cells (high, wide) of the state's image positions; None
    where nothing tells: they are taken as a square, as all released checkpoints are, with a log line. UserError where
    there is no such square.
    """
    fitted, notes = dict(state), []
    for name, module in model.named_modules():
        note = ""
        if isinstance(module, PatchEmbed) and (key := f"{prefix}{name}.proj.weight") in fitted:
            fitted[key], note = _fit_patches(fitted[key], module, key, grid)
        elif isinstance(module, GridPositions) and (key := f"{prefix}{name}.table") in fitted:
            fitted[key] = _fit_grid(fitted[key], module, grid, key)
        elif isinstance(module, TextEmbeddings) and (key := f"{prefix}{name}.positions.weight") in fitted:
            fitted[key], note = _fit_text(fitted[key], module.positions.weight, key)
        notes += [note] if note else []
    return fitted, notes


def _fit_grid(table: Tensor, module: GridPositions, old: Sequence[int] | None, key: str) -> Tensor:
    cells, new = len(table) - module.prefix, module.grid
    if table.shape[1:] != module.table.shape[1:]:  # another width is no question of size
        return table
    if len(new) == 3 and (old is None or len(old) == 2):
        return _tile(table, module, old, key)
    if old is not None and len(new) == 1:  # of times alone
        old = old[:1]
    elif old is not None and len(old) == 3 and new[0] == 1:  # of each time by itself
        old = (1, *old[1:])
    if old is None:
        old = (math.isqrt(cells),) * 2
        if math.prod(new) == cells and (len(new) != 2 or math.prod(old) != cells):
            log.info("%s: %d positions taken as a grid of %s, this model's own", key, cells, _by(new))
            return table
        if math.prod(old) == cells:
            log.info("%s: %d positions taken as a square of %dx%d, as nothing beside them tells", key, cells, *old)
    if math.prod(old) != cells or len(old) != len(new):
        raise UserError(
            f"{key}: {cells} positions are no grid of {_by(old)}, and cannot be resized to {_by(new)}; a config.json "
            'beside the file that says "image_size": [height, width] tells their grid'
        )
    theirs = copy.deepcopy(module)  # its way of resizing, for their table
    theirs.grid, theirs.table = tuple(old), nn.Parameter(table)
    theirs.resize_(new)
    return theirs.table.detach()


def _tile(table: Tensor, module: GridPositions, old: Sequence[int] | None, key: str) -> Tensor:
    """Positions of a picture's grid for those of a clip: the size of the frames' grid, then again for each time."""
    times, *space = module.grid
    flat = GridPositions(space, table.shape[1], module.prefix)
    log.info("%s: positions of a picture taken for each of %d times", key, times)
    return tiled(_fit_grid(table, flat, old, key), times, module.prefix)


def _fit_patches(
    weight: Tensor, module: PatchEmbed, key: str, grid: Sequence[int] | None
) -> tuple[Tensor, str]:  # fmt: skip
    """Patches of a picture as tubelets, where the model cuts these and the weights fit one frame of them.

    UserError where one is the other's number of values by chance: a tubelet of 4 x 8 x 8 and a patch of 16 x 16.
    """
    own, frames = module.proj.weight, module.patch[0]
    cut = None if grid is None else len(grid)
    if cut in (2, 3) and cut != len(module.patch) and weight.shape == own.shape:
        one, other = ("pictures", "tubelets of clips") if cut == 2 else ("tubelets of clips", "pictures")
        raise UserError(
            f"{key}: these weights cut {one}, and this model {other}, of as many values by chance; choose a patch "
            f"(model.patch, model.tubelet) as theirs, or start the image tower from another model"
        )
    if len(module.patch) != 3 or weight.shape == own.shape or weight.shape[1] * frames != own.shape[1]:
        return weight, ""
    note = f"patches of pictures taken for tubelets of {frames} frames, {module.inflation} ({key})"
    return inflated(weight, frames, module.channels, module.inflation), note


def _fit_text(table: Tensor, own: Tensor, key: str) -> tuple[Tensor, str]:
    given, wanted = len(table), len(own)
    if given == wanted or table.shape[1:] != own.shape[1:]:  # another width is no question of length
        return table, ""
    if given > wanted:
        return table[:wanted], f"the first {wanted} of {given} text positions taken ({key})"
    grown = own.detach().clone()
    grown[:given] = table
    return grown, f"{given} text positions taken, the last {wanted - given} start fresh ({key})"


def _by(grid: Sequence[int]) -> str:
    return "x".join(map(str, grid))
