"""``mmkit caption``: what pictures show, written by a model, or how well it writes over a set of pictures."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.evaluate import (
    add_evaluation_options,
    add_source_options,
    evaluation,
    make_predictor,
    measure,
    of_data,
    open_data,
)
from mmkit.cli.main import add_command, check_output, write_json
from mmkit.errors import UserError

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.encoders.decoding import Decoding

OF_DATA = ("images", "split", "columns", "predictions", "max_bad")
WAYS = ("beams", "max_new_tokens", "min_new_tokens", "length_penalty", "repetition_penalty", "temperature", "top_k",
        "top_p", "seed")  # fmt: skip
DRAWN = ("temperature", "top_k", "top_p", "seed")


def register(commands: Commands) -> None:
    """Add the command."""
    command = add_command(
        commands, "caption", "write what pictures show, or score the captions that a model writes", run
    )
    command.add_argument("--image", type=Path, nargs="+", metavar="FILE", help="pictures to write about")
    command.add_argument(
        "--data", metavar="RECORDS",
        help="records with image and caption to score against: JSON lines, a table, shards, dataset_coco.json with "
        "--images and --split, hf:NAME, openmoji[:LANGUAGE], ...",
    )  # fmt: skip
    command.add_argument("--out", type=Path, metavar="PNG", help="draw the pictures of --image above what is written")
    add_source_options(command, "image=...,caption=...")
    how = command.add_argument_group("how to write")
    how.add_argument("--beams", type=int, metavar="K", help="texts tried side by side (default 3; 1 with --sample)")
    how.add_argument("--sample", action="store_true", help="draw the words by their probabilities")
    how.add_argument("--temperature", type=float, help="of the drawn words: below 1 likelier ones (default 1)")
    how.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest words (default all)")
    how.add_argument("--top-p", type=float, metavar="P", help="draw from the words that hold this mass (default 1)")
    how.add_argument("--seed", type=int, help="of what is drawn (default 0)")
    how.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="the longest caption, in tokens (default 30, or what the model has room for)",
    )
    how.add_argument("--min-new-tokens", type=int, metavar="N", help="the shortest caption, in tokens (default 0)")
    how.add_argument("--length-penalty", type=float, metavar="A", help="of beams: above 1 for longer texts (default 1)")
    how.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1: fewer repeated words (default 1)")
    add_evaluation_options(command, "the captions, with image_id, as COCO's server takes them")


def run(args: argparse.Namespace) -> Mapping[str, Any] | None:
    """The captions, or the scores of those of a data set."""
    measured = of_data(args, OF_DATA, ("out",))
    if not args.sample and (given := [name for name in DRAWN if getattr(args, name) is not None]):
        raise UserError(f"--{given[0].replace('_', '-')} is about drawn words: give --sample too")
    if measured:
        source = open_data(args, {"caption"}, ("image", "caption", "image_id", "video"))
        from mmkit.evals.captions.evaluate import WrittenCaptions

        measure(args, WrittenCaptions(source=source, how=_how(args), **evaluation(args)))
        return None
    _write(args)
    return None


def _how(args: argparse.Namespace) -> Decoding | None:
    """As the options say; None where they say nothing."""
    from mmkit.encoders.decoding import Decoding
    from mmkit.inference.captioning import USUAL

    given = {name: getattr(args, name) for name in WAYS if getattr(args, name) is not None}
    if not given and not args.sample:
        return None
    return Decoding(**{"beams": 1 if args.sample else USUAL.beams, "sample": args.sample, **given})


def _write(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmkit.data.video.opening import check_there
    from mmkit.files import kind_of_picture
    from mmkit.ranks import rank

    if args.out is not None:
        kind_of_picture(args.out)
        check_output(args.out, "--out")
    for path in args.image:
        check_there(path)
    how = _how(args)
    with make_predictor(args) as predictor:
        found = predictor.caption(args.image, how, batch_size=args.batch_size)
    if rank() == 0:
        table = Table(show_header=False, box=None)
        for path, caption in zip(args.image, found, strict=True):
            table.add_row(str(path), caption)
        Console().print(table, markup=False, highlight=False)
        if args.out is not None:
            _draw(args.image, found, args.out)
    said = [{"image": str(path), "caption": caption} for path, caption in zip(args.image, found, strict=True)]
    write_json(args.json, {"captions": said})


def _draw(paths: Sequence[Path], captions: Sequence[str], out: Path) -> None:
    """All pictures on one sheet, each above its caption; of a clip some frames."""
    from mmkit.data.clip import Clip
    from mmkit.data.records import Record
    from mmkit.data.show.tasks import sheet
    from mmkit.data.video.animated import is_picture
    from mmkit.files import save_picture

    records = [
        Record(
            image=Clip(path) if path.is_dir() or not is_picture(path) else path,
            captions=(caption,),
            image_id=str(path),
            key=str(path),
        )
        for path, caption in zip(paths, captions, strict=True)
    ]
    save_picture(sheet(records), out)
