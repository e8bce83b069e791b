"""``mmkit explain`` and ``mmkit grounding``: heat maps of a picture and a text, and how well such maps find things."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.evaluate import add_evaluation_options, add_model_arguments, evaluation, make_predictor, measure
from mmkit.cli.main import add_command, check_output, write_json
from mmkit.cli.vqa import answering_stage
from mmkit.files import check_ending

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.data.records import Source
    from mmkit.explanation.explained import Explanation
    from mmkit.explanation.maps import HeatMap


def register(commands: Commands) -> None:
    """Add both commands."""
    command = add_command(
        commands, "explain", "show where in a picture a text, a word or an answer finds its evidence", explain
    )
    command.add_argument("--image", required=True, type=Path, metavar="FILE", help="the picture or clip")
    command.add_argument("--text", required=True, metavar="TEXT", help="a caption, or a question")
    command.add_argument("--answer", metavar="TEXT", help="explain this answer to the question")
    command.add_argument("--out", required=True, type=Path, metavar="PNG", help="where the heat maps go")
    command.add_argument("--font", type=Path, metavar="FILE", help="a TrueType font, for scripts such as Chinese")
    _asked(
        command, ("mlm", "itm", "answer", "itc"),
        "what is explained: each word as guessed when hidden (mlm), the match, the answer, or the similarity (default: "
        "--answer where it is given, else the first of these that the model has)",
    )  # fmt: skip
    add_model_arguments(command)
    command = add_command(
        commands, "grounding", "measure how well heat maps find what words name: pointing game, IoU", grounding
    )
    command.add_argument(
        "--data", required=True, nargs="+", metavar="RECORDS",
        help="JSON lines with image, caption and boxes [{name, box: [left, top, right, bottom]}]; openmoji[:LANGUAGE] "
        "for held-out scenes; or, with --refs, RefCOCO+ lists of expressions (refcoco+_val.json refcoco+_test.json)",
    )  # fmt: skip
    command.add_argument("--alone", action="store_true", help="read each name alone, also where a caption says it")
    command.add_argument("--prompt", default="{}", help='what a name alone becomes: {} is the name (default "{}")')
    command.add_argument("--images", type=Path, metavar="FOLDER", help="RefCOCO+: where the pictures are")
    command.add_argument("--refs", type=Path, metavar="FILE", help="RefCOCO+: refs(unc).p")
    command.add_argument("--instances", type=Path, metavar="FILE", help="RefCOCO+: instances.json")
    command.add_argument(
        "--detections", type=Path, metavar="FILE", help="RefCOCO+: dets.json, the boxes to choose from"
    )
    _asked(
        command, ("mlm", "itm", "itc"),
        "whose maps: those of hidden words (mlm), the match, or the similarity (default: for names in captions mlm, "
        "for names alone itm, where the model has these)",
    )  # fmt: skip
    add_evaluation_options(command, "the strongest pixel, region and chosen box for each name")


def _asked(command: argparse.ArgumentParser, targets: tuple[str, ...], what: str) -> None:
    command.add_argument("--target", choices=targets, help=what)
    command.add_argument(
        "--layer", type=int, metavar="N",
        help="which layer's attention, from 0 (default: half way up; itc, mlm: the last)",
    )  # fmt: skip
    command.add_argument("--head", type=int, metavar="N", help="which attention head (default: the mean of all)")


def explain(args: argparse.Namespace) -> None:
    """Writes the picture; shows the score, and each word's share and strongest place. The first process alone does."""
    import mmkit
    from mmkit.data.video.opening import check_there
    from mmkit.fonts import font
    from mmkit.ranks import rank

    check_output(args.out, "--out")
    if args.font is not None:
        font("", 14, args.font)
    check_there(args.image)
    check_ending(args.out, ".png")
    from mmkit.explanation.picture import Style

    if args.answer is not None or args.target == "answer":
        args.model = answering_stage(args.model, args.allow)
    with make_predictor(args) as predictor:
        found = mmkit.explain(
            predictor, args.image, args.text, answer=args.answer, target=args.target, layer=args.layer, head=args.head
        )
    if rank() == 0:
        found.save(args.out, Style(font=args.font))
        _show(args, found)


def _show(args: argparse.Namespace, found: Explanation) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    words = [
        {"word": word.text, "share": word.share}
        | _peak(found, word.map)
        | ({} if word.probability is None else {"probability": word.probability})
        for word in found.words
    ]
    console = Console()
    console.print(found.asked, markup=False, highlight=False)
    if words:
        number = "probability" if found.target == "words" else "share"
        table = Table()
        for name in ("word", number, "strongest at x, y", *(["in frame"] if found.frames else [])):
            table.add_column(name, justify="left" if name == "word" else "right")
        for word, entry in zip(found.words, words, strict=True):
            frame = [str(entry["frame"])] if found.frames else []
            table.add_row(escape(word.text), f"{entry[number]:.1%}", "{}, {}".format(*word.map.peak), *frame)
        console.print(table)
    console.print(f"heat maps: {args.out}", markup=False, highlight=False, soft_wrap=True)
    numbers = {
        "explained": found.target, "score": found.score, "layer": found.layer, **_peak(found, found.sentence),
        "words": words, "unseen": list(found.unseen), **({"frames": list(found.numbers)} if found.frames else {}),
    }  # fmt: skip
    write_json(args.json, numbers)


def _peak(found: Explanation, heat: HeatMap) -> dict[str, Any]:
    """Where a map is strongest; of a clip in which of its frames, too."""
    place = {"peak": list(heat.peak)}
    return place | {"frame": found.numbers[heat.frame]} if found.frames else place


def grounding(args: argparse.Namespace) -> None:
    """Measure and show."""
    source = _source(args)
    from mmkit.evals.grounding import Grounding

    evaluator = Grounding(
        source=source, layer=args.layer, head=args.head, target=args.target, in_caption=not args.alone,
        prompt=args.prompt, **evaluation(args),
    )  # fmt: skip
    measure(args, evaluator)


def _source(args: argparse.Namespace) -> Source:
    from mmkit.data.sources.open import open_source
    from mmkit.data.sources.published.refcoco import RefCoco
    from mmkit.errors import UserError

    if args.refs is not None:
        if args.images is None or args.instances is None:
            raise UserError("--refs goes with --instances and --images: instances.json and the folder of the pictures")
        return RefCoco(args.data, args.images, refs=args.refs, instances=args.instances, detections=args.detections)
    if len(args.data) != 1 or any(value is not None for value in (args.images, args.instances, args.detections)):
        raise UserError(
            "--data: one file of records, or RefCOCO+ lists with --refs, --instances, --detections, --images"
        )
    return open_source(args.data[0], {"boxes"})
