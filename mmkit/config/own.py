"""Code of the user's own in a run: which parts have it, in which files it lies, and how it is found again.

A model's folder keeps the file of each module that it names (``files_of``). Of these nothing is imported because a
folder says so: only a module that ``allow`` names too, and the place that it is then taken from is said.
"""

from __future__ import annotations

import importlib.util
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkit.config.allowed import FOREIGN, is_own
from mmkit.config.load import OF_FILES
from mmkit.config.moved import FORMS

log = logging.getLogger(__name__)


def own_parts(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path, ``module:name``) of what in dumped values is neither mmkit's, its projects', nor PyTorch's."""
    for place, value in leaves(data, path):
        above, _, key = place.rpartition(".")
        is_part = key in FORMS and isinstance(value, str)
        if is_part and value.split(":")[0].split(".")[0] not in (*FOREIGN, "projects"):
            yield above, value


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, as ``--set`` names it, value) of all in dumped values that holds no other."""
    if not isinstance(data, Mapping | list):
        yield path, data
        return
    for key, value in data.items() if isinstance(data, Mapping) else enumerate(data):
        yield from leaves(value, path if key in ("args", "mapping", "tuple") else f"{path}.{key}".lstrip("."))


def modules_of(data: Any) -> list[str]:
    """The modules of the user's own that dumped values name, each once."""
    return list(dict.fromkeys(name.partition(":")[0] for _, name in own_parts(data)))


def files_of(data: Any) -> dict[str, str]:
    """Module -> the file that it was imported from, for the record of a folder."""
    files = {module: getattr(sys.modules.get(module), "__file__", None) for module in modules_of(data)}
    return {module: str(Path(file).resolve()) for module, file in files.items() if file is not None}


def own_files(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a ``config.json``, module -> file of the code that is not mmkit's; empty where it says none."""
    said = ({"own": {}} | dict(config))["own"]
    return said if isinstance(said, Mapping) else {}


def entries(modules: Sequence[str], files: Mapping[str, Any]) -> list[str]:
    """What ``allow`` takes to let these modules in: their names, and the file of a config file that holds a part."""
    return [str(files.get(module, "FILE.py")) if module.startswith(OF_FILES) else module for module in modules]


def flags(modules: Sequence[str], files: Mapping[str, Any]) -> str:
    """The same as options of a command."""
    return " ".join(f"--allow {shlex.quote(entry)}" for entry in entries(modules, files))


def make_findable(files: Mapping[str, Any], allow: Sequence[str], folder: Path) -> None:
    """Let Python look for what ``allow`` names where a model's folder says that it lay, after everywhere else.

    files: as ``files_of`` gave them. A file inside the model's own folder came with it, and is not taken.
    """
    for module, said in files.items():
        top = module.split(".")[0]
        if not is_own(module, allow) or not isinstance(said, str) or module.startswith(OF_FILES) or _is_here(top):
            continue
        file = Path(said)
        above = module.count(".") + (file.name == "__init__.py")
        if not file.is_absolute() or file.resolve().is_relative_to(folder.resolve()):
            continue
        if not file.is_file():
            log.warning("%s: when %s was saved, it lay in %s, and is not there", module, folder, file)
            continue
        log.info("%s: taken from %s, as %s says", top, file, folder)
        sys.path.append(str(file.parents[above]))


def _is_here(top: str) -> bool:
    """Whether Python finds a module, or the current folder has it."""
    here = any((Path.cwd() / name).exists() for name in (f"{top}.py", top))
    return here or top in sys.modules or importlib.util.find_spec(top) is not None


def said_of(experiment: Mapping[str, Any], transform: Mapping[str, Any]) -> list[str]:
    """What is to be known before a run with code of the user's own starts, a line each; none where it has none.

    experiment: as dumped. transform: how its model will read pictures, as dumped.
    """
    arguments = experiment["args"]
    found = [*own_parts(arguments), *own_parts(transform, "transform")]
    files = files_of([experiment, transform])
    if not found:
        return []
    model = modules_of([arguments["model"], arguments["heads"], transform])
    others = [module for module in modules_of(experiment) if module not in model]
    said = [f"code of your own: {', '.join(f'{path} = {name}' for path, name in dict(found).items())}"]
    if model:
        said.append(
            f"every command that loads this model will need {flags(model, files)} (in Python "
            f"allow={entries(model, files)}); the run keeps where it lies"
        )
    if others:
        said.append(f"only `mmkit report` will need {flags(others, files)}; the model loads without")
    if "__main__" in model:
        said.append("what the started program defines itself (__main__) loads in no other: put it into a file")
    return said
