"""``mmkit data``: look at a data set, check it, index shards, import a published form, list the answers in it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.evaluate import add_source_options
from mmkit.cli.main import add_changes, add_command, check_output, write_json
from mmkit.cli.main import show as show_numbers
from mmkit.errors import UserError
from mmkit.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmkit.cli.main import Commands
    from mmkit.config import Experiment
    from mmkit.data.records import Source

SOURCE = (
    "what mmkit reads: JSON lines, a table (CSV, TSV), Parquet or hf:NAME, a folder of pictures in class folders or "
    "with captions beside them, indexed tar shards, a published list, openmoji[:LANGUAGE], or one of "
    "openmoji-questions, openmoji-pairs, openmoji-hypotheses, openmoji-moving, easy-vqa, each also with :SPLIT"
)
COLUMNS = "image=...,caption=..., or any other field"
QUESTIONS = (
    "JSON lines or a table with image, question and answers; VQA's (with --annotations), GQA's, Visual Genome's "
    "or one of ALBEF's lists; easy-vqa. May be given several times"
)


def register(commands: Commands) -> None:
    """Add ``mmkit data``."""
    parser = commands.add_parser("data", help="look at a data set and check it")
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = add_command(inner, "show", "draw a training batch as the model sees it, or questions with answers", show)
    command.add_argument(
        "source", metavar="SOURCE or CONFIG",
        help=f"{SOURCE}; or FILE.py[:func(args)], whose own transform, masking and tokenizer are shown",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture to write")
    command.add_argument("--n", type=int, default=16, help="samples (default 16)")
    command.add_argument(
        "--size", type=int, default=128, help="pixels of each side (default 128; of a config: its own)"
    )
    command.add_argument("--seed", type=int, default=0, help="which batch (default 0)")
    add_source_options(command, COLUMNS, questions=True)
    command = add_command(inner, "check", "count all that training or evaluation would trip over", check)
    command.add_argument("source", metavar="SOURCE", help=SOURCE)
    command.add_argument(
        "--classes", metavar="SET or FILE", help="count labels that are none of these, as zeroshot takes them"
    )
    add_source_options(command, COLUMNS, questions=True)
    command = add_command(
        inner, "index", "find the samples in a folder of tar shards, or the lines of a file, once", index
    )
    command.add_argument(
        "source", metavar="DIR, URL or FILE",
        help="shards as img2dataset or WebDataset write them; of an address (s3://...) the index is kept here; or JSON "
        "lines, or a table",
    )  # fmt: skip
    command.add_argument("--upload", action="store_true", help="of an address: put the index beside the shards too")
    command.add_argument(
        "--leave-out", action="store_true", help="leave out samples with which something is wrong; damaged shards stay"
        " an error",
    )  # fmt: skip
    command.add_argument("--workers", type=int, metavar="N", help="processes, for shards (default: one for each core)")
    add_source_options(command, COLUMNS)
    _register_import(inner)
    _register_export(inner)
    command = add_command(inner, "build-answers", "list the answers that questions are answered with", build)
    command.add_argument("--data", action="append", required=True, metavar="QUESTIONS", help=QUESTIONS)
    command.add_argument(
        "--annotations", action="append", default=[], metavar="JSON",
        help="one for each file of VQA's questions, in order; other data have none",
    )  # fmt: skip
    command.add_argument(
        "--images", action="append", default=[], metavar="DIR",
        help="where the pictures are: one for all, or one for each --data, in order (default: with each file)",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the list, one answer per line")
    command.add_argument("--min-count", type=int, metavar="N", help="answers of at least N questions (default 9)")
    command.add_argument("--top", type=int, metavar="K", help="the K most frequent, instead of --min-count")


def _register_import(inner: Commands) -> None:
    from mmkit.data.sources.published.forms import FORMATS

    command = add_command(inner, "import", "write a data set in mmkit's own form, JSON lines", import_)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = "formats:\n" + "\n".join(f"  {name:11}{what}" for name, what in FORMATS.items())
    command.add_argument("format", metavar="FORMAT", choices=tuple(FORMATS), help=", ".join(FORMATS))
    command.add_argument("source", metavar="IN", help="the file in this format; for builtin a name")
    command.add_argument("out", metavar="OUT", type=Path, help="the file to write")
    add_source_options(command, COLUMNS, questions=True)
    command.add_argument("--limit", type=int, metavar="N", help="only the first N records")


def _register_export(inner: Commands) -> None:
    command = add_command(inner, "export", "write what a config trains on: its pictures, and JSON lines", export)
    command.add_argument("experiment", metavar="CONFIG", help="FILE.py[:func(args)], a config function")
    command.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    add_changes(command)
    command.add_argument("--limit", type=int, metavar="N", help="only the first N records")
    command.add_argument(
        "--split", default="train", metavar="NAME", help="train (default), or the evaluation whose data are written"
    )


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The values of these options."""
    from mmkit.data.sources.delimited import columns_of

    values = {name: getattr(args, name, None) for name in ("split", "images", "annotations", "pictures")}
    return {**values, "columns": columns_of(args.columns)}


