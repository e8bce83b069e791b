"""Parses the command line, runs one subcommand, and shows its outcome.

Bad input is a message on stderr and exit code 2, never a stack trace. A subcommand returns numbers by dotted name: a
short table for people, and with ``--json FILE`` the same for programs.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit import files
from mmkit.allocator import begin_anew
from mmkit.errors import Stopped, UserError
from mmkit.parent import live_with_launcher, stopped_when_told
from mmkit.ranks import group, rank, world_size
from mmkit.slurm import ranks_of_slurm

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Run = Callable[[argparse.Namespace], Mapping[str, Any] | None]

GROUPS = (
    "quickstart", "plan", "doctor", "train", "report", "evaluate", "probe", "vqa", "caption", "detect", "data",
    "tokenizer",
    "convert.command", "info", "explain", "features", "export", "demo",
)  # fmt: skip
"""Modules of this package, each with ``register(commands)``; they import what is slow only when they run."""

OUTPUTS = ("json", "predictions", "confusion", "per_class", "out")
"""The arguments that name what is written."""
PARTS = (
    "config.json", "model.safetensors", "preprocessing.json", "conversion.json", "training_state.safetensors",
    "tokenizer.json", "sentencepiece.model", "experiment.json", "numbers.json", "metrics.jsonl", "best.json",
    "data.json", "open_clip_config.json", "metadata.jsonl", "metadata.csv",
)  # fmt: skip
"""Files of a model's, a run's or a data set's folder."""


def add_command(commands: Commands, name: str, help_text: str, run: Run) -> argparse.ArgumentParser:
    """A subcommand ``name`` that calls ``run(args)``; the parser, for its arguments."""
    parser = commands.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as JSON")
    parser.set_defaults(run=run, trains=False)
    return parser


def add_allow(parser: argparse.ArgumentParser) -> None:
    """--allow, of every command that builds a model from a folder."""
    parser.add_argument(
        "--allow", action="append", default=[], metavar="MODULE",
        help="let the model use code of your own: MODULE and what is below it, installed or in the current folder; or "
        "FILE.py, which is run. May be given several times",
    )  # fmt: skip


def add_changes(parser: argparse.ArgumentParser) -> None:
    """--set, of every command that runs a config: ``args.changes``, a list."""
    parser.add_argument(
        "--set", action="extend", default=[], metavar="path=value", nargs="+", dest="changes", help="change a setting",
        type=_change,
    )  # fmt: skip


