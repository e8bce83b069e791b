"""Class names for pictures that carry folder names, class names or numbers: who is called what, checked before use."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmkit.data.records import Record, Source
from mmkit.errors import UserError
from mmkit.evals.common import read_lines

log = logging.getLogger(__name__)

Label = int | str


@dataclass(frozen=True)
class Relabelled:
    """A source whose labels are class numbers from 0; ``numbers`` says which number each label of ``source`` is."""

    source: Source
    numbers: Mapping[Label, int]
    label_key: str = "label"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        if self.label_key not in record.targets:
            raise UserError(
                f'{record.key}: no "{self.label_key}"; zero-shot classification needs the class of each picture'
            )
        label = record.targets[self.label_key]
        if label not in self.numbers:
            raise UserError(f"{record.key}: {self.label_key} {label!r} is none of the {len(self.numbers)} classes")
        return replace(record, targets={**record.targets, self.label_key: self.numbers[label]})


def with_classes(source: Source, path: str | Path | None, label_key: str = "label") -> tuple[Source, list[str]]:
    """The source with class numbers as labels, and the class names.

    path: a file of class names, one per line. A line may be ``FOLDER<TAB>name``, which says what the pictures of that
    folder (or with that label) are called. Without tabs the lines are the labels themselves, or names for the sorted
    folders (or for the numbers 0, 1, ...) in their order. Without a file the labels are the names, ``_`` as a space.
    UserError where names and labels do not fit.
    """
    found = _labels(source, label_key)
    if path is None:
        if any(isinstance(label, int) for label in found):
            raise UserError("the records' labels are numbers: give the names of the classes with --classes FILE")
        names = [str(label).replace("_", " ") for label in found]
        return Relabelled(source, _numbers(source, found, range(len(found))), label_key), names
    keys, names = _read(path)
    order = {key: i for i, key in enumerate(keys)}
    if all(str(label) in order for label in found if isinstance(label, str)) and not _all_numbers(found):
        return Relabelled(source, _numbers(source, found, [order[str(label)] for label in found]), label_key), names
    tabs = keys != names
    if _all_numbers(found) and not tabs:
        most = max(int(label) for label in found)
        if most < len(names):
            return Relabelled(source, {i: i for i in range(len(names))}, label_key), names
        raise UserError(
            f"{path}: {len(names)} classes, but a record has the label {most}; one line for each number from 0"
        )
    if len(names) == len(found) and not tabs:
        log.info("%s: names in the order of the labels: %s is %r, ...", path, found[0], names[0])
        return Relabelled(source, _numbers(source, found, range(len(found))), label_key), names
    missing = [str(label) for label in found if str(label) not in order]
    raise UserError(
        f"{path}: {len(names)} classes do not fit the {len(found)} labels of the pictures; no line for "
        f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Write one line LABEL<TAB>name for each"
    )


def _labels(source: Source, key: str) -> list[Label]:
    """The distinct labels, sorted: a source's own ``class_names``, or those of its records."""
    names = getattr(source, "class_names", None)
    if names is not None:
        return list(names)
    found: set[Label] = set()
    for row in range(len(source)):
        record = source[row]
        label = record.targets.get(key)
        if not isinstance(label, int | str):
            raise UserError(f'{record.key}: "{key}" must be a class name or number, not {label!r}')
        found.add(label)
    return sorted(found, key=lambda label: (isinstance(label, str), label))


def _numbers(source: Source, labels: Sequence[Label], numbers: Sequence[int]) -> dict[Label, int]:
    """Label -> class number. The labels of a source with ``class_names`` index those."""
    own = range(len(labels)) if getattr(source, "class_names", None) is not None else labels
    return dict(zip(own, numbers, strict=True))


def _all_numbers(labels: Sequence[Label]) -> bool:
    return all(isinstance(label, int) for label in labels)


def _read(path: str | Path) -> tuple[list[str], list[str]]:
    keys, names = [], []
    lines = read_lines(path, "class names")
    tabs = sum("\t" in line for line in lines)
    if tabs not in (0, len(lines)):
        raise UserError(
            f"{path}: {tabs} of {len(lines)} lines have a tab; write LABEL<TAB>name on all lines, or on none"
        )
    for line in lines:
        key, _, name = line.partition("\t")
        keys.append(key.strip())
        names.append(name.strip() or key.strip())
    twice = {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else set()
    if twice:
        log.warning("%s: classes named twice: %s", path, ", ".join(sorted(twice)))
    return keys, names
