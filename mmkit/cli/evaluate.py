"""``mmkit retrieval``, ``zeroshot`` and ``classify``: a trained model measured on pictures of one's own."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.main import add_allow, add_command, check_output, write_json
from mmkit.errors import UserError
from mmkit.progress import progress
from mmkit.ranks import rank

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.data.records import Source
    from mmkit.data.sources.open import Want
    from mmkit.data.video.samplers import Sampler
    from mmkit.evals.evaluator import Evaluator
    from mmkit.evals.results.zeroshot import ZeroShotResult
    from mmkit.inference.predictor import Predictor

log = logging.getLogger("mmkit")

MODEL = (
    "the folder of a run or of a saved model, or open_clip:ARCH/PRETRAINED, open_clip:ARCH@FILE, open_clip:FOLDER; for "
    "pictures alone timm:NAME, timm:NAME@FILE, torchvision:NAME"
)


def register(commands: Commands) -> None:
    """Add the commands."""
    command = add_command(
        commands, "retrieval", "find pictures by text and texts by picture: R@1, R@5, R@10", retrieval
    )
    add_retrieval_arguments(command)
    command = add_command(commands, "zeroshot", "classify pictures by the names of the classes alone", zeroshot)
    add_zeroshot_arguments(command)
    command = add_command(commands, "classify", "sort pictures into the classes that a model was trained for", classify)
    add_classify_arguments(command)


def add_retrieval_arguments(command: argparse.ArgumentParser) -> None:
    """What ``mmkit retrieval`` takes."""
    command.add_argument(
        "--data", required=True, metavar="RECORDS",
        help="JSON lines with image and caption, a published list (dataset_coco.json, coco_karpathy_test.json), "
        "hf:NAME, openmoji[:LANGUAGE], ...",
    )  # fmt: skip
    add_source_options(command, "image=...,caption=...")
    command.add_argument(
        "--protocol", metavar="NAME",
        help="of video-text retrieval, printed with each number: msrvtt_1ka, msrvtt_full, msvd, didemo",
    )  # fmt: skip
    _common(command, "re-rank the best K of each query with the matching head (published: 128 or 256)")


def add_source_options(command: argparse.ArgumentParser, columns: str, questions: bool = False) -> None:
    """What ``open_source`` takes beside the data: --images, --split, --columns; for VQA --annotations, --pictures."""
    command.add_argument("--images", metavar="FOLDER", help="the pictures that a file names (default: beside it)")
    command.add_argument("--split", help="of a published list or a data set (default test): train, val, train+restval")
    command.add_argument("--columns", metavar="MAP", help=f"of JSON lines, a table or a data set: {columns}")
    if questions:
        command.add_argument("--annotations", metavar="JSON", help="the answers to VQA's questions")
        pattern = 'how pictures of VQA\'s form are called: "{image_id}.jpg"'
        command.add_argument("--pictures", metavar="PATTERN", help=pattern)


def add_zeroshot_arguments(command: argparse.ArgumentParser) -> None:
    """What ``mmkit zeroshot`` takes."""
    command.add_argument(
        "--data", required=True, metavar="PATH",
        help="a folder of class folders, a CSV (path,label), JSON lines with image and label, hf:NAME, openmoji, ...",
    )  # fmt: skip
    add_source_options(command, "image=...,label=...")
    command.add_argument(
        "--classes", metavar="SET or FILE",
        help="imagenet, cifar10, cifar100, openmoji[:LANGUAGE]; or names, one per line, or FOLDER<TAB>name (default: "
        "the folders' or labels' names)",
    )  # fmt: skip
    command.add_argument(
        "--templates", metavar="SET, FILE or TEXT",
        help="imagenet (80), imagenet7, photo, openmoji, zh; or prompts, one per line, {} for the name; or one such "
        'prompt (default: those of the class set or of built-in data, else "{}")',
    )  # fmt: skip
    _add_class_files(command)
    command.add_argument(
        "--text-bank", type=Path, metavar="FOLDER",
        help="where the classes' embeddings are kept for next time (default ~/.cache/mmkit/text-banks)",
    )  # fmt: skip
    command.add_argument("--no-text-bank", action="store_true", help="make them anew and keep nothing")
    _common(command, "re-rank the best K classes of each picture with the matching head")


def add_classify_arguments(command: argparse.ArgumentParser) -> None:
    """What ``mmkit classify`` takes."""
    command.add_argument(
        "--data", required=True, metavar="PATH",
        help="a folder of class folders, a CSV (path,label), JSON lines with image and label, hf:NAME, openmoji; the "
        "labels are names of the model's classes",
    )  # fmt: skip
    add_source_options(command, "image=...,label=...")
    command.add_argument("--head", metavar="NAME", help="which, where several sort pictures (default: the only one)")
    command.add_argument(
        "--views", type=_views, metavar="CLIPSxCROPS",
        help="of clips: so many of each video by 1 or 3 crops, whose logits are averaged (ViViT: 4x3), or their "
        "probabilities, 4x3:softmax (default: one)",
    )  # fmt: skip
    _add_class_files(command)
    add_evaluation_options(command, "what was found for each picture")


def _add_class_files(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--confusion", type=Path, metavar="PNG", help="draw which class is taken for which (after re-ranking, if any)"
    )
    command.add_argument("--per-class", type=Path, metavar="CSV", help="write the table of all classes")


def _common(command: argparse.ArgumentParser, rerank: str) -> None:
    command.add_argument("--rerank", type=int, metavar="K", help=rerank)
    add_evaluation_options(command, "what was found for each query or picture")


def add_evaluation_options(command: argparse.ArgumentParser, found: str) -> None:
    """What ``evaluation`` and ``make_predictor`` read. found: what --predictions writes."""
    command.add_argument(
        "--predictions", type=Path, metavar="FILE",
        help=f"write {found}: .json (one list, as evaluation servers take it), .jsonl or .csv",
    )  # fmt: skip
    command.add_argument(
        "--max-bad", type=float, metavar="SHARE",
        help="leave out pictures that cannot be read, up to this share of all, such as 0.01 (default: the first "
        "ends the evaluation)",
    )  # fmt: skip
    add_model_arguments(command)


def add_model_arguments(command: argparse.ArgumentParser) -> None:
    """What ``make_predictor`` reads: --model, --allow, --image-size, --batch-size, --device, --precision."""
    add_model_choice(command)
    command.add_argument("--batch-size", type=int, default=64, help="pictures per forward (default 64)")
    command.add_argument("--device", help="default: cuda where there is one, else cpu")
    command.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="default float32")


def add_model_choice(command: argparse.ArgumentParser) -> None:
    """Which model: --model, --allow, --image-size."""
    command.add_argument("--model", required=True, metavar="M", help=MODEL)
    add_allow(command)
    command.add_argument(
        "--image-size", type=_size, metavar="N or HxW", help="pixels, other than the model was trained with"
    )
    command.add_argument(
        "--frames", type=_sampler, metavar="[HOW:]N",
        help="read clips by a model of pictures: N frames one by one, and their mean (CLIP4Clip); HOW is segments "
        "(default), linear, uniform or stride",
    )  # fmt: skip


def _views(text: str) -> str:
    """4x3, or 4x3:softmax."""
    from mmkit.data.video.samplers import views_named

    try:
        return str(views_named(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _sampler(text: str) -> Sampler:
    """12, or linear:12."""
    from mmkit.data.video.samplers import sampler_named

    try:
        return sampler_named(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size(text: str) -> int | tuple[int, int]:
    """384, or 256x384 as (height, width)."""
    try:
        height, *width = map(int, text.split("x"))
        if len(width) > 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give one side, 384, or HEIGHTxWIDTH, 256x384") from None
    return (height, width[0]) if width else height


def retrieval(args: argparse.Namespace) -> None:
    """Measure and show."""
    if args.protocol is not None:
        from mmkit.evals.protocols import protocol_named

        protocol_named(args.protocol)
    source = open_data(args, {"caption"}, ("image", "caption", "image_id", "video"))
    from mmkit.evals.retrieval import Retrieval  # slow, as all below that computes

    measure(args, Retrieval(source=source, rerank_top=args.rerank, protocol=args.protocol, **evaluation(args)))


def zeroshot(args: argparse.Namespace) -> None:
    """Measure and show."""
    from mmkit.data.sources.built_in import own_classes
    from mmkit.evals.labels import read_classes
    from mmkit.evals.prompts import templates_named

    _check_class_files(args)
    needed = args.predictions is None or args.classes is None
    source = open_data(args, {"label"}, ("image", "label", "video"), answers_needed=needed)
    classes = args.classes or own_classes(args.data)
    if classes is not None:
        read_classes(classes)
    templates = templates_named(args.templates) if args.templates else None
    from mmkit.evals.text_bank import cache_folder
    from mmkit.evals.zeroshot import ZeroShot

    evaluator = ZeroShot(
        source=source, class_names=classes, rerank_top=args.rerank, templates=templates,
        bank_folder=None if args.no_text_bank else args.text_bank or cache_folder(), **evaluation(args),
    )  # fmt: skip
    _write_class_files(args, measure(args, evaluator, evaluator.read()))


def classify(args: argparse.Namespace) -> None:
    """Measure and show."""
    _check_class_files(args)
    source = open_data(args, {"label"}, ("image", "label", "video"), answers_needed=args.predictions is None)
    from mmkit.evals.image_classes import ImageClasses

    _write_class_files(
        args, measure(args, ImageClasses(source=source, head=args.head, views=args.views, **evaluation(args)))
    )


def of_data(
    args: argparse.Namespace, data: Collection[str], pictures: Collection[str] = (), asked: Sequence[str] = ("image",)
) -> bool:
    """Whether --data is to be measured; else the pictures of --image are to be looked at. For commands that do both.

    asked: the options that pictures need, all of them. data, pictures: options that are about one of the two alone, as
    ``args`` calls them; they are given where they are neither None nor False. UserError for both, neither, half of
    ``asked``, and an option of the other.
    """
    given = {name for name, value in vars(args).items() if value is not None and value is not False}
    wanted = given & set(asked)
    if (args.data is None) == (not wanted) or (wanted and len(wanted) < len(asked)):
        names = {"image": "--image FILE", "question": "--question TEXT"}
        raise UserError(f"give either {' with '.join(names[name] for name in asked)}, or --data RECORDS")
    measured = not wanted
    if wrong := [name for name in (pictures if measured else data) if name in given]:
        raise UserError(f"--{wrong[0].replace('_', '-')} belongs to {'--image' if measured else '--data'}")
    return measured


def open_data(args: argparse.Namespace, wants: Collection[Want], fields: Sequence[str], **more: Any) -> Source:
    """The source of --data with what ``add_source_options`` adds. fields: those that --columns may name."""
    from mmkit.data.sources.delimited import columns_of
    from mmkit.data.sources.open import open_source

    columns = columns_of(args.columns, fields)
    return open_source(args.data, wants, columns=columns, split=args.split, images=args.images, **more)


def evaluation(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say that each ``Evaluator`` takes."""
    return {"batch_size": args.batch_size, "predictions": args.predictions, "bad": args.max_bad}


