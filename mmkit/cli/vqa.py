"""``mmkit vqa``: answers to a question about a picture, or the accuracy over a file of questions."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.cli.evaluate import (
    add_evaluation_options,
    add_source_options,
    evaluation,
    make_predictor,
    of_data,
    open_data,
)
from mmkit.cli.main import add_command, write_json
from mmkit.errors import UserError

log = logging.getLogger("mmkit")

OF_DATA = ("annotations", "images", "pictures", "split", "columns", "predictions", "as_published", "max_bad")
FIELDS = ("image", "question", "answers", "image_id", "question_id", "answer_type", "video")

if TYPE_CHECKING:
    from mmkit.cli.main import Commands
    from mmkit.inference.predictor import Predictor


def register(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "vqa", "answer questions about pictures", run)
    command.add_argument("--image", type=Path, metavar="FILE", help="one picture; with --question")
    command.add_argument("--question", metavar="TEXT", help="what to ask about --image")
    command.add_argument("--top", type=int, default=5, metavar="K", help="show the best K answers (default 5)")
    command.add_argument(
        "--data", metavar="RECORDS",
        help="JSON lines or a table with image, question and answers; hf:NAME; VQA's (with --annotations), GQA's, "
        "Visual Genome's or one of ALBEF's lists; easy-vqa:test",
    )  # fmt: skip
    add_source_options(command, "image=...,question=...,answers=...", questions=True)
    command.add_argument(
        "--answers", type=Path, metavar="FILE",
        help="what to choose from, one per line or as JSON (default: the answers that the model was trained with)",
    )  # fmt: skip
    command.add_argument("--generate", action="store_true", help="write answers freely instead of choosing")
    command.add_argument(
        "--first-token-twice", action="store_true",
        help="rank as ALBEF's official evaluation does: the first token's log-probability counts twice",
    )  # fmt: skip
    command.add_argument(
        "--as-published", action="store_true",
        help="accuracy by the program of the VQA challenge, which compares annotators' answers nearly as they are "
        "(default: both sides normalised; both are in the output)",
    )  # fmt: skip
    add_evaluation_options(command, "the answers, with question_id")


def run(args: argparse.Namespace) -> Mapping[str, Any] | None:
    """The answers with their scores, or accuracy, n and by_type."""
    measured = of_data(args, OF_DATA, asked=("image", "question"))
    if args.question is not None and not args.question.strip():
        raise UserError("--question: is empty; ask something")
    if args.generate and (args.answers is not None or args.first_token_twice):
        option = "--answers" if args.answers is not None else "--first-token-twice"
        raise UserError(f"{option} is for choosing from a list, --generate writes freely: give one of them")
    if measured:
        return _measure(args)
    _ask(args)
    return None


def _ask(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmkit.data.video.opening import check_there
    from mmkit.ranks import rank

    check_there(args.image)
    chosen = _answers(args)
    args.model = answering_stage(args.model, args.allow)
    with make_predictor(args) as predictor:
        count_first_tokens_twice(args, predictor)
        (found,) = predictor.answer([args.image], [args.question], answers=chosen, top=args.top, generate=args.generate)
    if rank() == 0:
        if len(found) < args.top and not args.generate:
            log.info("--top %d: there are %d answers to choose from", args.top, len(found))
        table = Table(show_header=False, box=None)
        for answer, score in found:
            table.add_row(answer, f"{score:.1%}")
        Console().print(args.question, table, sep="\n", markup=False, highlight=False)
    best = [{"answer": answer, "score": score} for answer, score in found]
    write_json(args.json, {"question": args.question, "answers": best})


def _measure(args: argparse.Namespace) -> Mapping[str, Any]:
    source = open_data(
        args, {"question"}, FIELDS, annotations=args.annotations, pictures=args.pictures,
        answers_needed=args.predictions is None,
    )  # fmt: skip
    answers = _answers(args)
    from mmkit.evals.vqa import VQA

    evaluator = VQA(
        source=source, answers=answers, generate=args.generate, as_published=args.as_published,
        **evaluation(args),
    )  # fmt: skip
    args.model = answering_stage(args.model, args.allow)
    with make_predictor(args) as predictor:
        count_first_tokens_twice(args, predictor)
        return evaluator.evaluate(predictor).to_json()


def count_first_tokens_twice(args: argparse.Namespace, predictor: Predictor) -> None:
    """Where that was asked for; UserError for a head that chooses without reading tokens."""
    from mmkit.heads.base import Writes

    if args.first_token_twice:
        head = predictor.answerer()
        if not isinstance(head, Writes):
            raise UserError(f"--first-token-twice: is for an answer decoder; this model has a {type(head).__name__}")
        head.first_token_twice = True


def answering_stage(model: str, allow: Sequence[str] = ()) -> str:
    """The model; or, where it answers no questions, the one stage in its folder that does (as a quickstart's)."""
    from mmkit.hub.files import CONFIG

    folder = Path(model)
    if not (folder / CONFIG).is_file() or _answers_questions(folder, allow):
        return model
    found = [path.parent for path in sorted(folder.glob(f"*/{CONFIG}")) if _answers_questions(path.parent, allow)]
    if len(found) != 1:
        return model
    log.info("%s answers no questions; %s, which was fine-tuned from it, does", model, found[0])
    return str(found[0])


def _answers_questions(folder: Path, allow: Sequence[str]) -> bool:
    """By its config alone; False for one that is not of mmkit."""
    from mmkit.config.allowed import HEAD, checked, find
    from mmkit.heads.base import Answers
    from mmkit.hub.files import CONFIG, is_ours, read_json

    own = checked(allow)
    heads = read_json(folder / CONFIG).get("heads") if is_ours(folder) else None
    parts = heads.values() if isinstance(heads, dict) else ()
    try:
        kinds = [find(part["target"] if isinstance(part, dict) else part, HEAD, own) for part in parts]
    except (KeyError, UserError):
        return True  # or nobody knows yet: loading it says what may not be loaded, or is damaged
    return any(isinstance(kind, type) and issubclass(kind, Answers) for kind in kinds)


def _answers(args: argparse.Namespace) -> list[str] | None:
    from mmkit.data.texts.answers.lists import read_answers

    return None if args.answers is None else read_answers(args.answers)
