"""Reading the recorded files of the official ALBEF, and seeing to it that all that they hold is tested.

The files lie in tests/oracles; the folder named by MMKIT_ORACLES is read too, so that more cases of the same form are
checked without a change here. A test that is marked with ``for_each`` fails where it leaves unread what it says that
it reads of a file in tests/oracles, and test_oracle.py fails where no test says so of something in them.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

OWN = Path(__file__).parent.parent / "oracles"
FURTHER = [Path(p) for p in [os.environ.get("MMKIT_ORACLES")] if p]


class Recording(Mapping[str, Any]):
    """What a file holds, by name, and which of the names were asked for. To go over the names asks for none."""

    def __init__(self, content: Mapping[str, Any], asked: set[str]) -> None:
        self._content, self._asked = content, asked

    def __getitem__(self, name: str) -> Any:
        value = self._content[name]
        self._asked.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __contains__(self, name: object) -> bool:
        return name in self._content


_asked: dict[Path, set[str]] = {}  # by the test that runs
_claims: dict[Path, set[str]] = {}  # by all tests that were imported


def files(name: str) -> list[Path]:
    """The files of every folder that match a pattern."""
    return [path for folder in (OWN, *FURTHER) for path in sorted(folder.glob(name))]


def cases(wanted: Callable[[set[str]], bool]) -> list[Path]:
    """The files of tensors whose names satisfy ``wanted``."""
    return [path for path in files("*.safetensors") if wanted(names_of(path))]


def word_cases() -> list[Path]:
    """The files of captions, questions and answers with their token ids."""
    return [path for path in files("*tokenizer*.json") if "captions" in json.loads(path.read_text())]


def names_of(path: Path) -> set[str]:
    """Of the tensors of a file, or of all the objects of a JSON file."""
    if path.suffix == ".json":
        found: set[str] = set()
        json.loads(path.read_text(), object_hook=found.update)
        return found
    with safe_open(path, "pt") as file:
        return set(file.keys())


def load(path: Path) -> tuple[dict, Recording]:
    """The metadata and the tensors of a recorded file."""
    asked = _asked.setdefault(path, set())
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["meta"]), Recording(tensors, asked)


def load_words(path: Path) -> Recording:
    """A recorded JSON file; a name counts as asked for whichever of its objects was asked."""
    asked = _asked.setdefault(path, set())
    return json.loads(path.read_text(), object_hook=lambda content: Recording(content, asked))


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {key[len(prefix) :]: tensors[key] for key in tensors if key.startswith(prefix)}


def for_each(paths: Sequence[Path], *patterns: str) -> Callable:
    """A test of each of these files, its argument ``path``, which must read all of the file that fits the patterns."""
    for path in paths:
        _claims.setdefault(path, set()).update(patterns)

    def decorate(test: Callable) -> Callable:
        @functools.wraps(test)
        def checked(path: Path, **fixtures: Any) -> None:
            _asked.pop(path, None)
            test(path=path, **fixtures)
            if path.parent in FURTHER:  # which may hold more than the tests know of
                return
            unread = fitting(names_of(path), patterns) - _asked.get(path, set())
            assert not unread, f"{path.name}: this test reads no {', '.join(sorted(unread))}"

        return pytest.mark.parametrize("path", paths, ids=lambda p: p.stem)(checked)

    return decorate


def unclaimed(path: Path) -> set[str]:
    """What no test that was imported reads of a file."""
    names = names_of(path)
    return names - fitting(names, _claims.get(path, ()))


def fitting(names: set[str], patterns: Sequence[str] | set[str]) -> set[str]:
    """The names that fit one of the patterns."""
    return {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}