def _change(text: str) -> str:
    if not text.partition("=")[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: expected path=value, for example run.steps=100")
    return text


def make_parser() -> argparse.ArgumentParser:
    """The parser with every group's subcommands."""
    parser = argparse.ArgumentParser(prog="mmkit", description="Vision-language pre-training")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in GROUPS:
        importlib.import_module(f"mmkit.cli.{name}").register(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        args = make_parser().parse_args(arguments)
        if arguments is None and args.trains:
            begin_anew()
    except KeyboardInterrupt:
        return _interrupted()
    return execute(args)


def _interrupted() -> int:
    sys.stderr.write("mmkit: interrupted\n")
    return 130


def execute(args: argparse.Namespace) -> int:
    """Run a parsed command: 0, 2 for bad input, or 128 + the signal that ended it."""
    set_up_logging()
    try:
        with stopped_when_told():
            _execute(args)
    except UserError as error:
        sys.stdout.flush()
        sys.stderr.write(f"mmkit: error: {process_label()}{error}\n")
        return 2
    except Stopped as stopped:
        leave_processes()
        sys.stderr.write(f"mmkit: {process_label()}{stopped}\n")
        return stopped.code
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # who read the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except (OSError, SystemExit) as error:
        sys.stderr.write(f"mmkit: error: {process_label()}{_told(error)}\n")
        return 2
    return 0


def _execute(args: argparse.Namespace) -> None:
    ranks_of_slurm()
    live_with_launcher()
    expand_home(args)
    check_written(args)
    check_outputs(args)
    check_texts(args)
    check_counts(args)
    check_model(args)
    with _predictions_last(args):
        if (numbers := args.run(args)) is not None:
            show(numbers)
            write_json(args.json, numbers)
    leave_processes()


def _predictions_last(args: argparse.Namespace) -> AbstractContextManager[None]:
    """For a command that writes --predictions: a full disk costs that file, and not the numbers beside it."""
    if getattr(args, "predictions", None) is None:
        return nullcontext()
    from mmkit.evals.predictions import told_last

    return told_last()


def _told(error: OSError | SystemExit) -> str:
    """What the system refused, or that somebody's code ended Python as if all was done; raises what is neither."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)[:300]}: {error.strerror}"
    if isinstance(error, SystemExit) and not error.code:
        return "code of your own ended Python, by sys.exit(); take that out of it"
    raise error


def expand_home(args: argparse.Namespace) -> None:
    """Write out the home where an argument begins with "~/", as in --out=~/run, which no shell expands."""
    for name, value in vars(args).items():
        if isinstance(value, str | Path) and str(value).startswith("~/"):
            setattr(args, name, type(value)(os.path.expanduser(value)))


def process_label() -> str:
    """A prefix for messages where a launcher started several."""
    return f"[process {rank()}] " if world_size() > 1 else ""


def leave_processes() -> None:
    """End the process group, where there is one, when all is done."""
    if (dist := group()) is not None:
        dist.barrier()
        dist.destroy_process_group()


def set_up_logging() -> None:
    """Messages of mmkit on stderr, one line each; other libraries only from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("mmkit")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False


def check_output(path: Path | None, option: str = "--json") -> None:
    """UserError where the file cannot be written, before any work; nothing is made."""
    if path is not None:
        files.check_writable(path, f"{option} {path}")


def check_written(args: argparse.Namespace) -> None:
    """UserError where --json or --predictions cannot be written, or the ending says no form, before any work."""
    check_output(args.json)
    if "predictions" in vars(args):
        from mmkit.evals.predictions import check_predictions

        check_predictions(args.predictions)


def check_outputs(args: argparse.Namespace) -> None:
    """UserError for an output that is what the command reads, or a file of it, or what it writes too."""
    given = {name: value if isinstance(value, list) else [value] for name, value in vars(args).items()}
    paths = [(name, value) for name, values in given.items() for value in values if isinstance(value, str | Path)]
    for name, path in paths:
        if name not in OUTPUTS or (os.path.exists(path) and not os.path.isfile(path)):
            continue
        for other, one in paths:
            same = other != name and os.path.realpath(one) == os.path.realpath(path)
            if same or (other not in OUTPUTS and _is_read_in(one, Path(path))):
                what = "written" if other in OUTPUTS else "read"
                raise UserError(f"{path}: is {what} by this command too ({other}: {one}); name a new file")


def _is_read_in(folder: str | Path, path: Path) -> bool:
    """Whether a file that is there belongs to what a folder holds: not what a command wrote into it before."""
    if not path.is_file() or not os.path.isdir(folder) or not path.resolve().is_relative_to(os.path.realpath(folder)):
        return False
    from mmkit.data.images.formats import SUFFIXES
    from mmkit.data.sources.readers import is_data_set

    if path.suffix.lower() == ".txt":  # the caption of a picture beside it
        return any(one.stem == path.stem and one.suffix.lower() in SUFFIXES for one in path.parent.iterdir())
    own = (*SUFFIXES, *((".parquet", ".arrow") if is_data_set(str(folder)) else ()))
    return path.name in PARTS or path.suffix.lower() in own


def check_texts(args: argparse.Namespace) -> None:
    """UserError for bytes that are no UTF-8 in a text; a file may be called so."""
    for name, value in vars(args).items():
        half = isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)
        if half and not Path(value).exists():
            raise UserError(
                f"--{name.replace('_', '-')} {value!a}: not UTF-8; set the terminal, or the script, to UTF-8"
            )


def check_counts(args: argparse.Namespace) -> None:
    """UserError for a number of things that is none."""
    for name in ("batch_size", "top", "n", "limit"):
        if (value := getattr(args, name, None)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def check_model(args: argparse.Namespace) -> None:
    """UserError where there is no such --model, before data are read and PyTorch is imported."""
    if "model" in vars(args):
        from mmkit.hub.place import check

        check(args.model)


def write_json(path: Path | None, numbers: Mapping[str, Any]) -> None:
    """The numbers as one JSON object; nothing without a path, or on another process than the first.

    Commands call it after they have shown their outcome, so that no failure here loses it.
    """
    if path is not None and rank() == 0:
        files.write_json(path, nested(numbers))


def nested(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers under their dotted names, and the same as objects within objects."""
    return files.nested(numbers) | dict(numbers)


def show(numbers: Mapping[str, Any]) -> None:
    """A table of the plain numbers and texts; on the first process. What has a longer name too is left out."""
    from rich.console import Console
    from rich.table import Table

    if rank() != 0:
        return
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for name in plain_names(numbers):
        value = numbers[name]
        if isinstance(value, str | int | float):
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)


def plain_names(numbers: Mapping[str, Any]) -> list[str]:
    """The names without those that say an evaluation's numbers a second time, "t2i_r1" beside "retrieval.t2i_r1"."""
    twice: set[str] = set()
    for first in {name.partition(".")[0] for name in numbers if "." in name}:
        ends = [name.removeprefix(f"{first}.") for name in numbers if name.startswith(f"{first}.")]
        if all(end in numbers and numbers[end] == numbers[f"{first}.{end}"] for end in ends):
            twice |= set(ends)
    return [name for name in numbers if name not in twice]