def measure(args: argparse.Namespace, evaluator: Evaluator, *read: Any) -> Any:
    """The result, after it was shown and written. read: what the evaluator read of its source before, if anything."""
    from rich.console import Console

    with make_predictor(args) as predictor:
        result = evaluator.evaluate(predictor, *read)
    if rank() == 0:
        Console().print(result.table())
    write_json(args.json, result.to_json())
    return result


def _check_class_files(args: argparse.Namespace) -> None:
    from mmkit.files import kind_of_picture

    check_output(args.confusion, "--confusion")
    check_output(args.per_class, "--per-class")
    if args.confusion is not None:
        kind_of_picture(args.confusion)


def _write_class_files(args: argparse.Namespace, result: ZeroShotResult) -> None:
    from mmkit.evals.results.confusion import save_confusion

    if rank() == 0 and args.confusion is not None:
        again = result.reranked is not None
        save_confusion(args.confusion, result.class_names, result.confusion(again), result.named(again), result.shown)
    if rank() == 0 and args.per_class is not None:
        result.write_per_class(args.per_class)


@contextmanager
def make_predictor(args: argparse.Namespace) -> Iterator[Predictor]:
    """The model where it shall run, with its progress shown; under a launcher, one of several processes."""
    import mmkit
    from mmkit.train.setup import join_processes, on_cpu

    state = join_processes(args.device == "cpu" or on_cpu())
    try:
        predictor = mmkit.load(
            args.model, device=args.device or str(state.device), precision=args.precision, image_size=args.image_size,
            allow=args.allow,
        )  # fmt: skip
    except (RuntimeError, AssertionError) as error:
        if args.device is None:
            raise
        raise UserError(f"--device {args.device}: cannot be used ({error})") from error
    if args.frames is not None:
        from mmkit.inference.frames import over_frames

        predictor = over_frames(predictor, args.frames)
    with progress(shown=state.is_main_process) as report:
        predictor.progress = report
        with predictor.encoder.counting():
            yield predictor
