"""What mkdocs asks while it builds the site: the page of the command is written from the command's own parser."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from mmkit.cli.main import make_parser


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page before it is rendered."""
    return f"{markdown}\n{command_page()}" if page.file.src_uri == "command.md" else markdown


def command_page() -> str:
    """A section for each command, with its usage and a table of what it takes."""
    with patch.dict(os.environ, {"COLUMNS": "96"}):
        return "\n".join(line for parser in commands(make_parser()) for line in section(parser))


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands, those of commands within commands too; without what only leads to them."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield parser
    for action in inner:
        for command in action.choices.values():
            yield from commands(command)


def section(parser: argparse.ArgumentParser) -> list[str]:
    """Heading, what it does, usage, and a row for each argument."""
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    rows = [
        f"| {_name(action)} | {_cell(_help(action))} |"
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    said = (parser.description or "").rstrip(".")
    return [
        f"## {parser.prog}", "", f"{said[:1].upper()}{said[1:]}.", "",
        "```text", usage, "```", "", "| argument | meaning |", "|---|---|", *rows, "",
    ]  # fmt: skip


def _name(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    if not action.option_strings:
        return _cell(f"`{value}`")
    return _cell(f"`{action.option_strings[-1]}{'' if action.nargs == 0 else f' {value}'}`")


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": ""}
    return f"{text} (needed)" if action.required and action.option_strings else text


def _cell(text: str) -> str:
    """Text that a cell of a table shows as it is; in code, as it stands there, signs keep their meaning."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if text.startswith("`") else text.replace("<", "&lt;").replace("{}", "`{}`").replace("*", "\\*")
