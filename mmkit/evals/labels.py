"""Class names for pictures that carry folder names, class names or numbers: who is called what, checked before use."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from operator import itemgetter
from pathlib import Path
from typing import Any

from mmkit.data.labels import Label, is_numeric, label_in, own_names, read_as, same_names, some, tidy, whole
from mmkit.data.order import Mixed, Order, order_of
from mmkit.data.records import Record, Source, targets_of
from mmkit.data.sources.classes import labels_in
from mmkit.errors import UserError
from mmkit.evals.prompts import CLASS_SETS, ClassSet, built_in_classes, read_lines
from mmkit.ranks import rank

log = logging.getLogger(__name__)

Classes = str | Path | Sequence[str] | None
"""What classes are called: a built-in set or a file by name, a list of names, or None for the labels' own."""
HEADERS = frozenset((
    "class", "classes", "class_id", "class_name", "classname", "label", "label_name", "id", "index", "wnid", "synset",
    "folder", "name", "names", "category",
))  # fmt: skip
"""What a table's header calls labels and names; as the first line of a list of classes it is none of them."""
SHOWN = 20
"""So many pairs of label and name are told in full; of more, the first and the last."""


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
        number = self._number(record.targets.get(self.label_key), record.key)
        return replace(record, targets={**record.targets, self.label_key: number})

    def order(self, **given: Any) -> Order | Mixed:
        """That of the source."""
        return order_of(self.source, **given)

    def target(self, key: str) -> Iterator[Any]:
        """One target of every record, without opening pictures where the source knows how."""
        for row, value in enumerate(targets_of(self.source, key)):
            yield self._number(value, row) if key == self.label_key else value

    def _number(self, value: Any, where: str | int) -> int:
        """where: the record's key, or its row."""
        try:
            label = label_in(value, "", self.label_key)
        except UserError as error:
            raise UserError(f"{self._key(where)}{error}") from error
        if label not in self.numbers:
            hint = "; it often stands for a class that is not known" if whole(label) == -1 else ""
            known = len(set(self.numbers.values()))
            raise UserError(f"{self._key(where)}: {self.label_key} {label!r} is none of the {known} classes{hint}")
        return self.numbers[label]

    def _key(self, where: str | int) -> str:
        return where if isinstance(where, str) else self.source[where].key


def with_classes(
    source: Source, classes: Classes, label_key: str = "label", by_name: bool = False
) -> tuple[Relabelled, list[str]]:
    """The source with class numbers as labels, and the class names.

    classes: a built-in set (``imagenet``, ``cifar10``, ``cifar100``, ``openmoji:zh``), a list of names, or a file of
    them, one per line. A line may be ``LABEL<TAB>name``, which says what the pictures with that label (or in that
    folder) are called. Without tabs the names are the labels themselves; or, where none of them is, they stand in the
    order of the labels: those that are numbers (3, "3", 3.0) count from 0, others are sorted as people count
    ("class_2" before "class_10"), and what was paired is said. Without classes the labels are the names, ``_`` as a
    space. by_name: every label must be one of the names. UserError, which names what differs, where names and labels do
    not fit.
    """
    found = labels_in(source, label_key)
    if classes is None:
        if any(isinstance(label, int) for label in found) or all(map(is_numeric, found)):
            raise UserError(
                f"the labels are numbers ({some(found, 3)}), which say nothing of a picture: give "
                "the names of the classes (--classes FILE, class_names=), one for each number from 0"
            )
        names = [read_as(str(label)) for label in found]
        if all(re.match(r"\d+[ ._-]+[^\W\d]", name) for name in names) and rank() == 0:
            log.warning(
                "the labels begin with numbers (%r), which stand in the prompts; give names by --classes", names[0]
            )
        _tell_same(names, "the labels")
        return Relabelled(source, _numbers(source, found, range(len(found))), label_key), names
    given = read_classes(classes)
    where = "the class names" if isinstance(classes, Sequence) and not isinstance(classes, str) else str(classes)
    chosen = _by_key(found, given)
    if chosen is None and not by_name:
        chosen = _by_number(found, given, where) or _by_order(found, given, where)
    if chosen is None:
        advice = (
            "The labels must be names of the model's classes" if by_name else "Write one line LABEL<TAB>name for each"
        )
        raise UserError(f"{_difference(found, given, where)}. {advice}")
    _tell_same(given.names, where)
    unused = len(given.names) - len(set(chosen))
    if unused and rank() == 0:
        log.info("%s: %d classes, %d of them without pictures", where, len(given.names), unused)
    return Relabelled(source, _numbers(source, found, chosen), label_key), list(given.names)