def show(args: argparse.Namespace) -> Mapping[str, Any]:
    """Draw one batch, or for questions and statements a sheet with what is right."""
    from mmkit.data.sources.open import open_source
    from mmkit.files import kind_of_picture, save_picture
    from mmkit.seeds import check_seed

    check_output(args.out, "--out")
    kind_of_picture(args.out)
    check_seed(args.seed, "--seed")
    if Path(args.source.partition(":")[0]).suffix == ".py":
        return _show_config(args)
    source = open_source(args.source, **_given(args), answers_needed=False)
    from mmkit.data.show.batch import grid, sample_batch
    from mmkit.data.show.tasks import has_task, task_grid

    if has_task(source[0]):
        picture, n = task_grid(source, n=args.n, seed=args.seed), min(args.n, len(source))
    else:
        batch, tokenizer = sample_batch(source, n=args.n, size=args.size, seed=args.seed)
        picture, n = grid(batch, tokenizer), len(batch)
    save_picture(picture, args.out)
    return {"samples": n, "picture": str(args.out)}


def _show_config(args: argparse.Namespace) -> Mapping[str, Any]:
    """Draw a batch of a config's last run as it is trained on; a run without a tokenizer has that of an earlier one."""
    import tempfile

    from mmkit.config import load_experiment
    from mmkit.data.sources.readers import Options
    from mmkit.files import save_picture

    Options(**_given(args)).refuse("a config")
    experiment = load_experiment(args.source)
    from mmkit.data.order import order_of
    from mmkit.data.show.batch import batch_of, grid
    from mmkit.train.build import make_dataset, make_tokenizer
    from mmkit.train.inherit import inherited

    experiment = inherited(experiment, args.out)
    stages = [stage for stage in experiment.stages() if stage.tokenizer is not None] or [experiment]
    source = experiment.data.train()
    with tempfile.TemporaryDirectory() as folder:
        own = source if stages[-1] is experiment else stages[-1].data.train()
        tokenizer = make_tokenizer(stages[-1], own, Path(folder) / "tokenizer")
        dataset, plain = make_dataset(experiment, source, tokenizer)
        order = order_of(source, seed=args.seed, block=experiment.data.block, window=experiment.data.window)
        batch = batch_of(dataset, args.n, order)
    plain = getattr(plain, "transform", plain)  # of one that sees grey pictures
    classes = getattr(dataset.targets, "classes", ())
    save_picture(grid(batch, tokenizer, mean=plain.mean, std=plain.std, classes=classes), args.out)
    return {"samples": len(batch), "picture": str(args.out)}


def check(args: argparse.Namespace) -> Mapping[str, Any]:
    """Go through a source; exit code 2 where a picture in it cannot be used."""
    from dataclasses import asdict
    from functools import partial

    from mmkit.data.check import check_named

    known = None
    if args.classes is not None:
        from mmkit.evals.labels import label_test

        known = partial(label_test, classes=args.classes)
    with progress() as report:
        summary = check_named(args.source, lambda done, total: report("pictures", done, total), known, **_given(args))
    numbers = asdict(summary)
    if summary.problems:
        show_numbers(numbers)
        write_json(args.json, numbers)
        kinds = ", ".join(f"{n} x {kind}" for kind, n in summary.problems.items())
        more = f"\n  ... and more: {kinds}" if len(summary.bad) > 10 else ""
        first = "\n  ".join(summary.bad[:10])
        raise UserError(f"{args.source}: what cannot be used: {kinds}\n  {first}{more}")
    return numbers


