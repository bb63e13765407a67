"""Stop a training between two steps when the system asks for it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stopped(Exception):  # noqa: N818  # not an error: the system asked for it
    """Raised between two steps after SIGTERM."""


class StopRequest:
    """Whether SIGTERM was received. A cluster sends it some seconds before it ends a job.

    Args:
        outlives_parent: For the processes of several GPUs: the end of the parent counts as a request as well. It
            reaches them as SIGINT (torch has the system send it), and so do all signals after that.

    Attributes:
        asked: Whether it came.
    """

    def __init__(self, *, outlives_parent: bool = False) -> None:
        self.asked = False
        self._process = os.getpid()
        self._parent = os.getppid() if outlives_parent else None

    @contextlib.contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Take SIGTERM as a request while the block runs; only the main thread of a process can."""
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
        if os.getpid() != self._process:  # a loader that was forked from it ends as it always did
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        self.asked = True

    def _ask_if_orphaned(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process or os.getppid() == self._parent:
            signal.default_int_handler(number, frame)
        self.asked = True
