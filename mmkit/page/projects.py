"""Tabs that projects add: ``tab()`` in the ``page.py`` of a project whose model or head is on the page."""

from __future__ import annotations

from collections.abc import Sequence

from mmkit.config.projects import clone, project_module
from mmkit.errors import UserError
from mmkit.inference.predictor import Predictor
from mmkit.page.parts import Tab


def tabs_of(models: Sequence[Predictor]) -> list[Tab]:
    """One of each project that a model or head is of, where it has such a file; in the order of the models."""
    root, found = clone(), dict[str, Tab]()
    for model in models:
        for part in (model.model, *model.heads.values()):
            steps = type(part).__module__.split(".")
            name = ".".join(steps[:2])
            if steps[0] != "projects" or name in found or root is None:
                continue
            if (root / name.replace(".", "/") / "page.py").is_file():
                found[name] = _tab_in(name)
    return list(found.values())


def _tab_in(project: str) -> Tab:
    make = getattr(project_module(f"{project}.page"), "tab", None)
    made = make() if callable(make) else None
    if not isinstance(made, Tab):
        raise UserError(f"{project.replace('.', '/')}/page.py: has no function tab() that gives a mmkit.page.parts.Tab")
    return made
