"""``mmkit convert``: a checkpoint of others becomes a folder for ``mmkit.load``, and one of ours a file of others.

The folder also keeps what only training needs (teacher, queues) and what stood around the weights, so that the way back
gives the same file, bit for bit. The folder of a run is written with the teacher and queues of its newest checkpoint.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_command
from mmkit.errors import UserError

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.convert.layouts import Choices, Layout, Recipe
    from mmkit.convert.read_file import Checkpoint
    from mmkit.convert.table import State
    from mmkit.data.tokenizer import Tokenizer

log = logging.getLogger("mmkit.convert")

TRAINING, RECORD = "training_state.safetensors", "conversion.json"


def register(commands: Commands) -> None:
    """Add ``mmkit convert``."""
    parser = add_command(commands, "convert", "turn a checkpoint of others into a model folder, or the other way", run)
    parser.add_argument(
        "layout", metavar="LAYOUT",
        help="what the foreign file is, such as albef; auto = by its keys; FILE.py:NAME = a Layout of your own",
    )  # fmt: skip
    parser.add_argument(
        "source", metavar="IN", help="file, folder, hf:OWNER/NAME or timm:NAME; a model folder with --reverse"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="a new model folder; a file to write with --reverse")
    parser.add_argument("--reverse", action="store_true", help="write the model folder IN as a foreign file OUT")
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="the folder or hub name of the tokenizer that belongs to it"
    )
    for tower in ("image", "text"):
        parser.add_argument(
            f"--{tower}-heads", type=int, metavar="N", help="attention heads, where not one for each 64"
        )
    parser.add_argument(
        "--activation", choices=("gelu", "quick_gelu", "gelu_tanh"), help="of CLIP weights without a config beside them"
    )
    parser.add_argument(
        "--answers", metavar="FILE", type=Path,
        help="what a VQA model chooses from: one a line, or JSON (a list, or {number: answer})",
    )  # fmt: skip


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Convert, and say what was done with how many values."""
    from mmkit.convert.layouts import Choices

    if args.reverse:
        return export(args.layout, Path(args.source), args.out)
    choices = Choices(
        image_heads=args.image_heads, text_heads=args.text_heads, activation=args.activation,
        answers=_answers(args.answers) if args.answers else (),
    )  # fmt: skip
    return convert(args.layout, args.source, args.out, choices, args.tokenizer)


def _answers(file: Path) -> tuple[str, ...]:
    from mmkit.data.answers import in_order, read_answers

    if file.suffix != ".json":
        return tuple(read_answers(file))
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error})") from error
    if isinstance(found, dict) and found:
        return in_order(found, where=str(file))
    if not isinstance(found, list) or not all(isinstance(answer, str) for answer in found):
        raise UserError(f"{file}: should hold a JSON list of texts, the answers, or one text for each number")
    return tuple(found)


def convert(
    layout_name: str, source: str, out: Path, choices: Choices, tokenizer_name: str | None = None
) -> dict[str, Any]:
    """A foreign file into the folder ``out``. UserError where it has another layout, or a key is left over."""
    from mmkit.convert.layouts import guess, named
    from mmkit.convert.locate import locate
    from mmkit.convert.read_file import read_checkpoint
    from mmkit.convert.table import read

    if (out / "config.json").exists():
        raise UserError(f"{out}: holds a model already; name a new folder")
    layout = None if layout_name == "auto" else named(layout_name)
    file = read_checkpoint(locate(source))
    found = guess(file.state)
    layout = found if layout_name == "auto" else layout
    if layout is None or not layout.fits(file.state):
        looks = f"it looks like {found.name} ({found.what})" if found else "its keys are of no layout that mmkit knows"
        raise UserError(f"{file.path}: is not of the layout {layout_name}; {looks}")
    if layout.recipe is None:
        raise UserError(f"{file.path}: {layout.what} is no whole model. Use it so: {layout.use.format(path=source)}")
    recipe = layout.recipe(file.state, replace(choices, config=file.config))
    state = read(recipe.rows, file.state)
    tokenizer, recipe = _tokenizer(file, recipe, tokenizer_name)
    rest = _save(out, layout, recipe, state, tokenizer)
    _write_record(out, layout, file, recipe, rest)
    values = sum(value.numel() for value in state.values())
    return {
        "layout": layout.name,
        "folder": str(out),
        "tensors": len(state),
        "values": values,
        "for training only": len(rest),
    }


def _tokenizer(file: Checkpoint, recipe: Recipe, given: str | None) -> tuple[Tokenizer, Recipe]:
    """The tokenizer that was given, lies beside the weights, or belongs to the layout; and what follows from it."""
    from mmkit.data.hf_tokenizer import FILES
    from mmkit.data.tokenizer import SP_FILE, huggingface, load_tokenizer

    folder = file.path.parent
    beside = str(folder) if any((folder / name).is_file() for name in FILES) else None
    name = given or beside or recipe.tokenizer
    if (Path(name) / SP_FILE).is_file() or name.endswith(".model"):
        tokenizer = load_tokenizer(name)
    else:
        tokenizer = huggingface(name=name, framing=recipe.framing)
    if tokenizer.vocab_size != recipe.vocab_size:
        raise UserError(
            f"the weights know {recipe.vocab_size} words and the tokenizer {name} has {tokenizer.vocab_size}: give the "
            "one that they were trained with by --tokenizer"
        )
    if recipe.filled:
        recipe = replace(recipe, model=partial(recipe.model, fill_id=tokenizer.pad_id))
    return tokenizer, recipe


