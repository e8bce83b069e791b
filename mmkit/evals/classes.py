"""Class names for pictures that carry folder names, class names or numbers: who is called what, checked before use."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmkit.data.records import Record, Source
from mmkit.errors import UserError
from mmkit.evals.class_sets import CLASS_SETS, ClassSet, built_in_classes
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
        return replace(record, targets={**record.targets, self.label_key: self._number(label, record.key)})

    def target(self, key: str) -> Iterator[Any]:
        """One target of every record, without opening pictures where the source knows how."""
        for row, value in enumerate(targets_of(self.source, key)):
            yield self._number(value, f"record {row}") if key == self.label_key else value

    def _number(self, label: Label, key: str) -> int:
        if label not in self.numbers:
            raise UserError(f"{key}: {self.label_key} {label!r} is none of the {len(self.numbers)} classes")
        return self.numbers[label]


def targets_of(source: Source, key: str) -> Iterator[Any]:
    """One target of every record, None where it has none; by the source's own ``target(key)`` if it has one."""
    quick = getattr(source, "target", None)
    if callable(quick):
        yield from quick(key)
        return
    for row in range(len(source)):
        yield source[row].targets.get(key)


def with_classes(source: Source, classes: str | Path | None, label_key: str = "label") -> tuple[Source, list[str]]:
    """The source with class numbers as labels, and the class names.

    classes: a built-in set (``imagenet``, ``cifar10``, ``cifar100``, ``openmoji:zh``), or a file of class names, one
    per line. A line may be ``FOLDER<TAB>name``, which says what the pictures of that folder (or with that label) are
    called. Without tabs the lines are the labels themselves; or, where none of them is, names for the sorted folders
    (or for the numbers 0, 1, ...) in their order. Without classes the labels are the names, ``_`` as a space.
    UserError, which names what differs, where names and labels do not fit.
    """
    found = _labels(source, label_key)
    if classes is None:
        if any(isinstance(label, int) for label in found) or all(str(label).isdecimal() for label in found):
            some = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
            raise UserError(
                f"the labels are numbers ({some}), which say nothing of a picture: give "
                "the names of the classes with --classes FILE, one line for each number from 0"
            )
        names = [str(label).replace("_", " ") for label in found]
        return Relabelled(source, _numbers(source, found, range(len(found))), label_key), names
    given = read_classes(classes)
    chosen = _by_key(found, given) or _by_number(found, given, classes) or _by_order(found, given, classes)
    if chosen is None:
        raise UserError(_difference(found, given, classes))
    unused = len(given.names) - len(set(chosen))
    if unused:
        log.info("%s: %d classes, %d of them without pictures", classes, len(given.names), unused)
    return Relabelled(source, _numbers(source, found, chosen), label_key), list(given.names)


def read_classes(classes: str | Path) -> ClassSet:
    """A built-in set, or the names in a file; UserError for what is neither."""
    built_in = built_in_classes(str(classes))
    if built_in is not None:
        return built_in
    if not Path(classes).is_file():
        raise UserError(f"{classes}: cannot read the class names; neither a file nor one of {', '.join(CLASS_SETS)}")
    keys, names = _read(classes)
    return ClassSet(tuple(names), (tuple(keys),), ordered=keys == names)


def _by_key(found: Sequence[Label], given: ClassSet) -> list[int] | None:
    """Every label is a key, letter for letter or but for case and ``_``; of equal keys the first is taken."""
    if not all(isinstance(label, str) for label in found):
        return None
    for keys in given.keys:
        for tidy in (str, _tidy):
            order: dict[str, int] = {}
            for number, key in enumerate(keys):
                order.setdefault(tidy(key), number)
            labels = [tidy(str(label)) for label in found]
            if len(set(labels)) == len(labels) and all(label in order for label in labels):
                return [order[label] for label in labels]
    return None


def _by_number(found: Sequence[Label], given: ClassSet, where: str | Path) -> list[int] | None:
    """Every label is a number, written as one or not: "10" stands behind "9", not behind "1"."""
    if not given.ordered or not all(isinstance(label, int) or label.isdecimal() for label in found):
        return None
    numbers = [int(label) for label in found]
    if max(numbers) >= len(given.names):
        raise UserError(
            f"{where}: {len(given.names)} classes, but a record has the label {max(numbers)}; "
            "one line for each number from 0"
        )
    return numbers


def _by_order(found: Sequence[Label], given: ClassSet, where: str | Path) -> list[int] | None:
    """As many labels as names, and none of them is a key: the names are in the order of the labels."""
    known = {_tidy(key) for keys in given.keys for key in keys}
    if not given.ordered or len(given.names) != len(found) or any(_tidy(str(label)) in known for label in found):
        return None
    log.info("%s: names in the order of the labels: %s is %r, ...", where, found[0], given.names[0])
    return list(range(len(found)))


def _difference(found: Sequence[Label], given: ClassSet, where: str | Path) -> str:
    """What the labels have that the classes lack, and the other way round, by the keys that fit best."""
    keys = max(given.keys, key=lambda keys: len({_tidy(key) for key in keys} & {_tidy(str(x)) for x in found}))
    known, present = {_tidy(key) for key in keys}, {_tidy(str(label)) for label in found}
    missing = [str(label) for label in found if _tidy(str(label)) not in known]
    spare = [key for key in keys if _tidy(key) not in present]
    near = {label: get_close_matches(label, spare, n=1) for label in missing[:5]}
    hints = [f"{label} (perhaps {close[0]}?)" if close else label for label, close in near.items()]
    parts = [f"{where}: {len(given.names)} classes do not fit the {len(found)} labels of the pictures"]
    if missing:
        parts.append(f"no line for {', '.join(hints)}{', ...' if len(missing) > 5 else ''}")
    if spare:
        parts.append(f"no pictures for {', '.join(spare[:5])}{', ...' if len(spare) > 5 else ''}")
    return f"{'; '.join(parts)}. Write one line LABEL<TAB>name for each"


def _tidy(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())


def _labels(source: Source, key: str) -> list[Label]:
    """The distinct labels, sorted: a source's own ``class_names``, or those of its records."""
    names = getattr(source, "class_names", None)
    if names is not None:
        return list(names)
    found: set[Label] = set()
    for row, label in enumerate(targets_of(source, key)):
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise UserError(
                f'{source[row].key}: "{key}" must be a class name or number, not {json.dumps(label, default=str)}'
            )
        found.add(label)
    return sorted(found, key=lambda label: (isinstance(label, str), label))


def _numbers(source: Source, labels: Sequence[Label], numbers: Sequence[int]) -> dict[Label, int]:
    """Label -> class number. The labels of a source with ``class_names`` index those."""
    own = range(len(labels)) if getattr(source, "class_names", None) is not None else labels
    return dict(zip(own, numbers, strict=True))


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
