"""``mmkit convert``: a checkpoint of others becomes a folder for ``mmkit.load``, and one of ours a file of others.

The folder also keeps what only training needs (teacher, queues) and what stood around the weights, so that the way back
gives the same file, bit for bit (``convert_back.py``).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.convert.paths import check_out
from mmkit.cli.main import add_allow, add_command
from mmkit.errors import UserError, shortened
from mmkit.files import is_place
from mmkit.hub.files import CONVERSION, TRAINING_STATE

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.convert.layouts.layout import Choices, Layout, Recipe
    from mmkit.convert.read_file import Checkpoint
    from mmkit.convert.tables.table import State
    from mmkit.data.texts.protocol import Tokenizer

log = logging.getLogger("mmkit.convert")


CHOICES = ("image_heads", "text_heads", "image_size", "activation", "answers")


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
    parser.add_argument(
        "--weights", metavar="KEY", help="where IN holds several: those under this key, such as model_ema"
    )
    parser.add_argument("--reverse", action="store_true", help="write the model folder IN as a foreign file OUT")
    add_allow(parser)
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="the folder or hub name of the tokenizer that belongs to it"
    )
    parser.add_argument(
        "--preprocessor", metavar="FILE", type=Path,
        help="what tells how pictures are read, where it is not beside the weights: a preprocessor_config.json, ...",
    )  # fmt: skip
    for tower in ("image", "text"):
        parser.add_argument(
            f"--{tower}-heads", type=int, metavar="N", help="attention heads, where not one for each 64"
        )
    parser.add_argument(
        "--image-size", metavar="HxW", help="height and width in pixels, where not square and no config says it"
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
    from mmkit.convert.layouts.names import check_name
    from mmkit.convert.locate import PICTURES, locate
    from mmkit.data.texts.answers.lists import read_answers

    if args.layout != "auto" or args.reverse:
        check_name(args.layout)
    if args.reverse:
        from mmkit.cli.convert.back import export

        names = [name for name in ("weights", "tokenizer", "preprocessor", *CHOICES) if getattr(args, name) is not None]
        if given := [f"--{name.replace('_', '-')}" for name in names]:
            raise UserError(f"{', '.join(given)}: of no use with --reverse, where the model folder says it all")
        return export(args.layout, Path(args.source).expanduser(), args.out, args.allow)
    if args.allow:
        raise UserError("--allow: of use with --reverse alone; a file of others brings no code")
    check_out(args.out, args.source, "folder")
    answers = tuple(read_answers(args.answers)) if args.answers else ()
    if args.preprocessor is not None and not (args.preprocessor.name in PICTURES and args.preprocessor.is_file()):
        raise UserError(f"--preprocessor {args.preprocessor}: no such file, or not called {' or '.join(PICTURES)}")
    path = locate(args.source)
    if args.tokenizer is not None:
        _check_reachable(args.tokenizer)
    from mmkit.convert.layouts.layout import Choices
    from mmkit.convert.pictures.read import beside

    files = PICTURES if args.preprocessor is None else (args.preprocessor.name,)
    choices = Choices(
        image_heads=args.image_heads, text_heads=args.text_heads, activation=args.activation,
        image_size=_size(args.image_size) if args.image_size else None, answers=answers,
        pictures=beside(args.preprocessor or path, files),
    )  # fmt: skip
    return convert(args.layout, path, args.source, args.out, choices, args.tokenizer, args.weights)


def _size(text: str) -> tuple[int, int]:
    from mmkit.data.images.size import height_width

    sides = tuple(int(side) if side.isdecimal() else 0 for side in text.split("x"))
    return height_width(sides if len(sides) > 1 else sides[0], f"--image-size {text}")


def convert(
    layout_name: str, path: Path, source: str, out: Path, choices: Choices, tokenizer_name: str | None = None,
    weights: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A foreign file, which ``source`` stands for, into the folder ``out``.

    UserError where it has another layout, or a key is left over.
    """
    from mmkit.convert.layouts.known import named
    from mmkit.convert.layouts.layout import check_depth
    from mmkit.convert.read_file import read_checkpoint
    from mmkit.convert.tables.table import about, read, said_of_dropped

    layout = None if layout_name == "auto" else named(layout_name)
    if layout is not None:
        _check_taken(layout, choices)
    file = read_checkpoint(path, weights)
    layout = _checked(layout, file)
    _check_taken(layout, choices)
    if layout.recipe is None:
        raise UserError(f"{file.path}: {layout.what} is no whole model. Use it so: {layout.use.format(path=source)}")
    with about(file.path, f", as {layout.name}"):
        try:
            recipe = layout.recipe(file.state, replace(choices, config=file.config))
        except (KeyError, IndexError, RuntimeError) as error:
            raise UserError(f"the file is damaged or incomplete ({type(error).__name__}: {error})") from error
        check_depth(recipe, file.config)
        state = read(recipe.rows, file.state)
        tokenizer: Tokenizer | None = None
        if recipe.vocab_size:
            tokenizer, recipe = _tokenizer(file, recipe, tokenizer_name)
        elif tokenizer_name is not None:
            raise UserError("--tokenizer: of no use, as this model reads pictures alone")
        rest = _save(out, layout, recipe, state, tokenizer)
    for line in said_of_dropped(recipe.rows):
        log.info("%s", line)
    _write_record(out, layout, file, recipe, state, rest)
    return {
        "layout": layout.name, "folder": str(out), "tensors": len(state),
        "values": sum(value.numel() for value in state.values()), "kept for the way back": len(rest),
    }  # fmt: skip