def _save(out: Path, layout: Layout, recipe: Recipe, state: State, tokenizer: Tokenizer) -> list[str]:
    """Write the model folder; the names of the tensors that inference does not need, kept beside."""
    import torch
    from safetensors.torch import save_file

    from mmkit import hub
    from mmkit.config_json import dump
    from mmkit.predictor import Predictor

    model = recipe.model(vocab_size=recipe.vocab_size)
    heads = {name: head(model.spec) for name, head in recipe.heads.items()}
    predictor = Predictor(model, heads, tokenizer, recipe.transform, recipe.max_tokens)
    rest = set(state)
    for prefix, module in {"model": model, **{f"heads.{name}": head for name, head in heads.items()}}.items():
        own = {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}
        if own:
            _check_shapes(prefix, own, module.state_dict())
            module.load_state_dict(own)
            rest -= {f"{prefix}.{name}" for name in own if "queue" not in name}
    out.mkdir(parents=True, exist_ok=True)
    if rest:
        save_file(
            {name: state[name].clone(memory_format=torch.contiguous_format) for name in sorted(rest)}, out / TRAINING
        )
    parts = {"model": dump(recipe.model), "heads": {name: dump(head) for name, head in recipe.heads.items()}}
    hub.save(out, predictor, {"name": layout.name, "args": parts})
    return sorted(rest)


def _check_shapes(prefix: str, found: State, expected: State) -> None:
    for name, value in found.items():
        if name in expected and value.shape != expected[name].shape:
            shapes = " x ".join(map(str, value.shape)), " x ".join(map(str, expected[name].shape))
            raise UserError(
                f"{prefix}.{name} would be {shapes[0]}, and by the other tensors of the file it should be {shapes[1]}: "
                "the file is damaged, or its picture is not square"
            )


def _write_record(out: Path, layout: Layout, file: Checkpoint, recipe: Recipe, rest: list[str]) -> None:
    import torch

    from mmkit.convert.table import Constant, Dropped

    record = {
        "layout": layout.name,
        "what": layout.what,
        "licence": layout.licence,
        "file": file.path.name,
        "wrapper": list(file.wrapper),
        "parallel": file.parallel,
        "constants": [row.theirs for row in recipe.rows if isinstance(row, Constant)],
        "dtypes": {
            name: str(value.dtype).removeprefix("torch.")
            for name, value in file.state.items()
            if value.is_floating_point() and value.dtype != torch.float32
        },
        "dropped": {row.theirs: row.why for row in recipe.rows if isinstance(row, Dropped)},
        "beside": {key: value for key, value in file.beside.items() if isinstance(value, int | float | str)},
        "training_state": bool(rest),
    }
    (out / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def export(layout_name: str, folder: Path, out: Path) -> dict[str, Any]:
    """A model folder as a foreign file; what it was converted from decides what stands around the weights."""
    import torch

    from mmkit.convert.layouts import named
    from mmkit.convert.read_file import PARALLEL, write_checkpoint
    from mmkit.convert.table import Constant, write

    layout = named(layout_name)
    if layout.back is None:
        raise UserError(f"mmkit does not write the layout {layout.name} ({layout.what})")
    if out.exists():
        raise UserError(f"{out}: exists already; name a new file")
    state = _whole_state(folder)
    record: dict[str, Any] = {"layout": "", "constants": [], "dtypes": {}, "parallel": False, "wrapper": ["model"]}
    if (folder / RECORD).is_file():
        record |= json.loads((folder / RECORD).read_text(encoding="utf-8"))
    same = record["layout"] == layout.name
    rows = [
        row for row in layout.back(state)
        if not isinstance(row, Constant) or (row.theirs in record["constants"] if same else not row.old)
    ]  # fmt: skip
    theirs = write(rows, state)
    if same:
        theirs |= {
            name: theirs[name].to(getattr(torch, dtype)) for name, dtype in record["dtypes"].items() if name in theirs
        }
    if record["parallel"]:
        theirs = {f"{PARALLEL}{name}": value for name, value in theirs.items()}
    write_checkpoint(out, theirs, tuple(record["wrapper"]))
    return {
        "layout": layout.name,
        "file": str(out),
        "tensors": len(theirs),
        "values": sum(v.numel() for v in theirs.values()),
    }


def _whole_state(folder: Path) -> State:
    """The weights of a model folder or of a run, with the teacher and the queues."""
    from mmkit.convert.read_file import read_checkpoint
    from mmkit.train.checkpoint import latest, load_state, read_state

    newest = latest(folder / "checkpoints")
    if newest is not None:
        log.info("written from the checkpoint %s", newest)
        return read_state(newest, load_state(newest)["rest"])
    state = dict(read_checkpoint(folder / "model.safetensors").state)
    if (folder / TRAINING).is_file():
        return state | read_checkpoint(folder / TRAINING).state
    log.info("%s holds no %s and no checkpoints: the teacher and the queues are left out", folder, TRAINING)
    return state
