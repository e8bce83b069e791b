"""``mmkit report``: write the report of a run again, or of one that had none."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_allow, add_command

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.config import Experiment
    from mmkit.data.records import Source
    from mmkit.report.answers import AnswersReport
    from mmkit.report.make import Report


def register(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "report", "write the report of a run again: RUN/report.html", run)
    command.add_argument(
        "run_folder", type=Path, metavar="RUN", help="the folder of a run; the runs inside of it have their part, too"
    )
    command.add_argument(
        "--data", metavar="RECORDS", help="pictures with captions for the examples, in place of those of the config"
    )
    command.add_argument(
        "--zeroshot", metavar="FOLDER", help="a folder of class folders to name, in place of those of the config"
    )
    add_allow(command)
    command.add_argument("--device", help="default: cuda where there is one, else cpu")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """What the reports measured, by the name of the run inside the folder, and where the page is."""
    from mmkit.config import rebuild
    from mmkit.config.allowed import checked
    from mmkit.config.own import make_findable, own_files
    from mmkit.data.sources.open import open_source
    from mmkit.errors import UserError
    from mmkit.files import check_writable, read_json
    from mmkit.hub.files import CONFIG
    from mmkit.hub.place import check
    from mmkit.train.folder import EXPERIMENT

    folders = [args.run_folder, *sorted(path for path in args.run_folder.glob("*/") if path.name != "best")]
    if not (runs := [folder for folder in folders if (folder / EXPERIMENT).is_file()]):
        raise UserError(f"{args.run_folder}: not the folder of a run (no {EXPERIMENT}); give what `mmkit train` made")
    if runs[0] == args.run_folder:
        check(args.run_folder)
    page = str(runs[0] / "report.html")
    check_writable(page, page)
    data = None if args.data is None else open_source(args.data, {"caption"})
    classes = None if args.zeroshot is None else open_source(args.zeroshot, {"label"})
    numbers: dict[str, Any] = {}
    for folder in runs:
        name = "" if folder == args.run_folder else f"{folder.name}."
        if (folder / CONFIG).is_file():
            make_findable(own_files(read_json(folder / CONFIG)), checked(args.allow), folder)
        exp = rebuild(read_json(folder / EXPERIMENT), allow=args.allow)
        if name and exp.report is None:
            continue
        report = _report(exp, None if name else data, None if name else classes)
        numbers |= {f"{name}{key}": value for key, value in _write(args, folder, report).items()}
    return {**numbers, "out": page}


def _write(args: argparse.Namespace, folder: Path, report: Report | AnswersReport) -> Mapping[str, float]:
    """The report of one run, by its model."""
    import torch

    import mmkit
    from mmkit.progress import progress

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    predictor = mmkit.load(folder, device=device, allow=args.allow)
    with progress() as shown:
        predictor.progress = shown
        return report(predictor, folder)


def _boxed(exp: Experiment) -> Any:
    """What a run measured its boxes on, if it did."""
    from mmkit.evals.detection.evaluate import Detection

    found = (part.keywords.get("source") for part in exp.evals.values() if part.func is Detection)
    return next(found, None)


def _report(exp: Experiment, data: Source | None, zeroshot: Source | None) -> Report | AnswersReport:
    """That of the config, with other data where they are given; a run without one gets its curves and these."""
    from dataclasses import replace

    from mmkit.evals.zeroshot import ZeroShot
    from mmkit.report.make import Report

    made: Report | AnswersReport
    made = exp.report() if exp.report is not None else Report(name=exp.name, objects=_boxed(exp))
    if data is None and zeroshot is None:
        return made
    page = made if isinstance(made, Report) else Report(name=exp.name)
    if data is not None:
        page = replace(page, source=data)
    if zeroshot is not None:
        page = replace(page, zeroshot={"zeroshot": ZeroShot(source=zeroshot)})
    return page