def _check_taken(layout: Layout, choices: Choices) -> None:
    """UserError for an option that the layout has no use for."""
    from mmkit.convert.layouts.known import LAYOUTS
    from mmkit.convert.layouts.layout import Choices

    if layout.takes is None:
        return
    for name in CHOICES:
        if name not in layout.takes and getattr(choices, name) != getattr(Choices(), name):
            users = ", ".join(other.name for other in LAYOUTS if other.takes and name in other.takes)
            raise UserError(
                f"--{name.replace('_', '-')}: of no use for the layout {layout.name} ({layout.what}); it is for {users}"
            )


def _checked(layout: Layout | None, file: Checkpoint) -> Layout:
    """The layout of a file, guessed where none is given; UserError that says what it looks like where none fits."""
    from mmkit.convert.layouts.known import LAYOUTS, guess
    from mmkit.convert.tables import vit

    found = guess(file.state)
    if layout is None and found is not None:
        return found
    if layout is not None and layout.fits(file.state):
        return layout
    if all(name.startswith(("model.", "heads.")) for name in file.state):
        raise UserError(
            f"{file.path}: a model of mmkit already; to write a file of another layout from it, add --reverse"
        )
    asked = f"is not of the layout {layout.name}" if layout else "its layout cannot be guessed"
    if found is not None:
        raise UserError(f"{file.path}: {asked}; it looks like {found.name} ({found.what})")
    if vit.fits_transformers(file.state):
        raise UserError(f"{file.path}: {asked}; {vit.TRANSFORMERS}")
    raise UserError(
        f"{file.path}: {asked}; it has {shortened(sorted(file.state), 8)}. The layouts that mmkit knows: "
        f"{', '.join(known.name for known in LAYOUTS)}; or FILE.py:NAME, one of your own"
    )


def _tokenizer(file: Checkpoint, recipe: Recipe, given: str | None) -> tuple[Tokenizer, Recipe]:
    """The tokenizer that was given, lies beside the weights, or belongs to the layout; and what follows from it."""
    from mmkit.data.texts.huggingface.folder import FILES
    from mmkit.data.texts.pieces import SP_FILE
    from mmkit.data.texts.tokenizers import from_hub, load_tokenizer

    folder = file.path.parent
    beside = str(folder) if any((folder / name).is_file() for name in FILES) else None
    name = given or beside or recipe.tokenizer
    if (Path(name) / SP_FILE).is_file() or name.endswith(".model"):
        tokenizer = load_tokenizer(name)
    else:
        _check_reachable(name)
        tokenizer = from_hub(name=name, framing=recipe.framing)
    if tokenizer.vocab_size < recipe.vocab_size:
        log.info(
            "the weights have %d rows of words and the tokenizer %d words: the rest are rows without a word, and stay",
            recipe.vocab_size, tokenizer.vocab_size,
        )  # fmt: skip
    if tokenizer.vocab_size > recipe.vocab_size:
        raise UserError(
            f"the weights know {recipe.vocab_size} words and the tokenizer {name} has {tokenizer.vocab_size}: give the "
            "one that they were trained with by --tokenizer"
        )
    if recipe.filled:
        recipe = replace(recipe, model=partial(recipe.model, fill_id=tokenizer.pad_id))
    return tokenizer, recipe


