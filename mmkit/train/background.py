"""One piece of work in a thread beside the training: nobody waits for it before ``join``, and no error is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Does one thing at a time. A process that ends does not wait for it: ``join`` first."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; what was begun before must have been joined."""
        assert self._thread is None

        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  # whatever it is: ``join`` raises it
                self._error = error

        self._thread = threading.Thread(target=run, name="mmkit-save", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether it has ended by an error. Waits for nothing."""
        return self._error is not None

    def join(self) -> None:
        """Wait for its end, and raise what it met; at once where nothing was begun."""
        if self._thread is None:
            return
        self._thread.join()
        error, self._error, self._thread = self._error, None, None
        if error is not None:
            raise error
