"""Stop a training between two steps at the system's request."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stopped(Exception):  # noqa: N818  # not an error: the system requested it
    """Raised between two steps after SIGTERM."""


class StopRequest:
    """Whether SIGTERM was received. A cluster sends it a few seconds before it ends a job.

    Args:
        outlives_parent: For the processes of several GPUs: the end of the parent also counts as a request. It
            reaches them as SIGINT (requested by torch), and so do all signals after that.

    Attributes:
        asked: Whether it was received.
    """

    def __init__(self, *, outlives_parent: bool = False) -> None:
        self.asked = False
        self._process = os.getpid()
        self._parent = os.getppid() if outlives_parent else None

    @contextlib.contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Treat SIGTERM as a request while the block runs; only possible in the main thread of a process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal.SIGTERM: self._ask}
        if self._parent is not None:
            handlers[signal.SIGINT] = self._ask_if_orphaned
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, *_: Any) -> None:
        if os.getpid() != self._process:  # a forked loader process ends as usual
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        self.asked = True

    def _ask_if_orphaned(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process or os.getppid() == self._parent:
            signal.default_int_handler(number, frame)
        self.asked = True
