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
    """Whether SIGTERM came. A cluster sends it some seconds before it ends a job."""

    def __init__(self) -> None:
        self._asked = False
        self._process = os.getpid()

    @contextlib.contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Take SIGTERM as a request while the block runs; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, *_: Any) -> None:
        if os.getpid() != self._process:  # a loader that was forked from it ends as it always did
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        self._asked = True

    def check(self) -> None:
        """Raise :class:`Stopped` if SIGTERM came."""
        if self._asked:
            raise Stopped
