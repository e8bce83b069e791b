"""``mmkit detect``: the objects in pictures, with boxes and scores, drawn or as JSON; or how well they are found."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    from mmkit.data.records import Source
    from mmkit.data.sources.open import Want
    from mmkit.inference.detecting import Found

OF_DATA = ("rule", "rounds", "images", "split", "columns", "predictions", "max_bad")
OF_CLASSES, OF_PHRASES = ("coco", "lvis", "voc2007", "voc2010"), ("referring", "any-box", "merged-box")
OF_PICTURES = ("out", "threshold", "top")
THRESHOLD = 0.3


def register(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "detect", "find objects in pictures, or measure how well a model does", run)
    command.add_argument("--image", type=Path, nargs="+", metavar="FILE", help="pictures to look at")
    command.add_argument("--out", type=Path, metavar="PNG", help="draw what is found: a file, or a folder for several")
    command.add_argument(
        "--threshold", type=float, metavar="P", help=f"show what has at least this score (default {THRESHOLD})"
    )
    command.add_argument("--top", type=int, metavar="K", help="show at most the best K of a picture")
    command.add_argument(
        "--data", metavar="RECORDS",
        help="pictures with boxes to compare with: JSON lines, COCO's, VOC's or YOLO's folder, openmoji, ...",
    )  # fmt: skip
    add_source_options(command, "image=...,boxes=...,image_id=...")
    command.add_argument("--head", metavar="NAME", help="which, where several find objects (default: the only one)")
    command.add_argument(
        "--text", metavar="WORDS", help='what to look for, of a model that can be asked: "a dog. a red canoe."'
    )
    command.add_argument(
        "--classes", metavar="FILE",
        help="the same, a line each; names may hold full stops (default: the classes that it was trained on)",
    )  # fmt: skip
    command.add_argument(
        "--rule", choices=(*OF_CLASSES, *OF_PHRASES), metavar="RULE",
        help="by which --data is measured: coco (default), lvis, voc2007, voc2010; of a model that can be asked also "
        "referring (expressions), any-box and merged-box (phrases of captions, Flickr30k Entities)",
    )  # fmt: skip
    command.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="draw the pictures anew N times, for ap_low and ap_high (95 %%)",
    )
    add_evaluation_options(command, "all that was found, as COCO's server takes it (with the published ids)")


def run(args: argparse.Namespace) -> Mapping[str, Any] | None:
    """What is found in pictures, or COCO's numbers of a data set."""
    if of_data(args, OF_DATA, OF_PICTURES):
        if args.rule in OF_PHRASES:
            _ask_each(args)
            return None
        source = open_data(args, {"boxes"}, ("image", "boxes", "image_id"))
        phrases = _phrases(args)
        asked = None if phrases is None else tuple(phrases)
        from mmkit.evals.detection.evaluate import Detection  # slow, as all below that computes

        measure(
            args,
            Detection(
                source=_of_kinds(source), head=args.head, rule=args.rule or "coco", rounds=args.rounds or 0,
                phrases=asked, **evaluation(args),
            ),
        )  # fmt: skip
        return None
    threshold = THRESHOLD if args.threshold is None else args.threshold
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold}: a score is from 0 to 1")
    _look(args, threshold)
    return None


def _ask_each(args: argparse.Namespace) -> None:
    """Each picture is asked for what its own record says."""
    if args.text is not None or args.classes is not None:
        raise UserError(f"--rule {args.rule} asks for what the data say: leave out --text and --classes")
    wants: set[Want] = {"boxes"} if args.rule == "referring" else {"boxes", "caption"}
    source = open_data(args, wants, ("image", "boxes", "image_id", "caption"))
    from mmkit.evals.detection.phrases import Phrases  # slow

    measure(
        args,
        Phrases(source=source, head=args.head, rule=args.rule, rounds=args.rounds or 0, **evaluation(args)),
    )


def _phrases(args: argparse.Namespace) -> list[str] | None:
    """What --text or --classes asks for; None where neither does."""
    if args.text is not None and args.classes is not None:
        raise UserError("give either --text WORDS or --classes FILE")
    if args.text is None and args.classes is None:
        return None
    from mmkit.evals.labels import read_classes

    names = None if args.classes is None else read_classes(args.classes).names
    from mmkit.data.texts.prompts import checked, phrases_in  # slow

    return phrases_in(args.text) if names is None else checked(names, f"--classes {args.classes}")


def _of_kinds(source: Source) -> Source:
    """Built-in scenes without their people, who are told apart by descriptions and are of no class."""
    from mmkit.data.openmoji.scenes import Scenes

    return replace(source, people=0.0) if isinstance(source, Scenes) else source


def _look(args: argparse.Namespace, threshold: float) -> None:
    outputs, phrases = _outputs(args.image, args.out), _phrases(args)
    from mmkit.data.images.opening import load_image
    from mmkit.ranks import rank

    pictures = [load_image(path) for path in args.image]
    with make_predictor(args) as predictor:
        whole = predictor.detect(pictures, head=args.head, batch_size=args.batch_size, phrases=phrases)
    found = [one.above(threshold, args.top) for one in whole]
    if rank() == 0:
        _show(args.image, found, threshold)
        _draw(pictures, found, outputs)
    said = [{"image": str(path), **as_json(one)} for path, one in zip(args.image, found, strict=True)]
    alone = {name: value for name, value in said[0].items() if name != "image"} if len(said) == 1 else {}
    write_json(args.json, {**alone, "pictures": said})


def as_json(found: Found) -> dict[str, Any]:
    """boxes, scores and labels (names) of one picture, the best first."""
    return {"boxes": found.boxes.tolist(), "scores": found.scores.tolist(), "labels": found.names}


def _show(paths: Sequence[Path], found: Sequence[Found], threshold: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for name in ("picture", "object"):
        table.add_column(name)
    for name in ("score", "left", "top", "right", "bottom"):
        table.add_column(name, justify="right")
    for path, one in zip(paths, found, strict=True):
        for name, score, box in zip(one.names, one.scores.tolist(), one.boxes.tolist(), strict=True):
            table.add_row(str(path), name, f"{score:.2f}", *(f"{side:.0f}" for side in box))
        if not len(one.boxes):
            table.add_row(str(path), f"nothing from {threshold:g} up")
    Console().print(table, markup=False, highlight=False)


def _outputs(paths: Sequence[Path], out: Path | None) -> list[Path]:
    """A file for the drawing of each picture; UserError where one cannot be written, before any work."""
    if out is None:
        return []
    from mmkit.files import kind_of_picture

    if len(paths) == 1:
        kind_of_picture(out)
        check_output(out, "--out")
        return [out]
    if out.suffix:
        raise UserError(f"--out {out}: {len(paths)} pictures need a folder, and this has the ending of a file")
    names = [f"{path.stem}.png" for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number:03}-{name}" for number, name in enumerate(names)]
    outputs = [out / name for name in names]
    for path in outputs:
        check_output(path, "--out")
    return outputs


def _draw(pictures: Sequence[Any], found: Sequence[Found], outputs: Sequence[Path]) -> None:
    from mmkit.explanation.objects import drawn
    from mmkit.files import save_picture

    for picture, one, path in zip(pictures, found, outputs, strict=bool(outputs)):
        save_picture(drawn(picture, one), path)
