"""``mmkit retrieval`` and ``mmkit zeroshot``: a trained model measured on pictures of one's own, without training."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmkit.cli.main import add_command, write_json

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.evals.common import Result
    from mmkit.predictor import Predictor


def register(commands: Commands) -> None:
    """Add both commands."""
    command = add_command(
        commands, "retrieval", "find pictures by text and texts by picture: R@1, R@5, R@10", retrieval
    )
    command.add_argument(
        "--data", type=Path, required=True, metavar="RECORDS", help="JSON lines with image and caption"
    )
    _common(command, "re-rank the best K of each query with the matching head (published: 128 or 256)")
    command = add_command(commands, "zeroshot", "classify pictures by the names of the classes alone", zeroshot)
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder of class folders, or JSON lines with image and label",
    )
    command.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names, one per line; or FOLDER<TAB>name (default: the folders' names)",
    )
    command.add_argument(
        "--templates", type=Path, metavar="FILE", help='prompts, one per line, {} for the name (default: "{}")'
    )
    _common(command, "re-rank the best K classes of each picture with the matching head")


def _common(command: argparse.ArgumentParser, rerank: str) -> None:
    command.add_argument("--model", required=True, metavar="M", help="the folder of a run or of a saved model")
    command.add_argument("--rerank", type=int, metavar="K", help=rerank)
    command.add_argument("--batch-size", type=int, default=64, help="pictures per forward (default 64)")
    command.add_argument("--device", help="default: cuda where there is one, else cpu")
    command.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="default float32")


def retrieval(args: argparse.Namespace) -> None:
    """Measure and show."""
    from mmkit.data.records import JsonLines
    from mmkit.evals.retrieval import Retrieval

    evaluator = Retrieval(source=JsonLines(args.data), rerank_top=args.rerank, batch_size=args.batch_size)
    with _predictor(args) as predictor:
        result = evaluator.evaluate(predictor)
    _show(args, result)


def zeroshot(args: argparse.Namespace) -> None:
    """Measure and show."""
    from mmkit.data.records import JsonLines, Source
    from mmkit.data.sources import ClassFolder
    from mmkit.evals.classes import with_classes
    from mmkit.evals.zeroshot import ZeroShot, read_templates

    data: Source = ClassFolder(args.data) if args.data.is_dir() else JsonLines(args.data, needs=("image", "label"))
    source, names = with_classes(data, args.classes)
    evaluator = ZeroShot(
        source=source, class_names=names, rerank_top=args.rerank, batch_size=args.batch_size,
        templates=read_templates(args.templates) if args.templates else ("{}",),
    )  # fmt: skip
    with _predictor(args) as predictor:
        result = evaluator.evaluate(predictor)
    _show(args, result)


@contextmanager
def _predictor(args: argparse.Namespace) -> Iterator[Predictor]:
    """The model where it shall run, with its progress shown; under a launcher, one of several processes."""
    from accelerate import PartialState

    import mmkit
    from mmkit.cli.progress import progress
    from mmkit.errors import UserError

    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: must be at least 1")
    state = PartialState(cpu=args.device == "cpu")
    try:
        predictor = mmkit.load(args.model, device=args.device or str(state.device), precision=args.precision)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {args.device}: cannot be used ({error})") from error
    with progress(shown=state.is_main_process) as report:
        predictor.progress = report
        yield predictor


def _show(args: argparse.Namespace, result: Result) -> None:
    from rich.console import Console

    from mmkit.nn.gather import rank

    write_json(args.json, result.to_json())
    if rank() == 0:
        Console().print(result.table())