def unlabelled(source: Source, label_key: str = "label") -> bool:
    """Whether no record has a label (or all have -1, as ``datasets`` has it). Reads up to the first one that has."""
    return all(value is None or value == -1 for value in targets_of(source, label_key))


def read_classes(classes: str | Path | Sequence[str]) -> ClassSet:
    """A built-in set, the names in a file, or the names themselves; UserError for what is neither."""
    if not isinstance(classes, str | Path):
        names = list(classes)
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            raise UserError(f"class names: {some(names) or 'none'}; give a list of texts, one for each class")
        return ClassSet(tuple(names), (tuple(names),))
    built_in = built_in_classes(str(classes))
    if built_in is not None:
        return built_in
    if not os.path.isfile(classes):
        raise UserError(f"{classes}: cannot read the class names; neither a file nor one of {', '.join(CLASS_SETS)}")
    keys, names = _read(classes)
    return ClassSet(tuple(names), (tuple(keys),), ordered=keys == names)


def label_test(source: Source, classes: str | Path | Sequence[str]) -> Callable[[Label], str | None]:
    """A function that says what is wrong with a label of this source among these classes; None for one that fits.

    Where names and labels fit as a whole (see ``with_classes``) all do. UserError where the classes cannot be read.
    """
    given, own = read_classes(classes), own_names(source)
    where = "the class names" if isinstance(classes, Sequence) and not isinstance(classes, str) else str(classes)
    try:
        with_classes(source, classes)
        return lambda label: None
    except UserError:
        known = {_comparable(key) for keys in given.keys for key in keys}

    def wrong(label: Label) -> str | None:
        shown = own[label] if own is not None and isinstance(label, int) and 0 <= label < len(own) else label
        number = whole(shown)
        fits = given.ordered and number is not None and 0 <= number < len(given.names)
        if fits or _comparable(shown) in known:
            return None
        return f"label {shown!r} is none of the {len(given.names)} classes of {where}"

    return wrong


def _by_key(found: Sequence[Label], given: ClassSet) -> list[int] | None:
    """Every label is a key, letter for letter, or as names and numbers are compared; of equal keys the first."""
    for keys in given.keys:
        for form in (str, _comparable):
            order: dict[str, int] = {}
            for number, key in enumerate(keys):
                order.setdefault(form(key), number)
            labels = [form(label) for label in found]
            if len(set(labels)) == len(labels) and all(label in order for label in labels):
                return [order[label] for label in labels]
    return None


def _by_number(found: Sequence[Label], given: ClassSet, where: str) -> list[int] | None:
    """Every label is a number, written as one or not: "10" stands behind "9", not behind "1"."""
    numbers = [number for number in map(whole, found) if number is not None]
    if not given.ordered or len(numbers) < len(found):
        return None
    if min(numbers) < 0:
        raise UserError(
            f"{where}: a record has the label {min(numbers)}, which often stands for a class that is not known; "
            "classes are counted from 0. Take these records out"
        )
    if max(numbers) >= len(given.names):
        raise UserError(
            f"{where}: {len(given.names)} classes, but a record has the label {max(numbers)}; "
            f"one line for each number from 0 (the labels run from {min(numbers)} to {max(numbers)})"
        )
    written = {str(label).partition(".")[0] for label in found}
    if len(written) > len(set(numbers)):
        raise UserError(f"{where}: two labels are one number, as 1 and 01 are: {some(found, SHOWN)}; write it one way")
    _tell_pairs(found, given.names, numbers, where, "labels are numbers")
    return numbers


def _by_order(found: Sequence[Label], given: ClassSet, where: str) -> list[int] | None:
    """As many labels as names, and none of them is a key: the names are in the order of the labels."""
    known = {_comparable(key) for keys in given.keys for key in keys}
    if not given.ordered or len(given.names) != len(found) or any(_comparable(label) in known for label in found):
        return None
    numeric = [label for label in found if is_numeric(label)]
    if numeric:
        others = [label for label in found if not is_numeric(label)]
        what = f"numbers ({some(numeric, 3)}) beside texts ({some(others, 3)})" if others else some(numeric)
        raise UserError(f"{where}: the labels are {what}: not all are whole numbers. Write LABEL<TAB>name for each")
    order = list(range(len(found)))
    _tell_pairs(found, given.names, order, where, "names in the order of the labels")
    return order


