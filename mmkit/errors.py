"""The error for bad input, shown to people as its message alone, and the end of a run by a signal."""

import signal
from collections.abc import Sequence


class UserError(ValueError):
    """Something the user gave cannot be used. The message names the file, line, key or value, and what to do."""


class Unreadable(UserError):
    """A record that cannot be read, or not now. The loader replaces it and counts it; others show the message."""


def shortened(names: Sequence[str], most: int = 8) -> str:
    """The first names, for a message, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM (``number``) ended a run, after what it had done was saved. ``code``: for the process."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.code = 128 + number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"