def index(args: argparse.Namespace) -> Mapping[str, Any]:
    """Write the index in the folder of the shards, of which only new and changed ones are read, or beside the file."""
    import os

    from mmkit.data.line_index import indexing
    from mmkit.data.remote import Remote, place_of
    from mmkit.data.sources.index import INDEX, build_index
    from mmkit.data.sources.open import open_source
    from mmkit.data.sources.readers import Options

    place = place_of(args.source)
    if args.upload and not isinstance(place, Remote):
        raise UserError(f"--upload: {args.source} lies on this machine, and its index beside the shards")
    given = {name: value for name, value in _given(args).items() if name in ("columns", "images", "split")}
    if not isinstance(place, Remote) and Path(args.source).is_file():
        if args.leave_out:
            raise UserError(f"--leave-out: has no meaning for {args.source}; correct or remove its lines")
        with indexing() as made:
            records = len(open_source(args.source, **given))
        if not made:
            raise UserError(f"{args.source}: needs no index, or can have none; JSON lines, tables and shards have one")
        return {"records": records, "index": str(made[-1])}
    Options(**given).refuse(args.source)
    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    with progress() as report:
        done = build_index(
            args.source, workers=workers, leave_out=args.leave_out,
            progress=lambda done, of: report("shards", done, of),
        )  # fmt: skip
    if not isinstance(place, Remote):
        return done
    if args.upload:
        place.put(place.home(INDEX), INDEX)
    return {**done, "index": place.called(INDEX) if args.upload else str(place.home(INDEX))}


def import_(args: argparse.Namespace) -> Mapping[str, Any]:
    """Read one of the formats, write JSON lines."""
    from mmkit.data.importing import open_format
    from mmkit.data.writing import write_records

    source = open_format(args.format, args.source, **_given(args))
    with progress() as report:
        n = write_records(source, args.out, limit=args.limit, progress=lambda done, of: report("records", done, of))
    return {"records": n, "out": str(args.out)}


def export(args: argparse.Namespace) -> Mapping[str, Any]:
    """Write the records of each stage that has the split."""
    from mmkit.config import load_experiment, override
    from mmkit.data.writing import export_source
    from mmkit.files import check_new_folder

    check_new_folder(args.out)
    experiment = override(load_experiment(args.experiment), args.changes)
    stages = experiment.stages()
    sources = {stage.name: source for stage in stages if (source := _source_of(stage, args.split)) is not None}
    if not sources:
        known = dict.fromkeys(name for stage in stages for name in stage.evals)
        raise UserError(f"--split {args.split}: this config has train{''.join(f', {name}' for name in known)}")
    numbers: dict[str, Any] = {}
    for name, make in sources.items():
        with progress() as report:
            written = export_source(
                make(), args.out, args.split if len(sources) == 1 else f"{name}-{args.split}", limit=args.limit,
                progress=lambda done, of: report("records", done, of),
            )  # fmt: skip
        numbers |= written if len(sources) == 1 else {f"{name}.{key}": value for key, value in written.items()}
    return numbers


def _source_of(stage: Experiment, split: str) -> Callable[[], Source] | None:
    """What makes the source of a stage's training, or of one of its evaluations; None where it has no such one."""
    if split == "train":
        return stage.data.train
    evaluator = stage.evals.get(split)
    source = None if evaluator is None else evaluator.keywords.get("source")
    return source if callable(source) else None


def build(args: argparse.Namespace) -> Mapping[str, Any]:
    """Count, choose, write the list; how many questions it answers."""
    from mmkit.data.sources.open import open_all_questions
    from mmkit.data.texts.answers.rules import build_answers, coverage
    from mmkit.files import write_text

    if args.min_count is not None and args.top is not None:
        raise UserError("give --min-count or --top, not both")
    check_output(args.out, "--out")
    source = open_all_questions(args.data, annotations=args.annotations, images=args.images)
    min_count = 9 if args.min_count is None and args.top is None else args.min_count
    answers = build_answers(source, min_count=min_count, top=args.top)
    found = coverage(source, answers, limit=len(source))
    write_text(args.out, "\n".join(answers) + "\n")
    return {
        "answers": len(answers), "questions": len(source), "covered": found.share, "best_accuracy": found.best,
        "out": str(args.out),
    }  # fmt: skip