def _tell_pairs(found: Sequence[Label], names: Sequence[str], numbers: Sequence[int], where: str, how: str) -> None:
    """Which label got which name: all of few, the first and last of many.

    UserError where every name begins with its own label ("0,cat", "n01440764 tench"), which no prompt should.
    """
    order = sorted(zip(numbers, found, strict=True), key=itemgetter(0))
    pairs = [(str(label), names[number]) for number, label in order]
    if all(re.match(rf"{re.escape(label)}[\s,;:.|=)]", name) for label, name in pairs):
        raise UserError(
            f"{where}: each name begins with its label ({pairs[0][1]!r}), which would stand in the prompts; write "
            "LABEL<TAB>name for each"
        )
    told = [f"{label} = {name}" for label, name in pairs]
    shown = told if len(told) <= SHOWN else [*told[: SHOWN - 2], "...", *told[-2:]]
    if rank() == 0:
        log.info("%s: %s: %s", where, how, ", ".join(shown))


def _tell_same(names: Sequence[str], where: str) -> None:
    groups = same_names(names)
    if groups and rank() == 0:
        log.warning(
            "%s: %s: classes with one name cannot be told apart by it, and share what is found; give each its own",
            where, "; ".join(" and ".join(map(repr, group)) for group in groups[:5]) + ("; ..." if groups[5:] else ""),
        )  # fmt: skip


def _difference(found: Sequence[Label], given: ClassSet, where: str | Path) -> str:
    """What the labels have that the classes lack, and the other way round, by the keys that fit best."""
    present = {_comparable(label) for label in found}
    keys = max(given.keys, key=lambda keys: len({_comparable(key) for key in keys} & present))
    known = {_comparable(key) for key in keys}
    missing = [str(label) for label in found if _comparable(label) not in known]
    spare = [key for key in keys if _comparable(key) not in present]
    near = {label: get_close_matches(label, spare, n=1) for label in missing[:5]}
    hints = [f"{label} (perhaps {close[0]}?)" if close else label for label, close in near.items()]
    parts = [f"{where}: {len(given.names)} classes do not fit the {len(found)} labels of the pictures"]
    if missing:
        parts.append(f"no line for {', '.join(hints)}{', ...' if len(missing) > 5 else ''}")
    parts += [f"{' and '.join(map(repr, group))} are one name" for group in same_names(map(str, found))[:3]]
    if spare:
        parts.append(f"no pictures for {', '.join(spare[:5])}{', ...' if len(spare) > 5 else ''}")
    return "; ".join(parts)


def _comparable(label: Label) -> str:
    """The form in which labels and keys are compared."""
    number = whole(label)
    return tidy(str(label)) if number is None else str(number)


def _numbers(source: Source, labels: Sequence[Label], numbers: Sequence[int]) -> dict[Label, int]:
    """Label -> class number. The labels of a source with ``class_names`` are these, or index them."""
    out: dict[Label, int] = {}
    if own_names(source) is not None:
        out |= dict(zip(range(len(labels)), numbers, strict=True))
    return out | dict(zip(labels, numbers, strict=True))


def _read(path: str | Path) -> tuple[list[str], list[str]]:
    keys, names, seen = [], [], set[str]()
    lines = read_lines(path, "class names")
    tabs = sum("\t" in line for line in lines)
    if tabs not in (0, len(lines)):
        raise UserError(
            f"{path}: {tabs} of {len(lines)} lines have a tab; write LABEL<TAB>name on all lines, or on none"
        )
    if {cell.strip().casefold() for cell in lines[0].split("\t")} <= HEADERS and len(lines) > 1:
        raise UserError(
            f"{path}: the first line, {lines[0]!r}, seems to be a header, which would be a class; remove it"
        )
    for line in lines:
        key, _, name = line.partition("\t")
        if "\t" in name:
            raise UserError(f"{path}: {line.count(chr(9))} tabs in {line!r}; write LABEL<TAB>name")
        if tabs and key.strip() in seen:
            raise UserError(f"{path}: the label {key.strip()!r} stands in two lines; give each label one name")
        seen.add(key.strip())
        keys.append(key.strip())
        names.append(name.strip() or key.strip())
    return keys, names
