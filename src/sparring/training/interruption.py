"""Being asked to stop: Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether a run was asked to stop, at its next batch, after saving."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Let a first Ctrl-C or SIGTERM ask for a stop, and a second one stop at once."""
        if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
