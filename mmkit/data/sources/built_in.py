"""Data that mmkit draws or brings itself, by their short names: openmoji, its questions and expressions, easy-VQA."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from mmkit.data.records import Source
from mmkit.errors import UserError

BUILT_IN = (
    "openmoji-questions", "openmoji-pairs", "openmoji-hypotheses", "openmoji-crowded", "openmoji-expressions",
    "openmoji-moving", "openmoji-moving-questions",
    "easy-vqa",
)  # fmt: skip
BOXED = ("openmoji-crowded", "openmoji-expressions")
"""Those with boxes."""
N = 2000  # records of a generated source


def built_in(name: str, n: int = N) -> Source | None:
    """The source that a name such as ``openmoji-questions:test`` stands for, or None; UserError for a wrong split."""
    kind, _, split = name.partition(":")
    if not is_built_in(name):
        return None
    split = split or "train"
    if kind == "easy-vqa":
        from mmkit.data.sources.easy_vqa import EasyVQA

        return EasyVQA(split=split)  # type: ignore[arg-type]  # checked there
    if kind == "openmoji-crowded":
        from mmkit.data.openmoji.crowded import Crowded

        return Crowded(split=split, n=n, size=128)  # type: ignore[arg-type]  # checked there
    from mmkit.data.openmoji.expressions import Expressions
    from mmkit.data.openmoji.hypotheses import Hypotheses
    from mmkit.data.openmoji.moving import TYPES, Moving, MovingQuestions
    from mmkit.data.openmoji.pairs import Pairs
    from mmkit.data.openmoji.questions import Questions

    makers: dict[str, Callable[..., Source]] = {
        "questions": Questions, "pairs": Pairs, "hypotheses": Hypotheses, "expressions": Expressions,
        "moving": Moving, "moving-questions": partial(MovingQuestions, types=TYPES),
    }  # fmt: skip
    return makers[kind.removeprefix("openmoji-")](split=split, n=n, plain=True)


def scenes_of(name: str, wants: Collection[str]) -> Source:
    """``openmoji[:LANGUAGE]``: pictures of one emoji each where labels are wanted, scenes for captions and boxes, and
    scenes to train on where nothing is.
    """
    from mmkit.data.openmoji.scenes import Scenes, Singles

    language = name.partition(":")[2] or "en"
    if "label" in wants:
        return Singles(language=language, plain=True)
    return Scenes(split="test", n=500, language=language, plain=True) if wants else Scenes(n=N, language=language)


def split_of(name: str) -> Source:
    """Any built-in name with :SPLIT, for ``mmkit data import``."""
    source = built_in(name)
    if source is not None:
        return source
    kind, _, split = name.partition(":")
    if kind != "openmoji":
        raise UserError(f"{name}: not built in; there are openmoji, {', '.join(BUILT_IN)}, each also with :SPLIT")
    from mmkit.data.openmoji.scenes import Scenes

    return Scenes(split=split or "train", n=N, plain=True)  # type: ignore[arg-type]  # checked there


def own_classes(spec: str) -> str | None:
    """The built-in class set, by name, that belongs to what ``--data`` names; None where it brings its own labels."""
    return spec if is_openmoji(spec) else None


def is_built_in(name: str) -> bool:
    """Whether a name is one of ``BUILT_IN``, and not that of a file."""
    return name.partition(":")[0] in BUILT_IN and not Path(name).exists()


def is_openmoji(name: str) -> bool:
    """Whether a name is openmoji[:LANGUAGE], and not that of a file."""
    return name.partition(":")[0] == "openmoji" and not Path(name).exists()
