"""``mmkit features``: the embeddings of a folder of pictures, or of records with their captions, in one file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.evaluate import add_model_arguments, add_source_options, make_predictor, open_data
from mmkit.cli.main import add_command, check_output
from mmkit.errors import UserError
from mmkit.files import check_ending
from mmkit.inference import EMBEDDED_AS

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.data.records import Source


def register(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "features", "write the embeddings of pictures and captions to a file", run)
    command.add_argument(
        "--data", required=True, metavar="FOLDER or RECORDS",
        help="a folder of pictures (captions from a.txt beside a.jpg, where there are), or JSON lines with image, and "
        "caption where there is one; or what `mmkit retrieval` reads: a published list, a data set, hf:NAME, openmoji",
    )  # fmt: skip
    add_source_options(command, "image=...,caption=...")
    command.add_argument("--out", required=True, type=Path, metavar="FILE", help="FILE.parquet or FILE.safetensors")
    command.add_argument("--no-texts", action="store_true", help="leave captions out (also for data sets without)")
    command.add_argument(
        "--max-bad", type=float, default=0.1, metavar="SHARE",
        help="stop when more than this share of the pictures cannot be read (default 0.1)",
    )  # fmt: skip
    add_model_arguments(command)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """The counts; unreadable pictures are named in the JSON, and on stderr as they are met."""
    if not 0 <= args.max_bad <= 1:
        raise UserError(f"--max-bad {args.max_bad}: a share, 0 to 1")
    source = _source(args)
    check_ending(args.out, *EMBEDDED_AS)
    check_output(args.out, "--out")
    from mmkit.inference.embed_files import embed_files

    with make_predictor(args) as predictor:
        found = embed_files(
            predictor, source, args.out, batch_size=args.batch_size, texts=not args.no_texts,
            max_bad_fraction=args.max_bad,
        )  # fmt: skip
    return {
        "pictures": found.pictures, "texts": found.texts, "width": found.width, "unreadable": len(found.unreadable),
        "unreadable_files": list(found.unreadable), "resumed": found.resumed, "out": str(args.out),
    }  # fmt: skip


def _source(args: argparse.Namespace) -> Source:
    from mmkit.data.sources.delimited import columns_of
    from mmkit.data.sources.folder import Pictures
    from mmkit.data.sources.readers import Options, is_data_set, metadata_in
    from mmkit.data.sources.shards import is_shards

    path = Path(args.data)
    if path.is_dir() and not is_data_set(args.data) and not is_shards(args.data) and metadata_in(path) is None:
        Options(columns=columns_of(args.columns), split=args.split, images=args.images).refuse(args.data)
        return Pictures(path)
    return open_data(args, (), ("image", "caption", "image_id", "video"))
