"""What a check says: a value beside what is wanted, and whether a run would suffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "look", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """name: with dots, for programs. said: the value, for people. state: "wrong" = it would break a run."""

    name: str
    said: str
    wanted: str
    state: State
    value: float | str | None = None

    def line(self) -> str:
        """For people."""
        return f"{self.state:<5} {self.name:<22} {self.said}; wanted: {self.wanted}"


Check = Callable[[], list[Finding]]


def at_least(name: str, value: float, unit: str, enough: float, least: float | None = None) -> Finding:
    """A number that should be ``enough``; below ``least`` it would break a run."""
    wrong = least is not None and value < least
    return Finding(
        name=name, value=value, said=f"{_short(value)} {unit}", wanted=f"{_short(enough)} or more",
        state="wrong" if wrong else "ok" if value >= enough else "look",
    )  # fmt: skip


def _short(value: float) -> str:
    return f"{value:,.0f}" if 100 <= value < float("inf") else f"{value:.3g}"


def attempted(name: str, check: Check) -> list[Finding]:
    """What a check finds, or that it failed."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001  # whatever is broken there is what one wants to know
        said = f"failed: {type(error).__name__}: {str(error)[:200]}"
        return [Finding(name=name, said=said, wanted="no error", state="wrong")]
