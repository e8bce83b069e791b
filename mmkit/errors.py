"""The error for bad input, shown to people as its message alone, and the end of a run by a signal."""

import signal


class UserError(ValueError):
    """Something the user gave cannot be used. The message names the file, line, key or value, and what to do."""


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM (``number``) ended a run, after what it had done was saved. ``code``: for the process."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.code = 128 + number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"