def _check_reachable(name: str) -> None:
    """UserError where a tokenizer is neither here nor to be had from the hub, without a minute's waiting."""
    from mmkit.convert.locate import cached
    from mmkit.data.texts.huggingface.folder import FILES
    from mmkit.data.texts.huggingface.tokenizer import CLIP
    from mmkit.network import hub_answers

    place = is_place(name)
    if name == CLIP or Path(name).exists() or (not place and (cached(name, FILES) is not None or hub_answers())):
        return
    unreached = "" if place else ", and the Hugging Face hub cannot be reached"
    raise UserError(
        f"the tokenizer {name} is not on this machine{unreached}: "
        "give --tokenizer FOLDER, a folder with its tokenizer.json and tokenizer_config.json"
    )


def _save(out: Path, layout: Layout, recipe: Recipe, state: State, tokenizer: Tokenizer | None) -> list[str]:
    """Write the model folder; the names of the tensors that inference does not need, kept beside."""
    import torch

    from mmkit.config.as_json import dump
    from mmkit.files import write_tensors
    from mmkit.hub import folder as hub
    from mmkit.inference.predictor import Predictor

    model = recipe.model(**({"vocab_size": recipe.vocab_size} if recipe.vocab_size else {}))
    heads = {name: head(model.spec) for name, head in recipe.heads.items()}
    predictor = Predictor(model, heads, tokenizer, recipe.transform, recipe.max_tokens)
    rest = set(state)
    for prefix, module in {"model": model, **{f"heads.{name}": head for name, head in heads.items()}}.items():
        own = {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}
        if own:
            _check_shapes(prefix, own, module.state_dict())
            module.load_state_dict(own)
            rest -= {f"{prefix}.{name}" for name in own if "queue" not in name}
    if kept := {name: state[name].clone(memory_format=torch.contiguous_format) for name in sorted(rest)}:
        write_tensors(out / TRAINING_STATE, kept)
    parts = {"model": dump(recipe.model), "heads": {name: dump(head) for name, head in recipe.heads.items()}}
    hub.save(out, predictor, {"name": layout.name, "args": parts})
    return sorted(rest)


def _check_shapes(prefix: str, found: State, expected: State) -> None:

    if odd := sorted(found.keys() ^ expected.keys()):
        raise UserError(f"{prefix}: the model of this layout and its table disagree on {shortened(odd)}")
    for name, value in found.items():
        if value.shape != expected[name].shape:
            shapes = " x ".join(map(str, value.shape)), " x ".join(map(str, expected[name].shape))
            raise UserError(
                f"{prefix}.{name} would be {shapes[0]}, and by the other tensors of the file it should be {shapes[1]}: "
                "the file is damaged"
            )


def _other_names(layout: Layout, recipe: Recipe, state: State) -> dict[str, list[tuple[str, ...]]]:
    """Of our tensors, what this file calls those that the layout writes under other names today."""
    from mmkit.convert.tables.table import Entry

    try:
        back = layout.back(state) if layout.back else []
    except (UserError, KeyError):  # it cannot be written at all
        return {}
    today = {row.ours: [row.theirs, row.also] for row in back if isinstance(row, Entry)}
    here = {row.ours: [row.theirs, row.also] for row in recipe.rows if isinstance(row, Entry)}
    return {ours: names for ours, names in here.items() if ours in today and today[ours] != names}


def _write_record(out: Path, layout: Layout, file: Checkpoint, recipe: Recipe, state: State, rest: list[str]) -> None:
    import torch

    from mmkit.convert.tables.table import Constant, Dropped
    from mmkit.files import write_json

    record = {
        "layout": layout.name, "what": layout.what, "licence": layout.licence, "file": file.path.name,
        "wrapper": list(file.wrapper), "parallel": file.parallel, "prefix": file.prefix,
        "constants": [row.theirs for row in recipe.rows if isinstance(row, Constant)],
        "names": _other_names(layout, recipe, state),
        "dtypes": {
            name: str(value.dtype).removeprefix("torch.")
            for name, value in file.state.items()
            if value.is_floating_point() and value.dtype != torch.float32
        },
        "dropped": {row.theirs: row.why for row in recipe.rows if isinstance(row, Dropped)},
        "beside": {key: value for key, value in file.beside.items() if isinstance(value, int | float | str)},
        "training_state": bool(rest),
    }  # fmt: skip
    write_json(out / CONVERSION, record)
